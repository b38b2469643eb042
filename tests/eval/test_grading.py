"""How questions are put, and how answers to them are graded."""

from __future__ import annotations

import json

import pytest

from eval.grading import grade, question_query
from router_service.errors import ConfigError, InvalidQuery
from router_service.types import AnswerKind, Question

CHOICE, NUMBER, LITERAL = AnswerKind.CHOICE, AnswerKind.NUMBER, AnswerKind.LITERAL


def ask(answer, kind=LITERAL, **more):
    return Question(id="q1", text="What?", answer=answer, answer_kind=kind, **more)


CITIES = ("Rome", "Paris", "Bonn")


@pytest.mark.parametrize(
    ("question", "extracted", "right"),
    [
        (ask("B", CHOICE, options=CITIES), "B", True),
        (ask("B", CHOICE, options=CITIES), "b", True),
        (ask("B", CHOICE, options=CITIES), "(B)", True),
        (ask("B", CHOICE, options=CITIES), "Paris", True),
        (ask("Paris", CHOICE, options=CITIES), "B", True),
        (ask("B", CHOICE, options=CITIES), "A", False),
        (ask("B", CHOICE, options=CITIES), "Rome", False),
        (ask("B", CHOICE, options=CITIES), None, False),
        (ask("1000", NUMBER), "1,000.0", True),
        (ask("0.5", NUMBER), "\\frac{1}{2}", True),
        (ask("0.5", NUMBER), "0.6", False),
        (ask("12", NUMBER), "twelve", False),
        (ask("the end"), '"the  end"', True),
        (ask("XIV"), "XV", False),
        (ask("XIV"), "", False),
        (ask("re:mice|mouses?"), "Mice", True),
        (ask("re:mice|mouses?"), "mice and men", False),
        (ask("re:\\d{3}", NUMBER), "123", True),
        (ask('{"a": [1, 2.0]}', AnswerKind.JSON), '{"a":[1,2]}', True),
        (ask('{"a": [1, 2]}', AnswerKind.JSON), '{"a":[2,1]}', False),
        (ask("return 1", AnswerKind.CODE), "return 1  ", True),
        (ask("Paris", AnswerKind.FREE), "paris.", True),
        (ask("Paris", AnswerKind.FREE), "I know it.\nThe answer is Paris.", True),
        (ask("Paris", AnswerKind.FREE), "Not Paris", False),
    ],
)
def test_grade(question, extracted, right):
    assert grade(extracted, question) == (1.0 if right else 0.0)


def test_formulas_are_graded_by_value():
    pytest.importorskip("math_verify")
    assert grade("\\sqrt{3}/2", ask("\\frac{\\sqrt{3}}{2}", NUMBER)) == 1.0
    assert grade("\\sqrt{2}/2", ask("\\frac{\\sqrt{3}}{2}", NUMBER)) == 0.0


def test_a_question_without_a_reference_cannot_be_graded():
    with pytest.raises(ConfigError, match="'q1' has no reference answer"):
        grade("x", ask(None))


def test_a_broken_expression_is_named():
    with pytest.raises(ConfigError, match=r"'\(' is no regular expression"):
        grade("x", ask("re:("))


def test_a_choice_is_put_with_lettered_options():
    query = question_query(ask("B", CHOICE, options=CITIES), seed=7)
    assert query.text == "What?\n\nA) Rome\nB) Paris\nC) Bonn\n\nAnswer with the letter of the right option."
    assert query.task_format.options == CITIES
    assert (query.id, query.seed) == ("q1", 7)


def test_more_options_than_letters_are_refused():
    question_query(ask("Z", CHOICE, options=tuple(map(str, range(26)))))
    with pytest.raises(InvalidQuery, match=r"'q1' has 27 options, .* at most 26; leave some out"):
        question_query(ask("Z", CHOICE, options=tuple(map(str, range(27)))))


@pytest.mark.parametrize("kind", [NUMBER, LITERAL, AnswerKind.FREE, AnswerKind.CODE, AnswerKind.JSON])
def test_any_other_question_is_put_as_it_is_written(kind):
    query = question_query(ask("4", kind))
    assert query.text == "What?"
    assert query.task_format.kind is kind


def test_what_is_recorded_of_a_question_travels_as_metadata():
    query = question_query(ask("x", category="law", benchmark="mmlu_pro", skills=("tort law", "contract")))
    assert json.loads(query.metadata["skills"]) == ["tort law", "contract"]
    assert (query.metadata["category"], query.metadata["benchmark"]) == ("law", "mmlu_pro")
    assert question_query(ask("x")).metadata == {}
