"""Choosing an aggregator: natural panels that decide, synthetic ones that screen, equal calls, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from aggregators.choices import MAJORITY, OVERALL, Choice
from aggregators.selected import Selected
from eval.aggregator_selection import AggregatorSelection, SelectionJob, select_aggregator
from eval.aggregator_trials import draw_trials
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.config import EngineConfig, PartConfig
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import AnswerKind, Completion, CompletionError, Expert, Outcome, Question, Usage

WRITER = Choice(aggregator="synthesise", expert="e4")
CONFIG = EngineConfig(annotator=PartConfig(name="blank"), recruiter=PartConfig(name="fixed"), k=3)
POOL = Pool(name="five", experts=tuple(Expert(id=f"e{i}", model="m", backend="echo") for i in range(5)))


def question(number):
    return Question(
        id=f"q{number}",
        text=f"Which one, {number}?",
        options=("one", "two", "three", "four"),
        answer="B",
        answer_kind=AnswerKind.CHOICE,
    )


def said(question_id, expert_id, letter, *, thoughts=""):
    text = f"{thoughts}I weigh it. The answer is ({letter})."
    return Completion(query_id=question_id, expert_id=expert_id, text=text, extracted=letter)


def record(count, *, letters="BACD"):
    """`count` questions, each answered by experts e0, e1, ... with `letters`; B is right. The first three letters
    go round, so that they are the best and none of them is known to be better."""
    questions = [question(number) for number in range(count)]
    completions = {}
    for number, asked in enumerate(questions):
        turn = number % 3
        row = letters[:3][turn:] + letters[:turn] + letters[3:]
        completions[asked.id] = [said(asked.id, f"e{i}", letter) for i, letter in enumerate(row)]
    return questions, completions


def job(questions, completions, *candidates, config=CONFIG):
    outcomes = [
        Outcome(
            dataset="d",
            split="fit",
            question_id=q.id,
            expert_id=c.expert_id,
            extracted=c.extracted,
            correct=float(c.extracted == "B"),
        )
        for q in questions
        for c in completions[q.id]
    ]
    artefact = Artefact.fit(outcomes, questions, pool_name="five")
    return SelectionJob(pool=POOL, artefact=artefact, completions=completions, candidates=candidates, config=config)


class Writer:
    """Reads the drafts in its prompt; a good one answers B where a draft does, any other one A."""

    def __init__(self, *, is_good=True, error=None):
        self.is_good, self.error, self.calls = is_good, error, []

    async def __call__(self, expert_id, query, *, is_visible=False):
        self.calls.append((expert_id, query))
        letter = "B" if self.is_good and "(B)" in query.text else "A"
        text = f"The answer is ({letter})."
        return Completion(
            query_id=query.id, expert_id=expert_id, text=text, usage=Usage(completions=1), error=self.error
        )


async def test_a_writer_that_rescues_the_right_answer_is_chosen():
    """The three best of five, one of them right and two level on a wrong answer; a fourth one is wrong elsewhere."""
    seen = []
    got = await select_aggregator(
        job(*record(30, letters="BAAC"), WRITER),
        ask=Writer(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert got.table.cells == {OVERALL: WRITER}
    evidence = {one.choice.name: one for one in got.overall.candidates}
    assert evidence["majority"].accuracy == evidence["weighted"].accuracy == 0.0
    assert (evidence["synthesise:e4"].accuracy, evidence["synthesise:e4"].own_calls) == (1.0, 1.0)
    assert got.overall.n == got.overall.n_disputed == len(got.trials) == 30
    assert set(got.trials[0]["experts"]) == {"e0", "e1", "e2"}
    assert got.grades["synthesise:e4"] == (1.0,) * 30
    assert seen[-1] == (3 * 60, 3 * 60)


async def test_as_many_drafts_instead_may_do_as_well():
    """Sixty questions that the three best know and the fourth does not, thirty on which they say three things: a writer
    is right on these, but so is the vote with the fourth one's completion, and that is one call as well."""
    questions, completions = record(90, letters="BACB")
    for easy in questions[30:]:
        completions[easy.id] = [said(easy.id, f"e{i}", letter) for i, letter in enumerate("BBBA")]
    got = await select_aggregator(job(questions, completions, WRITER), ask=Writer())
    majority, _, writer = got.overall.candidates
    assert 60 / 90 <= majority.accuracy < 0.8
    assert (writer.accuracy, writer.own_calls) == (1.0, pytest.approx(1 / 3))
    assert writer.equal["majority"] == 1.0
    assert got.overall.chosen == MAJORITY


async def test_where_no_further_completion_is_recorded_it_says_so():
    got = await select_aggregator(job(*record(30, letters="BAA"), WRITER), ask=Writer())
    assert got.overall.candidates[2].n_short == 30
    assert got.overall.candidates[0].n_short == 0


async def test_a_writer_no_better_than_the_vote_on_synthetic_panels_is_tried_no_further():
    ask = Writer(is_good=False)
    got = await select_aggregator(job(*record(30, letters="BAAC"), WRITER), ask=ask)
    assert [one.screened_out for one in got.screenings] == [False, False, True]
    assert [one.choice.name for one in got.overall.candidates] == ["majority", "weighted"]
    assert got.overall.chosen == MAJORITY
    assert len(ask.calls) == got.screenings[2].n == 30


async def test_thin_evidence_leaves_the_vote():
    got = await select_aggregator(job(*record(19, letters="BAAC"), WRITER), ask=Writer())
    assert got.overall.chosen == MAJORITY
    assert "only 19 panels" in got.overall.reason
    assert got.overall.candidates[2].accuracy == 1.0


async def test_a_writer_that_fails_falls_back_and_is_not_chosen():
    ask = Writer(error=CompletionError(code="expert_timeout", message="late"))
    got = await select_aggregator(job(*record(30, letters="BACD"), WRITER), ask=ask)
    assert got.overall.chosen == MAJORITY
    assert got.screenings[2].fallbacks == 30


async def test_candidates_that_learn_know_nothing_of_the_question_at_hand():
    """By heart, `fuser` would be right everywhere: every question has an answer of its own that nobody else gives."""
    got = await select_aggregator(job(*record(30, letters="BAAC"), Choice(aggregator="auto")), ask=Writer())
    assert got.overall.candidates[2].choice.name == "auto"
    assert got.overall.candidates[2].fallbacks == 0


async def test_the_prompt_is_that_of_service_without_thoughts():
    questions, completions = record(3)
    completions["q0"] = [said("q0", "e0", "B", thoughts="<think>secret</think>"), *completions["q0"][1:3]]
    ask = Writer()
    await select_aggregator(job(questions, completions, WRITER), ask=ask)
    prompt = next(query.text for _, query in ask.calls if query.parent_id == "q0")
    assert prompt.count("drafts of an answer to one question") == 1
    assert prompt.count("A) one\nB) two\nC) three\nD) four") == 1
    assert "secret" not in prompt
    assert re.findall(r"draft (\d)\]", prompt)[::2] == ["1", "2", "3"]


def test_a_trial_is_one_right_and_two_wrong_and_never_filled_up():
    questions, completions = record(4)
    completions["q1"] = [said("q1", "e0", "B"), said("q1", "e1", "A")]
    completions["q2"] = [said("q2", f"e{i}", "A") for i in range(4)]
    silent = dataclasses.replace(said("q3", "e3", "A"), text="", extracted=None)
    failed = dataclasses.replace(said("q3", "e4", "A"), error=CompletionError(code="expert_error", message="x"))
    completions["q3"] = [said("q3", "e0", "B"), said("q3", "e1", "A"), silent, failed]
    [(drawn, panel)] = draw_trials(questions, completions, seed=0, experts=POOL.experts)
    assert drawn.id == "q0"
    assert set(panel.experts) == {f"e{i}" for i in range(5)}
    letters = [completion.extracted for completion in panel.completions]
    assert letters.count("B") == 1
    assert len(letters) == 3


def test_the_shuffle_follows_the_seed_and_leaves_no_place_to_the_right_answer():
    questions, completions = record(60)

    def places(seed):
        trials = draw_trials(questions, completions, seed=seed)
        return [[c.extracted for c in panel.completions].index("B") for _, panel in trials]

    assert places(1) == places(1) != places(2)
    assert set(places(1)) == {0, 1, 2}


def test_p_correct_is_learnt_from_the_other_questions_alone():
    questions = [question(number) for number in range(3)]
    completions = {q.id: [said(q.id, f"e{i}", letter) for i, letter in enumerate("BACD")] for q in questions}
    _, panel = draw_trials(questions, completions, seed=0)[0]
    assert panel.p_correct("e0") == pytest.approx((2 + 1) / (2 + 2))
    others = {c.expert_id for c in panel.completions} - {"e0"}
    assert all(panel.p_correct(expert_id) == pytest.approx(1 / 4) for expert_id in others)


async def test_an_answer_not_yet_extracted_is_read_and_graded_tolerantly():
    questions, completions = record(1)
    completions["q0"] = [dataclasses.replace(c, extracted=None) for c in completions["q0"]]
    [(_, panel)] = draw_trials(questions, completions, seed=0)
    assert sorted(c.extracted for c in panel.completions).count("B") == 1
    got = await select_aggregator(job(*record(1)), ask=Writer())
    assert got.overall.n == 1


async def test_an_unknown_candidate_shows_before_any_call():
    ask = Writer()
    with pytest.raises(UnknownNameError, match="Did you mean 'synthesise'"):
        await select_aggregator(job(*record(3), Choice(aggregator="synthesize")), ask=ask)
    assert ask.calls == []


async def test_a_selection_is_saved_read_and_used(tmp_path):
    got = await select_aggregator(job(*record(30, letters="BAAC"), WRITER), ask=Writer())
    path = tmp_path / "made" / "aggregator.json"
    got.save(path)
    assert AggregatorSelection.load(path) == got
    assert Selected(path=str(path)).table == got.table
    assert [entry.name for entry in path.parent.iterdir()] == ["aggregator.json"]
    document = json.loads(path.read_text("utf-8"))
    del document["grades"]
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(ConfigError, match="is incomplete"):
        AggregatorSelection.load(path)


async def test_the_same_seed_selects_the_same():
    config = CONFIG.model_copy(update={"seed": 3})
    runs = [await select_aggregator(job(*record(30), WRITER, config=config), ask=Writer()) for _ in "ab"]
    assert runs[0] == runs[1]
