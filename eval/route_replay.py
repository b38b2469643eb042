"""Re-decides logged decisions with another engine (a new artefact, say), and says what would change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from router_service.decision_log import DecisionRecord
from router_service.engine import Engine
from router_service.types import DecisionMade, Failed, Query, RouteDecision, RouteFailure

__all__ = ["DecisionChange", "RouteReplay", "replay_decisions"]

_WINDOW = 256
_LEVEL = 1e-9
"""Scores and chances nearer than this are the same."""

Progress = Callable[[int, int], None]
"""Called with the decisions made anew and the decisions in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionChange:
    """One logged decision and what is decided now; `after` is None where nothing can be decided now (`failure`)."""

    record: DecisionRecord
    after: RouteDecision | None
    failure: RouteFailure | None = None

    @property
    def joined(self) -> tuple[str, ...]:
        """The experts recruited now and not then."""
        then = _samples(self.record.decision)
        return tuple(name for name in _samples(self.after) if name not in then)

    @property
    def left(self) -> tuple[str, ...]:
        """The experts recruited then and not now."""
        now = _samples(self.after)
        return tuple(name for name in _samples(self.record.decision) if name not in now)

    @property
    def has_other_panel(self) -> bool:
        """Whether other experts, or as many samples of them, are asked, or another aggregator makes the answer."""
        if self.after is None:
            return True
        before = self.record.decision
        return _samples(before) != _samples(self.after) or before.aggregator != self.after.aggregator

    @property
    def has_other_numbers(self) -> bool:
        """Whether a score or chance differs, or why the decision is a fallback, whoever is asked."""
        if self.after is None:
            return True
        before = self.record.decision
        return (
            not _are_level(before.scores, self.after.scores)
            or not _are_level(_chances(before), _chances(self.after))
            or (before.is_fallback, before.fallback_reason) != (self.after.is_fallback, self.after.fallback_reason)
        )

    @property
    def p_correct_shift(self) -> float | None:
        """How much the best recruit's P(correct) rose; None where one of the two has none."""
        then, now = _best_chance(self.record.decision), _best_chance(self.after)
        return None if then is None or now is None else now - then

    def as_json(self) -> dict[str, Any]:
        """What changed, for programs."""
        before, after = self.record.decision, self.after
        scores = after.scores if after is not None else {}
        return {
            "query_id": self.record.query.id,
            "time": self.record.time,
            "question": self.record.query.text,
            "has_other_panel": self.has_other_panel,
            "joined": list(self.joined),
            "left": list(self.left),
            "before": _panel(before),
            "after": None if after is None else _panel(after),
            "p_correct_shift": self.p_correct_shift,
            "scores": {
                name: [_number(before.scores.get(name)), _number(scores.get(name))]
                for name in {**before.scores, **scores}
            },
            "failure": None if self.failure is None else {"code": self.failure.code, "message": self.failure.message},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteReplay:
    """All decisions made anew, in the log's order."""

    changes: tuple[DecisionChange, ...]

    @property
    def n_other_panels(self) -> int:
        """How many would ask others, or aggregate otherwise."""
        return sum(change.has_other_panel for change in self.changes)

    @property
    def n_other_numbers(self) -> int:
        """How many ask the same experts for other reasons: other scores, chances or fallback."""
        return sum(change.has_other_numbers and not change.has_other_panel for change in self.changes)

    @property
    def n_failed(self) -> int:
        """How many can no longer be decided."""
        return sum(change.after is None for change in self.changes)

    @property
    def mean_p_correct_shift(self) -> float | None:
        """The mean rise of the best recruit's P(correct), over the decisions that have one then and now."""
        shifts = [shift for change in self.changes if (shift := change.p_correct_shift) is not None]
        return math.fsum(shifts) / len(shifts) if shifts else None

    @property
    def shares(self) -> dict[str, tuple[float, float]]:
        """Each expert's share of all completions asked for, then and now; who gains or loses most first."""
        then, now = Counter[str](), Counter[str]()
        for change in self.changes:
            then.update(_samples(change.record.decision))
            now.update(_samples(change.after))
        all_then, all_now = max(1, then.total()), max(1, now.total())
        shares = {name: (then[name] / all_then, now[name] / all_now) for name in {**then, **now}}
        return dict(sorted(shares.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0])))

    def as_json(self) -> dict[str, Any]:
        """The summary, for programs; single changes left out."""
        return {
            "decisions": len(self.changes),
            "other_panel": self.n_other_panels,
            "other_numbers": self.n_other_numbers,
            "failed": self.n_failed,
            "mean_p_correct_shift": self.mean_p_correct_shift,
            "shares": {name: list(pair) for name, pair in self.shares.items()},
        }


async def replay_decisions(
    engine: Engine, records: Sequence[DecisionRecord], *, on_progress: Progress | None = None
) -> RouteReplay:
    """Decide every logged query again, with the seed used then; no expert is asked (an LLM annotator is)."""
    changes: list[DecisionChange] = []
    for window in _windows(records):
        ends = await engine.route([_again(record) for record in window])
        changes += [_change(record, end) for record, end in zip(window, ends, strict=True)]
        if on_progress is not None:
            on_progress(len(changes), len(records))
    return RouteReplay(changes=tuple(changes))


def _windows(records: Sequence[DecisionRecord]) -> Iterator[list[DecisionRecord]]:
    """The records in order, in groups in which no query id occurs twice."""
    window: list[DecisionRecord] = []
    ids: set[str] = set()
    for record in records:
        if record.query.id in ids or len(window) == _WINDOW:
            yield window
            window, ids = [], set()
        window.append(record)
        ids.add(record.query.id)
    if window:
        yield window


def _again(record: DecisionRecord) -> Query:
    return replace(record.query, seed=record.decision.seed)


def _change(record: DecisionRecord, end: DecisionMade | Failed) -> DecisionChange:
    if isinstance(end, DecisionMade):
        return DecisionChange(record=record, after=end.decision)
    return DecisionChange(record=record, after=None, failure=end.failure)


def _samples(decision: RouteDecision | None) -> dict[str, int]:
    return {} if decision is None else {recruit.expert_id: recruit.samples for recruit in decision.recruits}


def _chances(decision: RouteDecision) -> dict[str, float]:
    return {r.expert_id: math.nan if r.p_correct is None else r.p_correct for r in decision.recruits}


def _best_chance(decision: RouteDecision | None) -> float | None:
    chances = [r.p_correct for r in decision.recruits if r.p_correct is not None] if decision is not None else []
    return max(chances, default=None)


def _are_level(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Whether the same names have the same numbers; two that say nothing (not a number) are the same."""
    if first.keys() != second.keys():
        return False
    return all(_is_level(value, second[name]) for name, value in first.items())


def _is_level(first: float, second: float) -> bool:
    is_nothing = not math.isfinite(first) and not math.isfinite(second)
    return is_nothing or math.isclose(first, second, rel_tol=_LEVEL, abs_tol=_LEVEL)


def _panel(decision: RouteDecision) -> dict[str, Any]:
    return {
        "experts": [
            {"expert_id": r.expert_id, "samples": r.samples, "score": _number(r.score), "p_correct": r.p_correct}
            for r in decision.recruits
        ],
        "recruiter": decision.recruiter,
        "aggregator": decision.aggregator,
        "fallback_reason": decision.fallback_reason,
    }


def _number(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
