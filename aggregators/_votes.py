"""Graded outcomes as arrays: which answer each expert gave to each question, how long it was, and which was right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregators.equivalence import canonical
from router_service.estimation import Floats, logit
from router_service.types import AnswerKind, FitData, Outcome

__all__ = ["NOBODY", "Votes", "votes_of"]

NOBODY = -1
"""The label of an expert that gave no answer, or was not asked; the number of a category that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """n questions, m experts, at most c different answers to a question.

    `labels` (n, m): the number of the answer each expert gave, `NOBODY` for none. `asked` (n, m): who was asked.
    `right` (n, c): which answers are right. `lengths` (n, m): the logarithm of 1 + completion tokens, NaN where
    unknown. `categories` (n,): the number of the question's category, `NOBODY` where unknown. `odds` (n, m): the
    log-odds of each expert to be right on the question, as expected beforehand, NaN where unknown.
    """

    labels: NDArray[np.intp]
    asked: NDArray[np.bool_]
    right: NDArray[np.bool_]
    lengths: Floats
    categories: NDArray[np.intp]
    odds: Floats

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> Votes:
        """Some of the questions."""
        return Votes(
            labels=self.labels[chosen],
            asked=self.asked[chosen],
            right=self.right[chosen],
            lengths=self.lengths[chosen],
            categories=self.categories[chosen],
            odds=self.odds[chosen],
        )

    def within(self, panel: NDArray[np.bool_]) -> Votes:
        """What is left where only the experts of each question's panel, (n, m), were asked."""
        return replace(self, labels=np.where(panel, self.labels, NOBODY), asked=self.asked & panel)

    def is_right(self, answers: NDArray[np.intp]) -> Floats:
        """1 where the answer of each question, (n,), is right, else 0; `NOBODY` is wrong."""
        if self.right.shape[1] == 0:
            return np.zeros(len(self))
        held = self.right[np.arange(len(self)), np.maximum(answers, 0)]
        return np.where(answers >= 0, held, False).astype(np.float64)

    def majority(self, strengths: Floats) -> Floats:
        """The grades, (n,), of a plurality vote on each question; ties go to the answer whose strongest voter, by
        `strengths` (n, m), is stronger."""
        counts = np.zeros((len(self), max(1, self.right.shape[1])))
        best = np.zeros_like(counts)
        for expert in range(self.labels.shape[1]):
            rows = np.flatnonzero(self.labels[:, expert] >= 0)
            labels = self.labels[rows, expert]
            counts[rows, labels] += 1
            best[rows, labels] = np.maximum(best[rows, labels], strengths[rows, expert])
        winners = np.where(counts.any(axis=1), np.argmax(counts + 1e-3 * best, axis=1), NOBODY)
        return self.is_right(winners)

    def grades(self) -> Floats:
        """1 where an expert's answer is right, 0 where it is not or there is none, NaN where it was not asked."""
        columns = [self.is_right(self.labels[:, j]) for j in range(self.labels.shape[1])]
        return np.where(self.asked, np.stack(columns, axis=1) if columns else np.zeros(self.labels.shape), np.nan)


def votes_of(data: FitData, question_ids: Sequence[str], categories: Sequence[str]) -> Votes:
    """The outcomes of these questions by the pool's experts; of several samples of one expert the first counts.

    Answers are the same where their keys are (`canonical`); without a question to say of what kind they are, where
    their words are. A wrong answer that nobody wrote down is an answer of its own kind: none. But in a dataset whose
    right answers were mostly not written down (programs, say), each answer is like no other.
    """
    unwritten = _unwritten(data)
    row_of = {question_id: row for row, question_id in enumerate(question_ids)}
    column_of = {expert.id: column for column, expert in enumerate(data.experts)}
    shape = (len(row_of), len(column_of))
    labels, asked = np.full(shape, NOBODY, dtype=np.intp), np.zeros(shape, dtype=bool)
    lengths = np.full(shape, np.nan)
    answers: list[dict[str, int]] = [{} for _ in row_of]
    right: list[list[bool]] = [[] for _ in row_of]
    for outcome in sorted(data.outcomes, key=lambda o: (o.question_id, column_of.get(o.expert_id, 0), o.sample)):
        row, column = row_of.get(outcome.question_id), column_of.get(outcome.expert_id)
        if row is None or column is None or asked[row, column]:
            continue
        asked[row, column] = True
        if outcome.completion_tokens is not None:
            lengths[row, column] = math.log1p(outcome.completion_tokens)
        key = _key(outcome, data, is_unwritten=outcome.dataset in unwritten)
        if key is not None:
            labels[row, column] = number = answers[row].setdefault(key, len(right[row]))
            if number == len(right[row]):
                right[row].append(False)
            right[row][number] |= outcome.correct >= 0.5
    return Votes(
        labels=labels,
        asked=asked,
        right=_padded(right),
        lengths=lengths,
        categories=_numbers(data, question_ids, categories),
        odds=_odds(data, question_ids),
    )


def _odds(data: FitData, question_ids: Sequence[str]) -> Floats:
    unknown = (math.nan,) * len(data.experts)
    rows = [data.chances.get(question_id, unknown) for question_id in question_ids]
    chances = np.array(rows, dtype=np.float64).reshape(len(question_ids), len(data.experts))
    return np.where(np.isnan(chances), np.nan, logit(np.nan_to_num(chances, nan=0.5)))


def _unwritten(data: FitData) -> frozenset[str]:
    """The datasets whose right answers are mostly not written down: there, "right" would be a vote that no wrong answer
    contests, and a panel would look as good as its best member."""
    written: Counter[str] = Counter()
    for outcome in data.outcomes:
        if outcome.correct >= 0.5:
            written[outcome.dataset] += 1 if (outcome.extracted or "").strip() else -1
    return frozenset(dataset for dataset, balance in written.items() if balance < 0)


def _key(outcome: Outcome, data: FitData, *, is_unwritten: bool) -> str | None:
    """What is voted with; an outcome graded right without a readable answer votes for "right"."""
    if outcome.extracted is None or not outcome.extracted.strip():
        if is_unwritten:
            return f"by {outcome.expert_id}"
        return "right" if outcome.correct >= 0.5 else None
    question = data.questions.get(outcome.question_id)
    return "said " + canonical(outcome.extracted, question.answer_kind if question is not None else AnswerKind.FREE)


def _padded(right: Sequence[Sequence[bool]]) -> NDArray[np.bool_]:
    padded = np.zeros((len(right), max(map(len, right), default=0)), dtype=bool)
    for row, flags in enumerate(right):
        padded[row, : len(flags)] = flags
    return padded


def _numbers(data: FitData, question_ids: Sequence[str], categories: Sequence[str]) -> NDArray[np.intp]:
    number_of = {category: number for number, category in enumerate(categories)}
    annotations = [data.annotations.get(question_id) for question_id in question_ids]
    known = [annotation.category if annotation is not None else None for annotation in annotations]
    return np.array([number_of.get(name, NOBODY) if name is not None else NOBODY for name in known], dtype=np.intp)
