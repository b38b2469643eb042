"""What the `enlist` field says of each expert."""

from __future__ import annotations

import pytest

from router_service.http.expert_reports import expert_reports
from router_service.types import (
    NOT_NEEDED,
    Answer,
    AnswerKind,
    Completion,
    CompletionError,
    Recruit,
    RouteDecision,
    ToolCall,
    Usage,
)


def said(expert_id, extracted=None, *, sample=0, text="", calls=(), code=None, latency_s=0.0, cost_usd=0.5):
    return Completion(
        query_id="q",
        expert_id=expert_id,
        sample=sample,
        text=text,
        extracted=extracted,
        tool_calls=calls,
        usage=Usage(completions=1, prompt_tokens=10, completion_tokens=2, cost_usd=cost_usd),
        latency_s=latency_s,
        error=None if code is None else CompletionError(code=code, message="why"),
    )


def reports(completions, answer, kind=AnswerKind.NUMBER, recruits=()):
    decision = RouteDecision(query_id="q", recruits=recruits, recruiter="fixed")
    return {entry["id"]: entry for entry in expert_reports(decision, completions, answer=answer, kind=kind)}


def holding(entry):
    return [completion["holds_answer"] for completion in entry["completions"]]


ANSWER = Answer(text="It is 1/2", extracted="1/2", supporters=("ann", "ben"), agreement=0.5)


def test_who_holds_the_answer_is_said_of_experts_and_of_each_sample():
    found = reports(
        [
            said("ann", "0.5", sample=0),
            said("ann", "7", sample=1),
            said("ben", "the half of one"),
            said("cyd", "3"),
            said("dan", code="expert_timeout"),
        ],
        ANSWER,
    )
    assert holding(found["ann"]) == [True, False]
    assert holding(found["ben"]) == [True], "the aggregator counted it, in whatever words"
    assert holding(found["cyd"]) == [False]
    assert holding(found["dan"]) == [None]
    assert [entry["holds_answer"] for entry in found.values()] == [True, True, False, False]


def test_nobody_holds_an_answer_that_was_written_from_all():
    written = Answer(text="new", supporters=("ann", "ben"), agreement=0.0)
    found = reports([said("ann", text="new"), said("ben", text="old")], written, AnswerKind.FREE)
    assert [entry["holds_answer"] for entry in found.values()] == [False, False]


def test_tool_calls_are_held_whatever_their_ids():
    rome = ToolCall(id="1", name="weather", arguments='{"at": "Rome"}')
    oslo = ToolCall(id="2", name="weather", arguments='{"at": "Oslo"}')
    again = ToolCall(id="3", name="weather", arguments='{"at":"Rome"}')
    answer = Answer(text="", tool_calls=(rome,), supporters=("ann",), agreement=0.5)
    found = reports([said("ann", calls=(oslo,)), said("ann", calls=(again,), sample=1)], answer, AnswerKind.FREE)
    assert holding(found["ann"]) == [False, True]


def test_without_an_answer_nobody_is_said_to_hold_it():
    [entry] = reports([said("ann", "1")], None).values()
    assert (entry["holds_answer"], holding(entry)) == (None, [None])


def test_who_was_stopped_early_has_not_failed():
    found = reports([said("ann", "1"), said("ben", code=NOT_NEEDED), said("cyd", code="expert_refused")], ANSWER)
    assert [e["completions"][0]["status"] for e in found.values()] == ["finished", "not_needed", "failed"]
    assert found["ben"]["completions"][0]["error"] == {"code": NOT_NEEDED, "message": "why"}


def test_an_experts_usage_is_all_its_samples_and_its_latency_the_slowest():
    found = reports([said("ann", "1", latency_s=0.25), said("ann", "1", sample=1, latency_s=0.5)], ANSWER)
    assert found["ann"]["usage"] == {
        "completions": 2,
        "prompt_tokens": 20,
        "completion_tokens": 4,
        "cost_usd": pytest.approx(1.0),
    }
    assert found["ann"]["latency_s"] == 0.5
    assert reports([said("ann", cost_usd=None)], ANSWER)["ann"]["usage"]["cost_usd"] is None


def test_recruits_come_first_in_their_order_also_those_who_said_nothing():
    recruits = (Recruit(expert_id="cyd", p_correct=0.5, samples=2), Recruit(expert_id="ann"))
    found = reports([said("ann", "1"), said("eve", "1")], ANSWER, recruits=recruits)
    assert list(found) == ["cyd", "ann", "eve"]
    assert (found["cyd"]["samples"], found["cyd"]["completions"], found["cyd"]["latency_s"]) == (2, [], None)
    assert (found["eve"]["samples"], found["eve"]["p_correct"]) == (1, None)
