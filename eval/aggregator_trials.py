"""Draws the trials of aggregator selection: panels of one right and two wrong completions out of what is on record."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aggregators.extract import extract
from eval.grading import grade, question_query, task_format_of
from router_service.types import (
    Completion,
    Expert,
    Panel,
    Question,
    Recruit,
    RouteDecision,
    SkillAnnotation,
    Tally,
    stable_seed,
)

__all__ = ["draw_trials"]

_WRONG_PER_TRIAL = 2


def draw_trials(
    questions: Sequence[Question],
    completions: Mapping[str, Sequence[Completion]],
    *,
    seed: int,
    experts: Sequence[Expert] = (),
) -> list[tuple[Question, Panel]]:
    """Each question that has the completions, with its panel of three, shuffled; the same for the same seed.

    `completions` holds what was recorded, by question id. The panel's P(correct) of an expert is its smoothed success
    rate on the other questions; `experts` are those whom an aggregator may ask.
    """
    askable = {expert.id: expert for expert in experts}
    graded = {question.id: _graded(question, completions.get(question.id, ())) for question in questions}
    overall: dict[str, Tally] = {}
    for rows in graded.values():
        for completion, correct in rows:
            overall[completion.expert_id] = overall.get(completion.expert_id, Tally()) + Tally(wins=correct, trials=1)
    trials = []
    for question in questions:
        drawn = _draw(question, graded[question.id], seed=seed)
        if drawn is not None:
            elsewhere = _without(overall, graded[question.id])
            panel = _panel(question, drawn, tallies=elsewhere, seed=seed)
            trials.append((question, replace(panel, experts=askable)))
    return trials


def _graded(question: Question, completions: Sequence[Completion]) -> list[tuple[Completion, float]]:
    rows = []
    for completion in completions:
        if completion.succeeded and (completion.text.strip() or completion.extracted):
            extracted = completion.extracted or extract(completion.text, task_format_of(question))
            rows.append((replace(completion, extracted=extracted), grade(extracted, question)))
    return rows


def _draw(question: Question, rows: Sequence[tuple[Completion, float]], *, seed: int) -> list[Completion] | None:
    right = [completion for completion, correct in rows if correct >= 0.5]
    wrong = [completion for completion, correct in rows if correct < 0.5]
    if not right or len(wrong) < _WRONG_PER_TRIAL:
        return None
    rng = random.Random(stable_seed(seed, "one right, two wrong", question.id))
    drawn = [rng.choice(right), *rng.sample(wrong, _WRONG_PER_TRIAL)]
    rng.shuffle(drawn)
    return drawn


def _without(overall: Mapping[str, Tally], rows: Sequence[tuple[Completion, float]]) -> dict[str, Tally]:
    """The experts' tallies without this question, whose answers they must not give away."""
    own: dict[str, Tally] = {}
    for completion, correct in rows:
        own[completion.expert_id] = own.get(completion.expert_id, Tally()) + Tally(wins=correct, trials=1)
    return {
        expert_id: Tally(wins=overall[expert_id].wins - tally.wins, trials=overall[expert_id].trials - tally.trials)
        for expert_id, tally in own.items()
    }


def _panel(question: Question, drawn: Sequence[Completion], *, tallies: Mapping[str, Tally], seed: int) -> Panel:
    samples = Counter(completion.expert_id for completion in drawn)
    recruits = tuple(
        Recruit(expert_id=expert_id, score=rate, p_correct=rate, samples=count)
        for expert_id, count in samples.items()
        for rate in (tallies[expert_id].rate(),)
    )
    trial_seed = stable_seed(seed, question.id)
    return Panel(
        query=question_query(question, seed=trial_seed),
        annotation=SkillAnnotation(query_id=question.id, category=question.category),
        decision=RouteDecision(query_id=question.id, recruits=recruits, recruiter="recorded", seed=trial_seed),
        completions=tuple(drawn),
    )
