"""Live rows on fakes: every aggregator on the same drafts, votes over as many calls, and a run that goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aggregators.choices import MAJORITY, Choice
from eval.aggregator_selection import AggregatorSelection
from eval.aggregators_live import LiveSettings, default_choices, live_questions, measure
from eval.kept_calls import KeptCalls
from eval.live_panels import LivePanels
from eval.live_rows import LiveTable
from experts_registry.artefact import Artefact
from experts_registry.local.tasks import TASKS
from experts_registry.pool import Pool
from router_service.config import EngineConfig, PartConfig
from router_service.types import AnswerKind, Expert, Outcome, Question, Sampling
from tests.router_service.parts import FakeBackend, completion

EXPERTS = ("ann", "ben", "cyd", "dan", "eve")
POOL = Pool(
    name="five",
    experts=tuple(Expert(id=name, model="m", backend="fake", sampling=Sampling(temperature=0)) for name in EXPERTS),
)
CONFIG = EngineConfig(annotator=PartConfig(name="blank"))
WRITER = Choice(aggregator="synthesise", expert="eve")
KNOWN = dict(zip(EXPERTS, (4, 3, 3, 2, 1), strict=True))
"""On how many of five fit questions each is right: the order of `fixed`."""


def question(number, split):
    return Question(
        id=f"{split}{number}", text=f"{split} {number}?", answer="right", answer_kind=AnswerKind.LITERAL, split=split
    )


def artefact():
    fit = [question(number, "fit") for number in range(5)]
    outcomes = [
        Outcome(dataset="d", split="fit", question_id=q.id, expert_id=name, correct=float(place < KNOWN[name]))
        for name in EXPERTS
        for place, q in enumerate(fit)
    ]
    return Artefact.fit(outcomes, fit, pool_name="five")


def reply(expert, assignment, sample):
    """As a writer eve is right. On even questions all draft alike; on odd ones ann, ben and cyd are wrong, each in
    her own way, and dan and eve are right."""
    if assignment.query.parent_id is not None:
        return completion(expert, assignment, sample, "right")
    is_even = int(assignment.query.text.split()[1][0]) % 2 == 0
    said = "right" if is_even or expert.id in ("dan", "eve") else f"wrong-{expert.id}"
    return completion(expert, assignment, sample, said)


def table(path, *, backend=None, n=10):
    kept = KeptCalls(backend or FakeBackend(reply=reply), path)
    panels = LivePanels(
        pool=POOL,
        artefact=artefact(),
        questions=[question(number, "test") for number in range(n)],
        backend=kept,
        config=CONFIG,
    )
    return LiveTable(panels, recruiter="fixed", k=3), kept


async def test_a_row_compares_with_votes_over_the_same_drafts_and_over_as_many_calls(tmp_path):
    rows, kept = table(tmp_path / "calls.jsonl")
    seen = []
    row = await rows.row(WRITER, on_progress=lambda done, total: seen.append((done, total)))
    assert (row.n, row.n_disputed, row.accuracy, row.accuracy_disputed) == (10, 5, 1.0, 1.0)
    assert (row.calls_per_query, row.own_calls_per_query) == (3.5, 0.5)
    assert row.vs_same_drafts["majority"].mean == 0.5
    assert row.vs_equal["majority"].mean == 0.5, "dan alone is outvoted by the earliest of four different answers"
    assert (row.fallbacks, row.failures, row.n_short) == (0, 0, 0)
    assert row.notes == {"the written answer is that of no draft": 5}
    assert row.grades == (1.0,) * 10
    assert row.answers == ("right",) * 10
    assert seen[-1] == (10, 10)
    assert row.new_calls == 35
    assert await rows.oracle() == 0.5
    assert row.model_s <= kept.spent_s
    json.dumps(row.record())


async def test_two_more_drafts_may_be_worth_as_much_as_two_calls(tmp_path):
    rows, _ = table(tmp_path / "calls.jsonl")
    best = await rows.row(Choice(aggregator="synthesise", expert="eve", options=(("layers", "2"),)))
    assert best.own_calls_per_query * 2 >= 3
    assert best.equal_accuracy["majority"] == 1.0, "dan and eve agree, and the three others do not"
    assert best.n_short == 5, "five experts have no sixth or seventh thing to say"


async def test_another_aggregator_costs_only_its_own_calls_and_a_second_run_none(tmp_path):
    rows, kept = table(tmp_path / "calls.jsonl")
    assert (await rows.row(MAJORITY)).new_calls == 30
    assert (await rows.row(WRITER)).new_calls == 5
    again, kept = table(tmp_path / "calls.jsonl")
    row = await again.row(WRITER)
    assert (row.new_calls, kept.asked) == (0, 0)
    assert row.accuracy == 1.0


async def test_a_writer_that_cannot_be_read_falls_back_and_is_counted(tmp_path):
    def mute(expert, assignment, sample):
        said = reply(expert, assignment, sample)
        return replace(said, text="") if assignment.query.parent_id is not None else said

    rows, _ = table(tmp_path / "calls.jsonl", backend=FakeBackend(reply=mute))
    row = await rows.row(WRITER)
    assert row.fallbacks == 5
    assert sum(row.notes.values()) >= 5
    assert row.vs_same_drafts["majority"].mean == 0.0


async def test_the_report_is_written_after_every_row(tmp_path):
    """The built-in pool with a fake in the place of the model: 16 held-out questions of its eight families."""

    class Echoes(FakeBackend):
        is_batched = True

    backend = KeptCalls(Echoes(reply=lambda e, a, s: completion(e, a, s, f"Answer: {e.id}")), tmp_path / "calls.jsonl")
    report = tmp_path / "made" / "live.json"
    settings = LiveSettings(questions=16, recruiter="fixed", choices=(Choice.parse("synthesise:generalist"),))
    rows = await measure(settings, backend, report)
    document = json.loads(report.read_text())
    assert [row["name"] for row in document["rows"]] == ["majority", "weighted", "synthesise:generalist"]
    assert [row.n for row in rows] == [16, 16, 16]
    assert (document["recruiter"], document["k"], document["oracle_of_drafts"]) == ("fixed", 3, 0.0)
    assert (rows[2].failures, rows[2].own_calls_per_query) == (4, 0.75), "no number was given to four of the questions"


async def test_a_selection_made_on_fit_questions_is_run_on_held_out_ones(tmp_path):
    """A fake that never answers in the place of the model: it aggregates nothing, so the vote is kept."""

    class Silent(FakeBackend):
        is_batched = True

    backend = KeptCalls(Silent(reply=lambda e, a, s: completion(e, a, s, "")), tmp_path / "calls.jsonl")
    settings = LiveSettings(
        questions=8,
        recruiter="fixed",
        choices=(Choice.parse("synthesise:generalist"),),
        selection=tmp_path / "aggregator.json",
    )
    rows = await measure(settings, backend, tmp_path / "live.json")
    selection = AggregatorSelection.load(tmp_path / "aggregator.json")
    assert selection.overall.n > 150
    assert selection.screenings[2].fallbacks == selection.screenings[2].n
    assert [cell.chosen.aggregator for cell in selection.cells].count("synthesise") == 0
    assert rows[3].name == "selected"
    assert (rows[3].fallbacks, rows[3].own_calls_per_query) == (0, 0.0)


@pytest.mark.parametrize("n", [8, 11, 320])
def test_questions_are_held_out_and_spread_over_the_families(n):
    questions = live_questions(n, "test")
    assert len({q.id for q in questions}) == n
    assert {q.split for q in questions} == {"test"}
    counts = [sum(q.category == task for q in questions) for task in TASKS]
    assert max(counts) - min(counts) <= 1


def test_by_default_whoever_may_ask_llms_is_run_and_no_vote():
    names = {choice.name for choice in default_choices("generalist")}
    assert "synthesise:generalist" in names
    assert not names & {"majority", "weighted", "first", "selected", "auto", "fuser"}
