"""How the chosen aggregator is found, and what is said where it cannot be."""

from __future__ import annotations

import json

import pytest

from aggregators.selected import SELECTION_FORMAT, Selected, read_choice
from router_service.errors import ConfigError, UnknownNameError
from tests.aggregators.panels import FakeAsk, panel, said

MEMBERS = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]


def write(tmp_path, **document):
    path = tmp_path / "selection.json"
    path.write_text(json.dumps(document), "utf-8")
    return str(path)


async def test_without_a_choice_it_is_the_majority():
    selected = Selected()
    got = await selected.aggregate(panel(MEMBERS), ask=FakeAsk())
    assert (got.aggregator, got.extracted) == ("majority", "B")
    assert selected.keeps_text


async def test_the_choice_may_be_given_with_its_writer():
    ask = FakeAsk("The answer is (A)")
    selected = Selected(choice="synthesise", expert="editor")
    got = await selected.aggregate(panel(MEMBERS), ask=ask)
    assert (got.aggregator, got.extracted) == ("synthesise", "A")
    assert ask.calls[0][0] == "editor"
    assert not selected.keeps_text


async def test_the_choice_is_read_from_a_file(tmp_path):
    path = write(tmp_path, format=SELECTION_FORMAT, version=1, chosen={"aggregator": "synthesise", "expert": "editor"})
    assert read_choice(path).name == "synthesise:editor"
    assert Selected(path=path).choice == read_choice(path)


def test_a_choice_made_outright_wins_over_a_file(tmp_path):
    path = write(tmp_path, format=SELECTION_FORMAT, version=1, chosen={"aggregator": "synthesise", "expert": "editor"})
    assert Selected(path=path, choice="weighted").choice.name == "weighted"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"format": "other"}, "is no aggregator selection"),
        ({"format": SELECTION_FORMAT, "version": 99}, "has version 99"),
        ({"format": SELECTION_FORMAT, "version": 1}, "names no chosen aggregator"),
        ({"format": SELECTION_FORMAT, "version": 1, "chosen": {"aggregator": "selected"}}, "cannot choose itself"),
    ],
)
def test_a_file_that_is_no_selection_is_refused(tmp_path, document, message):
    with pytest.raises(ConfigError, match=message):
        Selected(path=write(tmp_path, **document))


def test_a_missing_or_broken_file_is_named_with_the_next_step(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json.*enlist aggregator select"):
        Selected(path=str(tmp_path / "nowhere.json"))
    (tmp_path / "broken.json").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match="is not JSON"):
        Selected(path=str(tmp_path / "broken.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert": "ann"}, "name the `choice` too"),
        ({"choice": "selected"}, "cannot choose itself"),
        ({"choice": "majority", "expert": "ann"}, "'majority' has no option 'expert'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Selected(**options)


def test_an_unknown_choice_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'majority'"):
        Selected(choice="majorty")
