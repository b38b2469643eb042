"""What every expert said to the fit questions, as arrays: what a panel of them would have answered, and how rightly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregators.equivalence import canonical, held_answer
from router_service.recruit.base import FitData
from router_service.recruit.strength import Floats
from router_service.types import AnswerKind, Completion, Outcome, TaskFormat

__all__ = ["Ballots", "Numbers", "RecordedAnswers", "answer_numbers"]

Numbers = NDArray[np.int64]
SILENT = -1


class RecordedAnswers:
    """Rows are fit questions (by id), columns experts in the pool's order; answers are numbered question by question.

    `heard` is the number of the answer an expert was read to give, -1 for none. `votes` says whose answers are the
    same where that is known better: nobody's answer to a question may have been recorded, only who was right, and
    then the right ones are alike and every wrong one is different. `grades` is how right each answer is, shape
    (questions, answers); `known` says who was asked at all. Of several samples the first one counts.
    """

    def __init__(self, *, heard: Numbers, votes: Numbers, grades: Floats, known: NDArray[np.bool_]) -> None:
        self.heard = heard
        self.votes = votes
        self.grades = grades
        self.known = known

    @classmethod
    def of(cls, data: FitData, question_ids: Sequence[str]) -> RecordedAnswers:
        """The answers to these questions."""
        by_question: dict[str, dict[str, Outcome]] = {question_id: {} for question_id in question_ids}
        for outcome in sorted(data.outcomes, key=lambda o: o.sample):
            if outcome.question_id in by_question:
                by_question[outcome.question_id].setdefault(outcome.expert_id, outcome)
        size = (len(question_ids), len(data.experts))
        heard, votes, known = np.full(size, SILENT), np.full(size, SILENT), np.zeros(size, dtype=bool)
        grades = np.zeros((size[0], max(1, size[1])))
        for row, question_id in enumerate(question_ids):
            asked = by_question[question_id]
            question = data.questions.get(question_id)
            kind = question.answer_kind if question is not None else AnswerKind.FREE
            outcomes = [asked.get(expert.id) for expert in data.experts]
            known[row] = [outcome is not None for outcome in outcomes]
            keys = [_key(outcome.extracted, kind) if outcome is not None else None for outcome in outcomes]
            heard[row] = _numbered(keys)
            votes[row] = _numbered(_told_apart(keys, outcomes))
            for number in range(votes[row].max(initial=SILENT) + 1):
                said = [o.correct for o, v in zip(outcomes, votes[row], strict=True) if o is not None and v == number]
                grades[row, number] = sum(said) / len(said)
        return cls(heard=heard, votes=votes, grades=grades, known=known)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> RecordedAnswers:
        """What `as_arrays` gave, made whole again."""
        return cls(**{name: arrays[name] for name in ("heard", "votes", "grades", "known")})

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """The four arrays by name."""
        return {"heard": self.heard, "votes": self.votes, "grades": self.grades, "known": self.known}

    def pattern_distances(self, members: Sequence[int], numbers: Sequence[int]) -> Floats:
        """How unlike the members' answers here (by number, -1 for none) each fit question's are, in [0, 1]: the share
        of differences over who is silent and which two agree. A question that some member was not asked is at 1."""
        if not members:
            return np.zeros(len(self.heard))
        there, here = self.heard[:, list(members)], np.array(numbers)
        differences = [(there < 0) != (here < 0)]
        for i in range(len(members)):
            agree_there = (there[:, i : i + 1] == there[:, i + 1 :]) & (there[:, i : i + 1] >= 0)
            agree_here = (here[i] == here[i + 1 :]) & (here[i] >= 0)
            differences.append(agree_there != agree_here)
        distances = np.concatenate(differences, axis=1).mean(axis=1)
        return np.asarray(np.where(self.known[:, list(members)].all(axis=1), distances, 1.0), dtype=np.float64)


class Ballots:
    """The weighted vote of a growing panel on some of the fit questions, of which each counts for a share."""

    def __init__(self, answers: RecordedAnswers, rows: Numbers, shares: Floats) -> None:
        self._votes, self._grades, self._known = answers.votes[rows], answers.grades[rows], answers.known[rows]
        self._each = np.arange(len(rows))
        self._tallies = np.zeros(self._grades.shape)
        self._shares = shares.copy()

    def add(self, position: int, weight: float) -> None:
        """The expert at this position votes too; questions that it was not asked count no more."""
        votes = self._votes[:, position]
        has_voted = votes >= 0
        self._tallies[self._each[has_voted], votes[has_voted]] += weight
        self._shares[~self._known[:, position]] = 0.0

    def grades(self) -> Floats:
        """How right the panel's answer to each question is, shape (questions,)."""
        return self._standing()[0]

    def error(self) -> float:
        """How wrong the panel's answers are, in [0, 1]; a panel that says nothing is wrong, and so is one that was
        asked none of the questions. Of equal answers the first counts, so weights should leave no ties."""
        count = self._shares.sum()
        return float(1.0 - (self._shares * self.grades()).sum() / count) if count > 0 else 1.0

    def errors_with(self, weight: float) -> Floats:
        """The same for the panel with each expert of the pool added, at this weight; shape (experts,)."""
        grades, heights = self._standing()
        said = np.maximum(self._votes, 0)
        each = self._each[:, None]
        wins = (self._votes >= 0) & (self._tallies[each, said] + weight > heights[:, None])
        widened = np.where(wins, self._grades[each, said], grades[:, None])
        shares = self._known * self._shares[:, None]
        counts = shares.sum(axis=0)
        errors = 1.0 - (shares * widened).sum(axis=0) / np.where(counts > 0, counts, 1.0)
        return np.where(counts > 0, errors, 1.0)

    def _standing(self) -> tuple[Floats, Floats]:
        """Grade and weight of the answer that leads on each question."""
        leader = self._tallies.argmax(axis=1)
        heights = self._tallies[self._each, leader]
        return np.where(heights > 0, self._grades[self._each, leader], 0.0), heights


def answer_numbers(completions: Sequence[Completion], kind: AnswerKind) -> list[int]:
    """The completions' answers by number, equal ones alike, -1 for none. Cheap: no formula is computed."""
    return _numbered([_completion_key(completion, kind) for completion in completions])


def _completion_key(completion: Completion, kind: AnswerKind) -> str | None:
    if not completion.succeeded:
        return None
    if completion.tool_calls:
        calls = sorted([call.name, canonical(call.arguments, AnswerKind.JSON)] for call in completion.tool_calls)
        return f"tools:{json.dumps(calls)}"
    return _key(held_answer(completion, TaskFormat(kind=kind)), kind)


def _key(answer: str | None, kind: AnswerKind) -> str | None:
    return f"answer:{canonical(answer, kind)}" if answer is not None and answer.strip() else None


def _told_apart(keys: Sequence[str | None], outcomes: Sequence[Outcome | None]) -> list[str | None]:
    """The keys, with answers that were graded but not recorded: right ones are like any right one, and where nothing
    at all was recorded, every wrong one is an answer of its own."""
    right = next((k for k, o in zip(keys, outcomes, strict=True) if k and o is not None and o.correct >= 0.5), "right")
    is_recorded = any(keys)
    told: list[str | None] = []
    for number, (key, outcome) in enumerate(zip(keys, outcomes, strict=True)):
        if key is not None or outcome is None:
            told.append(key)
        elif outcome.correct >= 0.5:
            told.append(right)
        else:
            told.append(None if is_recorded else f"wrong:{number}")
    return told


def _numbered(keys: Sequence[str | None]) -> list[int]:
    """The keys' numbers in order of appearance, -1 for None."""
    numbers: dict[str, int] = {}
    return [SILENT if key is None else numbers.setdefault(key, len(numbers)) for key in keys]
