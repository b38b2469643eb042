"""The decision log: what is written is read back, whatever was decided; anything else is refused by line."""

from __future__ import annotations

import json
import math
import resource
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.decision_log import DecisionLog, DecisionRecord, LoggingEngine, read_decisions, record_line
from router_service.errors import ConfigError, StoreUnavailable
from router_service.types import (
    AnswerKind,
    Budget,
    DecisionMade,
    Elimination,
    ImagePart,
    Message,
    Query,
    Recruit,
    RouteControls,
    RouteDecision,
    Sampling,
    SkillAnnotation,
    TaskFormat,
    TextPart,
    ToolCall,
    Usage,
    user_query,
)
from tests.router_service.parts import FakeBackend, engine_of

FULL = DecisionRecord(
    time="2026-01-02T03:04:05.678+00:00",
    query=Query(
        id="q1",
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content=(TextPart(text="What is this?"), ImagePart(url="data:image/png;base64,AA"))),
            Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="look", arguments="{}"),)),
        ),
        task_format=TaskFormat(kind=AnswerKind.CHOICE, options=("a", "b")),
        sampling=Sampling(temperature=0.5, max_tokens=7),
        budget=Budget(max_cost_usd=0.5),
        controls=RouteControls(recruiter="symbolic", k=3, experts_denied=("x",)),
        tools=('{"name": "look"}',),
        seed=5,
        metadata={"skills": '["optics"]'},
    ),
    annotation=SkillAnnotation(
        query_id="q1", skills={"optics": 1.0}, category="physics", novelty=0.25, annotator="fake", nearest=(("f", 0.5),)
    ),
    decision=RouteDecision(
        query_id="q1",
        recruits=(Recruit(expert_id="a", score=2.0, p_correct=0.7, samples=2),),
        recruiter="symbolic",
        aggregator="weighted",
        eliminated=(Elimination(expert_id="b", reason="too dear", code="cost", cost_usd=0.75),),
        scores={"a": 2.0, "c": -1.0},
        is_fallback=True,
        fallback_reason="nothing known",
        estimate=Usage(completions=2, cost_usd=None),
        seed=5,
    ),
    artefact="abc",
    pool="tiny",
)


def written(path, *lines: str):
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_a_full_record_is_read_back_as_it_was(tmp_path) -> None:
    line = record_line(FULL)
    assert line.count("\n") == 1
    assert json.loads(line)["format_version"] == 1
    assert read_decisions(written(tmp_path / "log", line, line)) == [FULL, FULL]


@given(
    text=st.text(st.characters(codec=None), min_size=1),
    skills=st.dictionaries(st.text(min_size=1), st.floats(0, 1)),
    seed=st.integers(0, 2**62),
    p=st.none() | st.floats(0.01, 0.99),
)
def test_any_text_and_number_survives(tmp_path_factory, text, skills, seed, p) -> None:
    query = user_query("q", text, seed=seed)
    made = RouteDecision(query_id="q", recruits=(Recruit(expert_id="a", p_correct=p),), recruiter="fixed", seed=seed)
    annotation = SkillAnnotation(query_id="q", skills=skills)
    record = DecisionRecord(time="t", query=query, annotation=annotation, decision=made)
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(record_line(record).encode())
    assert read_decisions(path) == [record]


def test_embeddings_stay_out_and_scores_that_say_nothing_are_null(tmp_path) -> None:
    annotation = SkillAnnotation(query_id="q", embedding=(0.6, 0.8))
    decision = RouteDecision(
        query_id="q",
        recruits=(Recruit(expert_id="a", score=math.nan),),
        recruiter="fixed",
        scores={"a": math.nan, "b": -math.inf, "c": 0.5},
    )
    line = record_line(DecisionRecord(time="t", query=user_query("q", "?"), annotation=annotation, decision=decision))
    content = json.loads(line)
    assert "embedding" not in content["annotation"]
    assert content["decision"]["scores"] == {"a": None, "b": None, "c": 0.5}
    [read] = read_decisions(written(tmp_path / "log", line))
    assert math.isnan(read.decision.scores["a"]) and math.isnan(read.decision.recruits[0].score)
    assert read.decision.scores["c"] == 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "line 2: decision format 2, and this version reads 1"),
        ({"quary": {}}, "line 2: quary: unknown key; did you mean 'query'"),
        ({"query": {"id": "q", "messages": [], "contrls": {}}}, "query.contrls: unknown key; did you mean 'controls'"),
        ({"query": {"id": "q", "messages": [{"role": "usr", "content": "?"}]}}, "query.messages.0.role"),
        ({"query": {"id": "q", "messages": [], "controls": {"k": 999}}}, "k is 999"),
        ({"decision": {"query_id": "q", "recruiter": "r"}}, "decision.recruits: Field required"),
        ({"decision": {"query_id": "q", "recruiter": "r", "recruits": [{"expert": "a"}]}}, "decision.recruits.0"),
    ],
)
def test_what_is_no_decision_is_named_by_line(tmp_path, change, said) -> None:
    wrong = json.dumps({**json.loads(record_line(FULL)), **change}) + "\n"
    with pytest.raises(ConfigError) as refused:
        read_decisions(written(tmp_path / "log", record_line(FULL), wrong))
    assert said in refused.value.message
    assert "is no decision log; 1 line(s)" in refused.value.message


def test_a_torn_last_line_is_left_out_and_a_torn_one_between_is_not(tmp_path) -> None:
    line = record_line(FULL)
    assert read_decisions(written(tmp_path / "log", line, line[:40])) == [FULL]
    with pytest.raises(ConfigError, match="line 2: not JSON"):
        read_decisions(written(tmp_path / "log", line, line[:40] + "\n", line))
    with pytest.raises(ConfigError, match="no such file"):
        read_decisions(tmp_path / "gone")


def test_a_log_is_gone_on_with_after_a_kill(tmp_path) -> None:
    line = record_line(FULL)
    path = written(tmp_path / "log", line, line[:60])
    made = DecisionMade(query_id="q1", annotation=FULL.annotation, decision=FULL.decision)
    with DecisionLog(path, artefact="abc", pool="tiny") as log:
        log.write(FULL.query, made)
    first, second = read_decisions(path)
    assert first == FULL
    assert (second.query, second.decision, second.artefact, second.pool) == (FULL.query, FULL.decision, "abc", "tiny")
    assert second.time.endswith("+00:00")


def test_threads_do_not_mix_their_lines(tmp_path) -> None:
    made = DecisionMade(query_id="q1", annotation=FULL.annotation, decision=FULL.decision)
    with DecisionLog(tmp_path / "new" / "log") as log:
        threads = [threading.Thread(target=lambda: [log.write(FULL.query, made) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_decisions(tmp_path / "new" / "log")) == 200


def test_a_full_disk_is_said_and_leaves_no_half_line(tmp_path) -> None:
    path = tmp_path / "log"
    made = DecisionMade(query_id="q1", annotation=FULL.annotation, decision=FULL.decision)
    with DecisionLog(path) as log:
        log.write(FULL.query, made)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
        try:
            with pytest.raises(StoreUnavailable, match=r"log: File too large; make room"):
                log.write(FULL.query, made)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.write(FULL.query, made)
    assert len(read_decisions(path)) == 2


def test_a_place_that_cannot_be_written_is_said(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write the decision log .*name another file"):
        DecisionLog(tmp_path)


async def test_an_engines_decisions_are_noted_as_they_are_made(tmp_path) -> None:
    queries = [user_query("q1", "algebra, please"), user_query("q2", "unreadable"), user_query("q3", "botany")]
    with DecisionLog(tmp_path / "log", pool="test") as log:
        engine = engine_of(FakeBackend())
        events = [event async for event in LoggingEngine(engine, log).stream(queries)]
    records = read_decisions(tmp_path / "log")
    assert [record.query for record in records] == [queries[0], queries[2]]
    made = [event for event in events if isinstance(event, DecisionMade)]
    assert [record.decision for record in records] == [event.decision for event in made]
    assert records[0].annotation.skills == {"algebra,": 1.0}
    assert len([event async for event in engine.stream(queries)]) == len(events)
