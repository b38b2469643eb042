"""`enlist profile --adaptive`: what it asks, what it prints, and how it goes on."""

from __future__ import annotations

import json

import pytest

from tests.router_service.commands import ENGINE, run_command, write_folder


@pytest.fixture
def enlist(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder where `four` and `seven` are profiled in full, and `newcomer` is not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_folder(tmp_path)

    def run(*arguments):
        return run_command(capsys, *arguments)

    known = ("--expert", "four", "--expert", "seven")
    assert run("profile", "--data", "fit.jsonl", "--out", "art", *ENGINE, *known)[0] == 0
    return run


ADAPTIVE = ("profile", "--adaptive", "--out", "art", *ENGINE)


def test_a_newcomer_is_profiled_by_a_few_questions_with_error_bars(enlist):
    code, out, err = enlist(*ADAPTIVE, "--questions", "10", "--expert", "newcomer")
    assert (code, err) == (0, "")
    assert "newcomer: accuracy 0." in out
    assert "at 90%), from 10 of 24 questions" in out
    assert "10 new completions, 0 known before" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("  fours", "  sevens"))}
    assert rows["fours"][5:7] == ["four", "1.000"]
    assert sum(int(row[1]) for row in rows.values()) == 10


def test_as_json_and_going_on(enlist):
    first = json.loads(enlist(*ADAPTIVE, "--questions", "6", "--json")[1])
    assert (first["new"], first["known"], list(first["estimates"])) == (6, 0, ["newcomer"])
    code, out, _ = enlist(*ADAPTIVE, "--questions", "14", "--confidence", "0.8", "--json", "--data", "fit.jsonl")
    second = json.loads(out)
    assert (code, second["new"], second["known"]) == (0, 8, 6)
    overall = second["estimates"]["newcomer"]["overall"]
    assert 0 <= overall["low"] < overall["accuracy"] < overall["high"] <= 1
    assert second["estimates"]["newcomer"]["confidence"] == 0.8
    assert overall["high"] - overall["low"] < sum(
        first["estimates"]["newcomer"]["overall"][key] * sign for key, sign in (("high", 1), ("low", -1))
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("profile", "--out", "art", *ENGINE), "needs the fit questions: --data FILE.jsonl"),
        (("profile", "--out", "art", "--data", "fit.jsonl", "--questions", "9", *ENGINE), "are for --adaptive"),
        ((*ADAPTIVE, "--samples", "2"), "--adaptive asks each question once"),
        ((*ADAPTIVE, "--expert", "four"), "four: profiled in full"),
        ((*ADAPTIVE, "--confidence", "1.5"), "the confidence is 1.5"),
        (("profile", "--adaptive", "--out", "empty", *ENGINE), "holds no questions to choose from"),
    ],
)
def test_what_does_not_fit_together_is_said(enlist, arguments, said):
    code, out, err = enlist(*arguments)
    assert (code, out) == (2, "")
    assert said in err
