"""Who votes by length, and what length says of whom."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from aggregators.lengths import length_habits
from aggregators.topk_complex_vote import TopkComplexVote
from router_service.errors import ConfigError, NotFittedError
from router_service.types import Expert, FitData, Outcome, Usage
from tests.aggregators.panels import FakeAsk, panel, said
from tests.experts_registry.golden import golden


def graded(signs, *, questions=60, hardness=0.0, seed=5):
    """Outcomes in which each expert's longer completions are right more often (+1), less often (-1), or neither; with
    `hardness` hard questions make everybody write more and err more."""
    drawn, outcomes = random.Random(seed), []
    for number in range(questions):
        hard = drawn.random() < 0.5
        for expert_id, sign in signs.items():
            length = drawn.gauss(0.0, 1.0)
            p = 0.5 + 0.45 * sign * (1 if length > 0 else -1) - hardness * (1 if hard else -1) * 0.4
            tokens = round(100 * 2 ** (0.5 * length + hardness * 3 * hard))
            is_right = drawn.random() < p
            outcomes.append(
                Outcome(
                    dataset="d",
                    split="fit",
                    question_id=f"f{number}",
                    expert_id=expert_id,
                    correct=float(is_right),
                    completion_tokens=tokens,
                )
            )
    return FitData(experts=tuple(Expert(id=i, model="m", backend="echo") for i in signs), outcomes=tuple(outcomes))


def fitted(signs, **options):
    return TopkComplexVote(**options).fit(graded(signs))


def written(expert_id, answer, *, sample=0, lines=1, tokens=0):
    text = "\n".join([*(f"Step {n}." for n in range(lines - 1)), f"The answer is ({answer})."])
    return replace(said(expert_id, answer, sample=sample, text=text), usage=Usage(completion_tokens=tokens))


def test_signs_are_measured_per_expert():
    habits = length_habits(graded({"long": 1, "short": -1, "both": 0}).outcomes, level=0.01)
    assert {name: habit.sign for name, habit in habits.items()} == {"long": 1, "short": -1, "both": 0}
    assert habits["long"].standing(100) == pytest.approx(0.0, abs=0.4)
    assert habits["long"].standing(400) > 2 > habits["long"].standing(150) > 0


def test_what_makes_a_question_hard_says_nothing_of_who_is_right_on_it():
    """Where everybody writes more on hard questions and errs more there, length alone would go with failure."""
    data = graded({"long": 0.4, "plain": 0, "other": 0}, questions=600, hardness=0.6)
    alone = [outcome for outcome in data.outcomes if outcome.expert_id == "long"]
    assert length_habits(alone, level=0.05)["long"].sign == -1
    assert length_habits(data.outcomes, level=0.05)["long"].sign == 1


def test_few_outcomes_or_none_say_nothing():
    data = graded({"long": 1}, questions=9)
    assert length_habits(data.outcomes, level=0.05) == {}
    assert length_habits([], level=0.05) == {}
    unknown = [replace(outcome, completion_tokens=None) for outcome in graded({"long": 1}).outcomes]
    assert length_habits(unknown, level=0.05) == {}


@pytest.mark.parametrize(("top", "key"), [(7, "all"), (3, "top3"), (5, "top5")])
async def test_the_worked_example(top, key):
    case = golden("complexity_vote")
    members = [written("ann", answer, sample=i, lines=steps) for i, (steps, answer) in enumerate(case["chains"])]
    got = await fitted({"ann": 1}, top=top).aggregate(panel(members), ask=FakeAsk())
    assert got.extracted == case[key]
    got = await fitted({"ann": -1}, top=3).aggregate(panel(members), ask=FakeAsk())
    assert (got.extracted, got.confidence) == ("A", 1.0)


async def test_where_length_says_nothing_all_vote():
    members = [written("ann", answer, sample=i, lines=9 - i) for i, answer in enumerate("ABB")]
    for vote in (fitted({"ann": 0}, top=1), fitted({"zoe": 1}, top=1), TopkComplexVote(top=1).fit(FitData(experts=()))):
        assert (await vote.aggregate(panel(members), ask=FakeAsk())).extracted == "B"


async def test_experts_are_compared_by_their_own_usual_length():
    """Both wrote 160 tokens: that is long for one who is right when long, and for one who is wrong when long."""
    members = [
        written("short", "B", tokens=160),
        written("short", "B", tokens=160, sample=1),
        written("long", "A", tokens=160),
        written("long", "C", tokens=60, sample=1),
    ]
    only_answers = [replace(member, text=member.extracted) for member in members]
    got = await fitted({"long": 1, "short": -1}, top=1).aggregate(panel(only_answers), ask=FakeAsk())
    assert got.extracted == "A"
    got = await fitted({"long": -1, "short": 1}, top=2).aggregate(panel(only_answers), ask=FakeAsk())
    assert got.extracted == "B"


async def test_an_unknown_length_stands_in_the_middle():
    members = [written("ann", "A", tokens=300), written("ann", "B", sample=1), written("ann", "C", tokens=20, sample=2)]
    bare = [replace(member, text=member.extracted) for member in members]
    got = await fitted({"ann": 1}, top=2).aggregate(panel(bare), ask=FakeAsk())
    assert (got.extracted, got.confidence) == ("A", 0.5)


async def test_what_was_measured_comes_back_from_a_file(tmp_path):
    vote = fitted({"long": 1, "short": -1}, level=0.01)
    vote.save(tmp_path / "vote")
    again = TopkComplexVote(level=0.01).load(tmp_path / "vote")
    assert again.habits_ == vote.habits_
    with pytest.raises(ConfigError, match=r"level 0\.01"):
        TopkComplexVote().load(tmp_path / "vote")
    with pytest.raises(NotFittedError):
        TopkComplexVote().save(tmp_path / "nothing")


@pytest.mark.parametrize("options", [{"top": 0}, {"share": 0.0}, {"share": 1.1}, {"level": 1.0}])
def test_options_outside_their_range_are_refused(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
        TopkComplexVote(**options)
