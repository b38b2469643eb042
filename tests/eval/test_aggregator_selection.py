"""The one-right-two-wrong task: which trials it makes, what the candidates see, and when one is chosen."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from aggregators.selected import Choice, Selected
from eval.aggregator_selection import AggregatorSelection, select_aggregator, sign_test, wilson_interval
from eval.aggregator_trials import draw_trials
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import AnswerKind, Completion, CompletionError, Question, Usage

WRITER = Choice(aggregator="synthesise", expert="writer")


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
    """`count` questions, each answered by experts e0, e1, ... with `letters`; B is right."""
    questions = [question(number) for number in range(count)]
    return questions, {q.id: [said(q.id, f"e{i}", letter) for i, letter in enumerate(letters)] for q in questions}


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
    questions, completions = record(30)
    seen = []
    got = await select_aggregator(
        questions,
        completions,
        candidates=[WRITER],
        ask=Writer(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert got.chosen == WRITER
    vote, writer = got.results
    assert (vote.choice.name, writer.choice.name) == ("majority", "synthesise:writer")
    assert writer.accuracy == 1.0
    assert writer.p_value < 0.05
    assert 0 < vote.accuracy < 0.7
    assert vote.p_value is None
    assert len(vote.grades) == len(got.question_ids) == 30
    assert seen[-1] == (60, 60)
    assert "synthesise:writer is right on 1.000 of 30 trials" in got.reason


async def test_a_writer_no_better_than_the_vote_is_not():
    questions, completions = record(30)
    got = await select_aggregator(questions, completions, candidates=[WRITER], ask=Writer(is_good=False))
    assert got.chosen == Choice(aggregator="majority")
    assert "no candidate beats the vote" in got.reason


async def test_thin_evidence_leaves_the_vote():
    questions, completions = record(19)
    got = await select_aggregator(questions, completions, candidates=[WRITER], ask=Writer())
    assert got.chosen == Choice(aggregator="majority")
    assert "only 19 questions" in got.reason
    assert got.results[1].accuracy == 1.0


async def test_no_usable_question_leaves_the_vote():
    got = await select_aggregator([], {}, candidates=[WRITER], ask=Writer())
    assert got.chosen.name == "majority"
    assert got.results[0].interval == (0.0, 1.0)


async def test_more_candidates_need_clearer_evidence():
    """5 of 5 different trials give p = 1/32: enough for one candidate at 0.05, not for two."""
    assert sign_test([1] * 5 + [0] * 20, [0] * 25) == pytest.approx(1 / 32)
    questions, completions = record(25, letters="BAA")
    winners = {"q1", "q2", "q3", "q4", "q5"}

    async def ask(expert_id, query, *, is_visible=False):
        letter = "B" if query.parent_id in winners and expert_id == "writer" else "A"
        return Completion(query_id=query.id, expert_id=expert_id, text=f"The answer is ({letter}).")

    one = await select_aggregator(questions, completions, candidates=[WRITER], ask=ask)
    assert one.chosen == WRITER
    two = [WRITER, Choice(aggregator="synthesise", expert="other")]
    assert (await select_aggregator(questions, completions, candidates=two, ask=ask)).chosen.name == "majority"


async def test_a_writer_that_fails_falls_back_and_is_not_chosen():
    questions, completions = record(30)
    ask = Writer(error=CompletionError(code="expert_timeout", message="late"))
    got = await select_aggregator(questions, completions, candidates=[WRITER], ask=ask)
    assert got.chosen.name == "majority"
    assert got.results[1].fallbacks == 30
    assert got.results[1].grades == got.results[0].grades


async def test_the_prompt_is_that_of_service_without_thoughts():
    questions, completions = record(3)
    completions["q0"] = [
        said("q0", "e0", "B", thoughts="<think>secret</think>"), *completions["q0"][1:3],
    ]  # fmt: skip
    ask = Writer()
    await select_aggregator(questions, completions, candidates=[WRITER], ask=ask)
    prompt = next(query.text for _, query in ask.calls if query.parent_id == "q0")
    assert prompt.count("drafts of an answer to one question") == 1
    assert prompt.count("A) one\nB) two\nC) three\nD) four") == 1
    assert "secret" not in prompt
    assert re.findall(r"Draft (\d):", prompt) == ["1", "2", "3"]


def test_a_trial_is_one_right_and_two_wrong_and_never_filled_up():
    questions, completions = record(4)
    completions["q1"] = [said("q1", "e0", "B"), said("q1", "e1", "A")]
    completions["q2"] = [said("q2", f"e{i}", "A") for i in range(4)]
    silent = dataclasses.replace(said("q3", "e3", "A"), text="", extracted=None)
    failed = dataclasses.replace(said("q3", "e4", "A"), error=CompletionError(code="expert_error", message="x"))
    completions["q3"] = [said("q3", "e0", "B"), said("q3", "e1", "A"), silent, failed]
    [(drawn, panel)] = draw_trials(questions, completions, seed=0)
    assert drawn.id == "q0"
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
    questions, completions = record(3, letters="BACD")
    _, panel = draw_trials(questions, completions, seed=0)[0]
    assert panel.p_correct("e0") == pytest.approx((2 + 1) / (2 + 2))
    others = {c.expert_id for c in panel.completions} - {"e0"}
    assert all(panel.p_correct(expert_id) == pytest.approx(1 / 4) for expert_id in others)


def test_an_answer_not_yet_extracted_is_read_and_graded_tolerantly():
    questions, completions = record(1)
    completions["q0"] = [dataclasses.replace(c, extracted=None) for c in completions["q0"]]
    [(_, panel)] = draw_trials(questions, completions, seed=0)
    assert sorted(c.extracted for c in panel.completions).count("B") == 1


async def test_an_unknown_candidate_shows_before_any_call():
    questions, completions = record(3)
    ask = Writer()
    with pytest.raises(UnknownNameError, match="Did you mean 'synthesise'"):
        await select_aggregator(questions, completions, candidates=[Choice(aggregator="synthesize")], ask=ask)
    assert ask.calls == []


async def test_a_selection_is_saved_read_and_used(tmp_path):
    questions, completions = record(30)
    got = await select_aggregator(questions, completions, candidates=[WRITER], ask=Writer(), seed=5)
    path = tmp_path / "made" / "aggregator.json"
    got.save(path)
    assert AggregatorSelection.load(path) == got
    assert Selected(path=str(path)).choice == WRITER
    assert [entry.name for entry in path.parent.iterdir()] == ["aggregator.json"]
    document = json.loads(path.read_text("utf-8"))
    del document["results"]
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(ConfigError, match="is incomplete"):
        AggregatorSelection.load(path)


async def test_the_same_seed_selects_the_same():
    questions, completions = record(30)
    runs = [await select_aggregator(questions, completions, candidates=[WRITER], ask=Writer(), seed=3) for _ in "ab"]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("wins", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_by_the_book(wins, trials, low, high):
    """The last case is the worked example of Newcombe (1998), table I."""
    assert wilson_interval(wins, trials) == pytest.approx((low, high), abs=2e-4)


def test_the_sign_test_by_hand():
    assert sign_test([1, 0], [1, 0]) == 1.0
    assert sign_test([1, 1, 1, 0], [0, 0, 0, 1]) == pytest.approx(5 / 16)
