"""The commands that choose an aggregator and show why, on experts that echo."""

from __future__ import annotations

import json

import pytest

from tests.router_service.commands import ENGINE, run_command, write_fit_questions

POOL = """
experts:
  - {id: four, model: m4, backend: echo, options: {reply: "The answer is 4."}}
  - {id: seven, model: m7, backend: echo, options: {reply: "The answer is 7."}}
  - {id: nine, model: m9, backend: echo, options: {reply: "The answer is 9."}}
"""
CONFIG = """
annotator: {name: embedding, options: {embedder: hashing}}
recruiter: all
aggregator: majority
"""
SELECT = ("aggregator", "select", *ENGINE, "--artefact", "art")


@pytest.fixture
def enlist(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with a pool of three that was profiled; `enlist.folder` is the folder."""
    (tmp_path / "experts.yaml").write_text(POOL)
    (tmp_path / "enlist.yaml").write_text(CONFIG)
    write_fit_questions(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert run_command(capsys, "profile", "--data", "fit.jsonl", "--out", "art", *ENGINE)[0] == 0
    return lambda *arguments: run_command(capsys, *arguments)


def test_what_was_profiled_is_used_to_choose_an_aggregator(enlist, tmp_path):
    code, out, err = enlist(*SELECT, "--json", "--candidate", "auto", "--candidate", "synthesise:nine")
    selection = json.loads(out)
    assert (code, err) == (0, "")
    screened = {one["choice"]["aggregator"]: one for one in selection["screenings"]}
    assert screened["synthesise"]["accuracy"] == 0.0
    assert screened["synthesise"]["screened_out"]
    overall = selection["cells"][0]
    assert (overall["category"], overall["kind"]) == (None, None)
    assert (overall["chosen"]["aggregator"], overall["n"]) == ("majority", 24)
    assert [one["choice"]["aggregator"] for one in overall["candidates"]] == ["majority", "weighted", "auto"]
    assert json.loads((tmp_path / "art" / "aggregator.json").read_text()) == selection
    asked = ("ask", "2 + 2?", "--kind", "number", *ENGINE, "--artefact", "art", "--aggregator", "selected", "--json")
    code, out, _ = enlist(*asked)
    assert code == 0
    assert (json.loads(out)["decision"]["aggregator"], json.loads(out)["answer"]["aggregator"]) == (
        "selected",
        "majority",
    )


def test_what_was_chosen_is_shown_with_the_evidence(enlist):
    enlist(*SELECT, "--candidate", "auto")
    code, out, _ = enlist("aggregator", "show", "--artefact", "art")
    assert code == 0
    assert "24 panels as recruited by all, k = 3" in out
    assert "24 panels of one right and two wrong completions" in out
    assert "all (24, 24 disputed): majority (nobody beats the votes at equal calls on 24 panels" in out
    code, out, _ = enlist("aggregator", "show", "--artefact", "art", "--json")
    assert json.loads(out)["version"] == 2


def test_an_interrupted_selection_pays_for_no_call_twice(enlist, tmp_path):
    assert enlist(*SELECT, "--candidate", "synthesise:four")[2] == ""
    calls = tmp_path / "art" / "aggregator.calls.jsonl"
    first = calls.read_text()
    assert len(first.splitlines()) == 24, "the natural panels hold the drafts of the synthetic ones"
    calls.write_text("".join(first.splitlines(keepends=True)[:15]) + '{"key": "half')
    code, _, err = enlist(*SELECT, "--candidate", "synthesise:four")
    assert (code, err) == (0, f"15 calls of earlier runs are kept in {calls.relative_to(tmp_path)}\n")
    assert keys(calls.read_text()) == keys(first)


def keys(text):
    return sorted(json.loads(line)["key"] for line in text.splitlines())


def test_a_misspelt_writer_shows_before_any_trial(enlist, tmp_path):
    code, _, err = enlist(*SELECT, "--candidate", "weighted", "--candidate", "synthesise:sevne")
    assert code == 2
    assert "Did you mean 'seven'" in err
    assert not (tmp_path / "art" / "aggregator.json").exists()


def test_without_a_selection_there_is_nothing_to_show(enlist):
    code, _, err = enlist("aggregator", "show", "--artefact", "art")
    assert code == 2
    assert "make one with `enlist aggregator select`" in err


def test_a_selection_of_an_earlier_release_is_to_be_made_again(enlist, tmp_path):
    old = {"format": "enlist.aggregator_selection", "version": 1, "chosen": {"aggregator": "majority"}}
    (tmp_path / "art" / "aggregator.json").write_text(json.dumps(old))
    code, _, err = enlist("aggregator", "show", "--artefact", "art")
    assert code == 2
    assert "has version 1, but this release reads version 2; make it again" in err
