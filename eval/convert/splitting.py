"""Deals questions out to the splits `fit` and `test` by their text, so that no text is on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from eval.convert.base import TO_SPLIT
from eval.question_text import normalised_text
from router_service.errors import ConfigError
from router_service.types import Question, stable_seed

__all__ = ["split_questions"]

_SEEDS = 1 << 63


def split_questions(questions: Iterable[Question], *, fit_share: float, seed: int) -> tuple[Question, ...]:
    """The questions, those to split (`TO_SPLIT`) in `fit` with probability `fit_share`, else in `test`.

    The side depends on the seed and on the normalised text alone: copies of a text stay together, and a question
    stays where it is when others come or go. Raises `ConfigError` where a side stays empty.
    """
    if not 0 < fit_share < 1:
        raise ConfigError(f"the share to fit on is {fit_share}; it must lie between 0 and 1, neither included")
    split = tuple(
        replace(question, split=_side(question, fit_share, seed)) if question.split == TO_SPLIT else question
        for question in questions
    )
    empty = {"fit", "test"} - {question.split for question in split}
    if empty:
        raise ConfigError(
            f"no question fell to {' and '.join(sorted(empty))} ({len(split)} in all, share to fit on {fit_share}); "
            "take another --split-seed or --fit-share, or bring more questions"
        )
    return split


def _side(question: Question, fit_share: float, seed: int) -> str:
    drawn = stable_seed(seed, "fit or test", normalised_text(question.text)) / _SEEDS
    return "fit" if drawn < fit_share else "test"
