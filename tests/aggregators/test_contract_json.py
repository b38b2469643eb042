"""JSON in what experts write: found where it stands, mended where it is nearly there, never made up."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.json_answers import MAX_ANSWER_CHARS, mend_json, parsed_json, read_json
from aggregators.schemas import JsonSchema, Work

ANY_OBJECT = JsonSchema({"type": "object"})
ANYTHING = JsonSchema({})
AGE = JsonSchema({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})

READ = {
    "bare": ('{"age": 3}', {"age": 3}),
    "fenced": ('Here:\n```json\n{"age": 3}\n```\nDone.', {"age": 3}),
    "in prose": ('The reply is {"age": 3}, as asked [1].', {"age": 3}),
    "after thoughts": ('<think>{"age": 1}</think>{"age": 3}', {"age": 3}),
    "the one that satisfies": ('Example: {"age": "n"}. Mine: {"age": 3}. Not: {"age": null}', {"age": 3}),
    "the last of several": ('{"age": 1}\n{"age": 3}', {"age": 3}),
    "white space kept": ('{\n "age": 3\n}', {"age": 3}),
}


@pytest.mark.parametrize("case", READ)
def test_a_value_is_read_wherever_it_stands(case):
    text, value = READ[case]
    reading = read_json(text, AGE)
    assert reading is not None and reading.violation is None
    assert json.loads(reading.text) == value
    assert reading.compact == '{"age":3}'
    assert (reading.done is None) is (case in ("bare", "white space kept", "after thoughts"))


@pytest.mark.parametrize("text", ["", "no JSON", "{", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000, "\ud800"])
def test_where_there_is_no_value_none_is_read(text):
    assert read_json(text, ANYTHING) is None


def test_a_piece_of_a_broken_value_is_not_taken_for_the_whole():
    broken = '{"user": {"age": 3}, "note": oops "x" }'
    assert read_json(broken, ANY_OBJECT) is None
    assert read_json('[{"age": 3}, {"age": ]', AGE) is None


def test_a_value_that_breaks_the_schema_says_how():
    reading = read_json('{"age": "3"}', AGE)
    assert reading is not None and "$.age" in (reading.violation or "")


def test_a_scalar_counts_only_where_it_is_the_whole_text():
    assert read_json("42", JsonSchema({"type": "integer"})).text == "42"
    assert read_json("It is 42.", JsonSchema({"type": "integer"})) is None


def test_a_value_that_is_too_deep_or_too_long_is_none():
    with pytest.raises(ValueError, match="nested"):
        parsed_json("[" * 80 + "]" * 80)
    with pytest.raises(ValueError, match="at most"):
        parsed_json('"' + "x" * MAX_ANSWER_CHARS + '"')
    assert read_json("[" * 80 + "]" * 80, ANYTHING) is None


MENDED = {
    "trailing comma": ('{"age": 3,}', {"age": 3}),
    "single quotes": ("{'age': 3}", {"age": 3}),
    "Python's words": ("{'age': 3, 'is_ok': True, 'x': None}", {"age": 3, "is_ok": True, "x": None}),
    "unquoted key": ("{age: 3}", {"age": 3}),
    "cut off": ('```json\n{"age": 3, "names": ["Ann", "Be', {"age": 3, "names": ["Ann", "Be"]}),
    "comments": ('{"age": 3 // years\n}', {"age": 3}),
    "prose around it": ('Sure! {"age": 3,} Anything else?', {"age": 3}),
    "missing comma": ('{"age": 3 "b": 4}', {"age": 3, "b": 4}),
}


@pytest.mark.parametrize("case", MENDED)
def test_what_is_nearly_json_is_mended(case):
    text, value = MENDED[case]
    assert read_json(text, AGE) is None
    mended = mend_json(text, AGE)
    assert mended is not None and mended.violation is None and mended.done
    assert json.loads(mended.text) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"age": }',
        '{"age" 3}',
        '{"age',
        "age is 3",
        "",
        "{}" * 3,
        '{"age": "3",}',
        '{"age": NaN}',
        '{"age": 3} {"age": ',
        "{,}",
    ],
)
def test_nothing_is_made_up(text):
    """A missing value, a missing colon, another type, two values side by side: no rule can know what was meant."""
    assert mend_json(text, AGE) is None


@pytest.mark.parametrize(
    "text",
    [
        "{" * 50_000,
        "[" * 50_000,
        '{"a":' * 30_000,
        '{"a": "' + "\\" * 100_000,
        "{" + '"' * 100_000,
        '{"a" ' + "/*" * 50_000,
        "{" + "'a" * 50_000,
        "{ x: " * 20_000,
        '{"a": 1} ' * 15_000,
        "```\n{\n" * 2_000,
    ],
    ids=lambda text: text[:6],
)
def test_no_text_runs_away(text):
    started = time.monotonic()
    read_json(text, AGE)
    mend_json(text, AGE)
    assert time.monotonic() - started < 5.0


@settings(deadline=None, max_examples=150)
@given(text=st.text(alphabet="{}[]\"':,ab1 \n\\`", max_size=40))
def test_whatever_is_written_what_is_read_is_json(text):
    for reading in (read_json(text, ANYTHING), mend_json(text, ANYTHING)):
        if reading is not None:
            parsed_json(reading.text)


def test_a_number_beyond_all_bounds_is_no_json() -> None:
    assert read_json('{"age": 1e999}', ANY_OBJECT) is None
    with pytest.raises(ValueError, match="too large a number"):
        parsed_json("[1e999]")


def test_all_values_of_a_text_share_the_work_of_one_answer() -> None:
    class Counting(JsonSchema):
        def violation(self, value: object, work: Work | None = None) -> str | None:
            works.append(work)
            return super().violation(value, work)

    works: list[Work | None] = []
    assert read_json('{"a": 1} {"a": 2} {"a": 3}', Counting({"required": ["age"]})) is not None
    assert len(works) >= 3 and works[0] is not None and all(work is works[0] for work in works)
