"""Schemas of callers: which are taken, what they say of a value, and that none of them runs away."""

from __future__ import annotations

import json
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.schemas import MAX_DEPTH, MAX_SCHEMA_CHARS, JsonSchema, read_schema
from router_service.errors import InvalidQuery
from tests.aggregators.json_cases import fitting_pairs

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
DOUBLING = {
    "$defs": {
        "a0": {"type": "integer"},
        **{f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n - 1}"}] * 2} for n in range(1, 40)},
    },
    "$ref": "#/$defs/a39",
}
BRANCHING = {"anyOf": [{"properties": {"a": {"$ref": "#"}}}] * 2, "required": ["never"]}


def nested(depth: int, value: object = 1) -> object:
    for _ in range(depth):
        value = {"a": value}
    return value


REFUSED = {
    "unknown type": ({"properties": {"age": {"type": "integr"}}}, r"\$\.properties\.age\.type.*integr"),
    "keyword of a wrong type": ({"required": "name"}, r"\$\.required"),
    "no object": (["object"], "must be an object"),
    "remote reference": ({"$ref": "https://example.org/s.json"}, "nothing is fetched.*#/\\$defs/NAME"),
    "file reference": ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "nothing is fetched"),
    "metaschema by address": ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "nothing is fetched"),
    "reference to nowhere": ({"items": {"$ref": "#/$defs/none"}}, "'#/\\$defs/none' leads to nothing"),
    "anchor to nowhere": ({"$dynamicRef": "#none"}, r"\$dynamicRef"),
    "relative reference past an id": ({"$id": "http://x/a", "$ref": "other.json"}, "other.json"),
    "part of another dialect": (
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a|a)*$"}}},
        "all of it in one dialect",
    ),
    "part of an unknown dialect": ({"items": {"$schema": "http://bogus"}}, "all of it in one dialect"),
    "reference to what is no schema": ({"$ref": "#/x/y", "x": {"y": {"minimum": "a"}}}, r"\$\.minimum"),
    "pattern behind a reference": ({"$ref": "#/x/y", "x": {"y": {"pattern": "("}}}, "cannot be read"),
    "unknown dialect": ({"$schema": "https://example.org/draft"}, "2020-12"),
    "pattern that is none": ({"pattern": "(("}, "cannot be read"),
    "property pattern that is none": ({"patternProperties": {"[": {}}}, "cannot be read"),
    "pattern without end": ({"pattern": "a" * 1001}, "1001 characters"),
    "too deep": (nested(MAX_DEPTH + 1, {}), "deeper than 64"),
    "too large": ({"description": "x" * MAX_SCHEMA_CHARS}, "at most 100000"),
    "two keywords that cannot be bounded together": (
        {"patternProperties": {"^a": {}}, "allOf": [{"unevaluatedProperties": False}]},
        "additionalProperties",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_schema_that_cannot_be_held_to_is_refused_with_the_place(case):
    schema, hint = REFUSED[case]
    with pytest.raises(InvalidQuery, match=hint):
        read_schema(json.dumps(schema))


@pytest.mark.parametrize("text", ["{", "", "[" * 5000])
def test_a_schema_that_is_not_json_is_refused(text):
    with pytest.raises(InvalidQuery, match="not JSON"):
        read_schema(text)


TAKEN = [
    (PERSON, {"name": "Ann", "age": 3}),
    ({"name": "p", "schema": PERSON, "strict": True}, {"name": "Ann", "age": 3}),
    (
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": {"type": "integer"}},
            "items": [{"$ref": "#/definitions/a"}],
        },
        [1, "x"],
    ),
    (
        {"$schema": "https://json-schema.org/draft/2019-09/schema", "properties": {"a": {"$recursiveRef": "#"}}},
        {"a": 1},
    ),
    (
        {
            "$id": "https://example.org/root",
            "$defs": {"b": {"$id": "b", "type": "string"}},
            "properties": {"a": {"$ref": "b"}},
        },
        {"a": "x"},
    ),
    (
        {"$defs": {"node": {"$anchor": "node", "properties": {"next": {"$ref": "#node"}}}}, "$ref": "#/$defs/node"},
        {"next": {"next": {}}},
    ),
    ({"const": {"$ref": "https://example.org/only-data"}}, {"$ref": "https://example.org/only-data"}),
    ({"properties": {"$ref": {"type": "string"}, "pattern": {"type": "integer"}}}, {"$ref": "x", "pattern": 1}),
    ({"properties": {"letters": {"pattern": r"^\p{L}+$"}}}, {"letters": "äß"}),
    ({}, None),
    (True, 1),
]


@pytest.mark.parametrize(("schema", "value"), TAKEN, ids=lambda part: json.dumps(part)[:40])
def test_a_sound_schema_is_taken(schema, value):
    assert read_schema(json.dumps(schema)).violation(value) is None


def test_a_violation_names_the_place_and_the_reason():
    schema = JsonSchema({"properties": {"people": {"items": PERSON}}})
    said = schema.violation({"people": [{"name": "Ann", "age": 3}, {"name": "Ben", "age": "x" * 5000}]})
    assert said is not None
    assert said.startswith("at $.people[1].age: ")
    assert "not of type 'integer'" in said or said.endswith("...")
    assert len(said) < 700


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"pattern": "^a+$"}, "aa", "b"),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, {"n_a": 1, "x": "y"}, {"n_a": "1"}),
        (
            {"properties": {"a": {}}, "patternProperties": {"^n_": {}}, "additionalProperties": False},
            {"a": 1, "n_1": 2},
            {"b": 1},
        ),
        ({"additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": "1"}),
        ({"uniqueItems": True}, [1, True, "1", {"a": 1}, {"a": 2}], [{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]),
        ({"uniqueItems": False}, [1, 1], None),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"a": 1}, {"b": 1}),
    ],
)
def test_the_keywords_that_are_bounded_here_mean_what_the_library_means(schema, good, bad):
    ours, theirs = JsonSchema(schema), jsonschema.Draft202012Validator(schema)
    assert ours.violation(good) is None and theirs.is_valid(good)
    if bad is not None:
        assert ours.violation(bad) is not None and not theirs.is_valid(bad)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100)
@given(fitting=fitting_pairs(), value=VALUES)
def test_the_bounds_change_no_verdict(fitting, value):
    schema, fit = fitting
    library = jsonschema.Draft202012Validator(schema)
    assert (JsonSchema(schema).violation(value) is None) == library.is_valid(value)
    assert JsonSchema(schema).violation(fit) is None
    assert library.is_valid(fit)


@pytest.mark.parametrize(
    ("schema", "value", "hint"),
    [
        (DOUBLING, 1, "more than 200000 steps"),
        ({"$ref": "#"}, 1, "refers to itself"),
        (BRANCHING, nested(60), "steps"),
        ({"pattern": "^(a|aa)+$"}, "a" * 80 + "b", "takes too long"),
        ({"patternProperties": {"^(a|aa)+$": {}}}, {"a" * 80 + "b": 1}, "takes too long"),
        ({"enum": list(range(10000))}, "x", None),
        ({"items": {"enum": list(range(10000))}}, ["x"] * 1000, "steps"),
        ({"uniqueItems": True}, [{"a": n} for n in range(5000)], None),
    ],
    ids=[
        "references that double",
        "endless reference",
        "branches",
        "pattern",
        "name pattern",
        "enum",
        "enums",
        "unique",
    ],
)
def test_no_schema_runs_away(schema, value, hint):
    checked = JsonSchema(schema)
    started = time.monotonic()
    said = checked.violation(value)
    assert time.monotonic() - started < 10.0
    if hint is not None:
        assert said is not None and hint in said


def test_a_reference_to_a_whole_that_names_its_dialect_keeps_the_bounds() -> None:
    dialect = "https://json-schema.org/draft/2020-12/schema"
    schema = JsonSchema({"$schema": dialect, "properties": {"p": {"pattern": "^(a|a)*$"}, "n": {"$ref": "#"}}})
    assert "takes too long" in str(schema.violation({"n": {"p": "a" * 25 + "b"}}))


def test_many_searches_that_are_short_enough_are_bounded_together() -> None:
    schema = JsonSchema({"items": {"pattern": "^(?:(a|a)*c|a*b)$"}})
    assert "all searches for patterns together" in str(schema.violation(["a" * 15 + "b"] * 3000))


def test_a_number_too_large_to_divide_is_a_violation() -> None:
    assert "too large" in str(JsonSchema({"multipleOf": 0.1}).violation(10**4000))
