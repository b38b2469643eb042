"""How choices are written and read, which cell a panel goes by, and what a selection file must be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators.choices import (
    MAJORITY,
    OVERALL,
    SELECTION_FORMAT,
    SELECTION_VERSION,
    Choice,
    ChoiceTable,
    read_choices,
)
from router_service.errors import ConfigError, UnknownNameError

NAMES = st.text("abc_", min_size=1, max_size=6)
WRITER = Choice(aggregator="synthesise", expert="editor")


def cell(category, kind, chosen):
    return {"category": category, "kind": kind, "chosen": chosen.document}


def write(tmp_path, *cells, **document):
    path = tmp_path / "selection.json"
    whole = {"format": SELECTION_FORMAT, "version": SELECTION_VERSION, "cells": list(cells), **document}
    path.write_text(json.dumps(whole), "utf-8")
    return path


@given(aggregator=NAMES, expert=st.none() | NAMES, options=st.lists(st.tuples(NAMES, NAMES), max_size=3))
def test_a_choice_is_read_back_as_it_is_written(aggregator, expert, options):
    choice = Choice(aggregator=aggregator, expert=expert, options=tuple(dict(options).items()))
    assert Choice.parse(choice.name) == choice
    assert Choice.of_document(json.loads(json.dumps(choice.document))) == choice


def test_options_are_read_as_the_numbers_they_spell():
    made = Choice.parse("synthesise:editor,layers=2").create()
    assert (made.expert, made.layers) == ("editor", 2)


@pytest.mark.parametrize("text", ["", ":editor", "synthesise,layers", "synthesise,=2", "synthesise,layers="])
def test_what_names_no_aggregator_is_refused(text):
    with pytest.raises(ConfigError, match="write NAME, NAME:EXPERT"):
        Choice.parse(text)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("majorty", UnknownNameError, "Did you mean 'majority'"),
        ("majority:ann", ConfigError, "'majority' has no option 'expert'"),
        ("synthesise,layer=2", ConfigError, "layers"),
        ("selected", ConfigError, "cannot choose itself"),
    ],
)
def test_a_choice_that_cannot_be_made_says_why(text, error, message):
    with pytest.raises(error, match=message):
        Choice.parse(text).create()


def test_a_panel_goes_by_the_nearest_cell():
    table = ChoiceTable(
        {
            OVERALL: Choice(aggregator="weighted"),
            (None, "number"): WRITER,
            ("law", "choice"): Choice(aggregator="first"),
        }
    )
    assert table.choice_for("law", "choice").name == "first"
    assert table.choice_for("law", "number") == WRITER
    assert table.choice_for(None, "number") == WRITER
    assert table.choice_for("art", "choice").name == "weighted"
    assert ChoiceTable({}).choice_for("art", "choice") == MAJORITY


def test_choices_are_read_from_a_file(tmp_path):
    path = write(tmp_path, cell(None, None, MAJORITY), cell("law", "choice", WRITER))
    assert read_choices(path).cells == {OVERALL: MAJORITY, ("law", "choice"): WRITER}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"format": "other"}, "is no aggregator selection"),
        ({"version": 1}, "has version 1, but this release reads version 2; make it again"),
        ({"version": 99}, "has version 99"),
        ({"cells": [{"category": None}]}, "is incomplete"),
        ({"cells": 3}, "is incomplete"),
        ({"cells": [{"category": None, "kind": None, "chosen": {"aggregator": 3}}]}, "is incomplete"),
        ({"cells": [cell("law", "choice", WRITER)]}, "holds no overall choice"),
    ],
)
def test_a_file_that_is_no_selection_is_refused(tmp_path, document, message):
    with pytest.raises(ConfigError, match=message):
        read_choices(write(tmp_path, **document))


def test_a_missing_or_broken_file_is_named_with_the_next_step(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json.*enlist aggregator select"):
        read_choices(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_choices(tmp_path / "broken.json")
