"""Candidates at work on panels whose right answers are known: what each said and cost, and what votes had said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aggregators.base import Aggregator
from aggregators.choices import MAJORITY, Choice
from eval._selection_panels import NaturalPanels, Trial
from eval.grading import grade
from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.types import Ask

__all__ = ["VOTES", "Attempt", "Attempts", "EqualVotes", "attempt_all"]

VOTES = (MAJORITY, Choice(aggregator="weighted"))
"""What a candidate has to beat, over as many calls as it makes."""

_MAX_TRIALS_AT_ONCE = 256
"""So many panels are aggregated together, which an embedded engine answers in few batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a candidate made of one panel: its grade, its own calls, and whether another aggregator had to answer."""

    grade: float
    calls: int = 0
    fell_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """A candidate's attempts, one a trial in order, and the votes' grades over as many calls, by vote. `is_short` marks
    trials for which too few further completions are on record to make it as many."""

    choice: Choice
    attempts: tuple[Attempt, ...]
    equal: Mapping[str, tuple[float, ...]]
    is_short: tuple[bool, ...]


async def attempt_all(
    choice: Choice,
    trials: Sequence[Trial],
    *,
    made: Callable[[str], Aggregator],
    ask: Ask,
    report: Callable[[], None],
) -> tuple[Attempt, ...]:
    """The candidate on every trial, `made` giving the aggregator for a question's id.

    A trial that fails is a wrong one; an unknown aggregator or expert, or a broken set-up, raises.
    """
    gate = asyncio.Semaphore(_MAX_TRIALS_AT_ONCE)

    async def one(trial: Trial) -> Attempt:
        async with gate:
            try:
                answer = await made(trial.question.id).aggregate(trial.panel, ask=ask)
            except (ConfigError, UnknownNameError):
                raise
            except RouterError:
                return Attempt(grade=0.0)
            finally:
                report()
        correct = await asyncio.to_thread(grade, answer.extracted, trial.question)
        return Attempt(grade=correct, calls=answer.usage.completions, fell_back=_fell_back(choice, answer.aggregator))

    return tuple(await asyncio.gather(*(one(trial) for trial in trials)))


def _fell_back(choice: Choice, answered_by: str) -> bool:
    """Whether another one answered; `auto` answers in the name of whom it chose."""
    return choice.aggregator not in ("auto", answered_by)


class EqualVotes:
    """The votes over panels of k completions and c more, as recruiting would have given them."""

    def __init__(self, panels: NaturalPanels, *, k: int, ask: Ask) -> None:
        self._panels = panels
        self._k = k
        self._ask = ask
        self._known: dict[tuple[str, int], dict[str, Attempt]] = {}

    async def beside(self, choice: Choice, trials: Sequence[Trial], attempts: tuple[Attempt, ...]) -> Attempts:
        """The attempts with what the votes reach over as many calls on each trial."""
        sizes = [self._k + attempt.calls for attempt in attempts]
        equal = {}
        for vote in VOTES:
            runs = {size: await self._of_size(vote, size) for size in sorted(set(sizes))}
            equal[vote.name] = tuple(
                runs[size][trial.question.id].grade for trial, size in zip(trials, sizes, strict=True)
            )
        is_short = []
        for trial, attempt, size in zip(trials, attempts, sizes, strict=True):
            widened = (await self._panels.of_size(size))[trial.question.id]
            is_short.append(attempt.calls > 0 and widened.n_distinct < trial.n_distinct + attempt.calls)
        return Attempts(choice=choice, attempts=attempts, equal=equal, is_short=tuple(is_short))

    async def _of_size(self, vote: Choice, size: int) -> dict[str, Attempt]:
        if (vote.name, size) not in self._known:
            trials = list((await self._panels.of_size(size)).values())
            voted = await attempt_all(
                vote, trials, made=lambda question_id: self._panels.taught(vote, question_id), ask=self._ask,
                report=_silent,
            )  # fmt: skip
            self._known[vote.name, size] = {t.question.id: a for t, a in zip(trials, voted, strict=True)}
        return self._known[vote.name, size]


def _silent() -> None:
    """Votes take no time worth reporting."""
