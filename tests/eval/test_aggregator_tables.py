"""The tables of votes: the same panels for all, paired differences, and a cross-validation on fit questions alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from eval.aggregator_tables import main, tables
from eval.datasets import load_dataset
from eval.metrics import Difference
from eval.vote_rows import VotePanel, VoteRow, vote_names, vote_rows
from tests.eval.recorded_dataset import recorded_folder, write_dataset

ONE = VotePanel(recruiter="fixed", k=1)
TWO = VotePanel(recruiter="fixed", k=2)
EVERYBODY = VotePanel(recruiter="all", k=3)


def row(name, gain, *, fit_gain, panel=TWO):
    def difference(mean):
        return Difference(mean=mean, low=mean - 0.01, high=mean + 0.01)

    return VoteRow(
        dataset="d", pool="p", panel=panel, aggregator=name, n=10, accuracy=0.5 + gain, ci95=(0.4, 0.6),
        calls_per_query=2.0, vs_majority=difference(gain), vs_fixed=difference(gain), n_fit=8, fit_accuracy=0.5,
        fit_vs_majority=difference(fit_gain),
    )  # fmt: skip


async def test_rows_are_over_the_same_panels_and_beside_the_fixed_ones(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "tiny"))
    seen = []
    rows = await vote_rows(
        dataset,
        ["trio"],
        ["weighted", "first"],
        panels=(TWO, EVERYBODY),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [(r.panel.name, r.aggregator) for r in rows] == [
        (panel, name) for panel in ("fixed 2", "all 3") for name in ("majority", "weighted", "first")
    ]
    assert {(r.n, r.n_fit) for r in rows} == {(24, 24)}, "every fit question is judged once, by the other folds"
    assert all(r.vs_majority.mean == 0 for r in rows if r.aggregator == "majority")
    assert all(r.vs_fixed.mean == 0 for r in rows if (r.aggregator, r.panel) == ("majority", TWO))
    assert {r.calls_per_query for r in rows if r.panel == TWO} == {2.0}
    assert seen[-1] == (12, 12)


async def test_further_splits_are_learned_from_and_never_judged(tmp_path):
    """Where the fit questions of a kind are called `extra`, `fixed` still learns from them whom to ask."""
    dataset = load_dataset(write_dataset(tmp_path / "tiny"))
    moved = [replace(q, split="extra") if q.id.startswith("fit-number") else q for q in dataset.questions]
    rows = await vote_rows(
        replace(dataset, questions=tuple(moved)), ["duo"], ["majority"], panels=(ONE,), fit_on=("fit", "extra")
    )
    assert [(r.n, r.n_fit) for r in rows] == [(24, 12)]
    alone = await vote_rows(replace(dataset, questions=tuple(moved)), ["duo"], ["majority"], panels=(ONE,))
    assert alone[0].fit_accuracy == 1.0, "on choices alone the traveller is best, and right on every one"
    assert rows[0].fit_accuracy < 1.0


def test_votes_are_those_that_ask_nobody():
    assert {"first", "majority", "weighted", "fuser", "auto"} <= set(vote_names())
    assert not {"synthesise", "selected"} & set(vote_names())


def test_the_summary_ranks_by_what_was_gained_on_fit_not_on_test():
    rows = [
        row("majority", 0.0, fit_gain=0.0),
        row("majority", 0.0, fit_gain=0.0, panel=EVERYBODY),
        row("lucky", 0.2, fit_gain=-0.05),
        row("lucky", 0.2, fit_gain=-0.05, panel=EVERYBODY),
        row("good", 0.02, fit_gain=0.03),
        row("good", -0.04, fit_gain=0.05, panel=EVERYBODY),
    ]
    *_, summary = tables(rows)
    assert [line[0] for line in summary.rows] == ["good", "majority", "lucky"]
    best = summary.rows[0]
    assert best[1:] == pytest.approx((0.04, 2, 0, -0.01, 1, 1))
    assert summary.title == "Over 2 kinds of panels, against the majority"


def test_the_command_writes_figures_and_a_page_and_prints(tmp_path, capsys):
    folder = write_dataset(tmp_path / "tiny", name="tiny & small")
    asked = ["--data", str(folder), "--pool", "trio", "--aggregator", "weighted"]
    main([*asked, "--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")], panels=(TWO,))
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["panels"] == ["fixed 2"]
    assert [one["aggregator"] for one in document["rows"]] == ["majority", "weighted"]
    assert set(document["rows"][1]["vs_majority"]) == {"mean", "low", "high"}
    page = (tmp_path / "out.html").read_text()
    assert "tiny &amp; small, trio: 24 test questions" in page
    assert page.count("<table>") == 2
    assert "tiny & small, trio: 24 test questions, and 24 fit questions cross-validated" in capsys.readouterr().out


@pytest.mark.slow
async def test_recorded_texts_reach_the_votes():
    """On MMLU-Pro, panels of the three best of nine: every registered vote runs, and the majority is where it was."""
    dataset = load_dataset(recorded_folder("mmlu_pro"))
    rows = await vote_rows(dataset, ["mid9"], vote_names(), panels=(VotePanel(recruiter="fixed", k=3),))
    by_name = {one.aggregator: one for one in rows}
    assert by_name["majority"].accuracy == pytest.approx(0.507, abs=0.001)
    assert by_name["first"].accuracy < by_name["majority"].accuracy
    assert {one.n_fit for one in rows} == {336}
