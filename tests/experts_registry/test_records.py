"""JSONL of questions and outcomes: exact round trips, strict reading, appending that survives a kill."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts_registry.records import append_outcomes, read_outcomes, read_questions, write_outcomes, write_questions
from router_service.errors import ConfigError
from router_service.types import AnswerKind, Outcome, Question

texts = st.text(min_size=1, max_size=20)
maybe_text = st.none() | st.text(max_size=20)
questions = st.lists(
    st.builds(
        Question,
        id=texts,
        text=texts,
        benchmark=st.text(max_size=5),
        category=maybe_text,
        subject=maybe_text,
        options=st.lists(st.text(max_size=5), max_size=3).map(tuple),
        answer=maybe_text,
        answer_kind=st.sampled_from(AnswerKind),
        split=st.text(max_size=5),
        skills=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    ),
    unique_by=lambda q: q.id,
    max_size=5,
)
outcomes = st.lists(
    st.builds(
        Outcome,
        dataset=texts,
        split=texts,
        question_id=texts,
        expert_id=texts,
        sample=st.integers(0, 5),
        extracted=maybe_text,
        correct=st.floats(0, 1),
        prompt_tokens=st.none() | st.integers(0, 9),
        completion_tokens=st.none() | st.integers(0, 9),
        cost_usd=st.none() | st.floats(0, 1),
        latency_s=st.none() | st.floats(0, 1),
        logprob=st.none() | st.floats(-9, 0),
    ),
    max_size=5,
)


def outcome(question_id="q1"):
    return Outcome(dataset="d", split="fit", question_id=question_id, expert_id="a", correct=1.0)


@settings(max_examples=50)
@given(questions)
def test_questions_come_back_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("q") / "sub" / "questions.jsonl"
    write_questions(path, rows)
    assert read_questions(path) == rows


@settings(max_examples=50)
@given(outcomes, outcomes)
def test_outcomes_come_back_as_they_were(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("o") / "outcomes.jsonl"
    append_outcomes(path, first)
    append_outcomes(path, second)
    assert read_outcomes(path) == first + second
    write_outcomes(path, second)
    assert read_outcomes(path) == second


def test_half_a_surrogate_pair_is_kept(tmp_path):
    path = tmp_path / "o.jsonl"
    rows = [Outcome(dataset="d", split="s", question_id="q", expert_id="a", extracted="\ud800 ü")]
    append_outcomes(path, rows)
    assert json.loads(path.read_text())["extracted"] == "\ud800 ü"


def test_a_generated_line_needs_only_what_it_has(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('\n{"id": "1", "question": "2+2?", "answer": "4", "answer_kind": "number", "options": null}\n\n')
    (row,) = read_questions(path)
    assert (row.text, row.answer, row.answer_kind, row.split) == ("2+2?", "4", AnswerKind.NUMBER, "fit")


def test_every_malformed_line_is_named(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"id": "1", "question": "x"}\n{"id": "2", "quesion": "x"}\n{oops}\n[1]\n'
        '{"id": "1", "question": "y"}\n{"id": "3", "question": "x", "answer_kind": "numeric"}\n'
    )
    with pytest.raises(ConfigError) as caught:
        read_questions(path)
    text = caught.value.message
    assert str(path) in text and "5 malformed" in text
    assert "line 2" in text and "Did you mean 'question'" in text
    assert "line 3: not JSON" in text and "line 4: a JSON object" in text
    assert "line 5: id '1' is line 1's already" in text
    assert "line 6" in text and "'number'" in text


def test_many_malformed_lines_are_cut_short(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("oops\n" * 30)
    with pytest.raises(ConfigError, match=r"30 malformed(.|\n)*and 20 more"):
        read_questions(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        read_outcomes(tmp_path / "none.jsonl")


def test_grades_are_between_0_and_1(tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_text('{"dataset":"d","split":"s","question_id":"q","expert_id":"a","correct":1.5}\n')
    with pytest.raises(ConfigError, match=r"line 1(.|\n)*correct"):
        read_outcomes(path)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_killed_writer_costs_one_line(tmp_path, cut):
    path = tmp_path / "o.jsonl"
    append_outcomes(path, [outcome("q1"), outcome("q2")])
    path.write_bytes(path.read_bytes()[:-cut])
    survivors = read_outcomes(path)
    assert survivors == ([outcome("q1"), outcome("q2")] if cut == 1 else [outcome("q1")])
    append_outcomes(path, [outcome("q3")])
    assert read_outcomes(path) == [*survivors, outcome("q3")]


def test_a_long_unfinished_line_goes_whole(tmp_path):
    path = tmp_path / "o.jsonl"
    append_outcomes(path, [outcome("q1")])
    with path.open("ab") as file:
        file.write(b'{"extracted": "' + b"x" * 200_000)
    append_outcomes(path, [outcome("q2")])
    assert read_outcomes(path) == [outcome("q1"), outcome("q2")]
