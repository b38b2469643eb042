"""What loading a model and answering with it really took, so that the scheduler's estimates get better."""

from __future__ import annotations

from dataclasses import dataclass, replace

from router_service.backends.base import Footprint

__all__ = ["Experience"]

_WEIGHT = 0.3
"""Of the newest measurement in the exponential mean: the last five count for five sixths."""
_SPAN_S = 1.0
"""Works that end within so short a time ran together: their tokens are counted over one span."""


@dataclass(slots=True, kw_only=True)
class _Span:
    """A stretch of time in which works ran on one model of one device."""

    since: float
    running: int = 0
    tokens: float = 0.0


class Experience:
    """Exponential means of measured seconds to load and to wake, and of tokens a second, per model; in memory only.

    Tokens are the ones that were expected (prompt and longest answer), not those that came: what is learned then
    turns the same expectation of the next work into seconds.
    """

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], float] = {}
        self._spans: dict[tuple[str, str], _Span] = {}

    def informed(self, footprint: Footprint) -> Footprint:
        """The footprint with what was measured in the place of what the backend supposed."""
        model = footprint.model
        wake_s = footprint.wake_s
        return replace(
            footprint,
            load_s=self._means.get(("load", model), footprint.load_s),
            wake_s=None if wake_s is None else self._means.get(("wake", model), wake_s),
            tokens_per_s=self._means.get(("tokens", model), footprint.tokens_per_s),
        )

    def loaded(self, model: str, seconds: float, *, woke: bool) -> None:
        """A load, or a wake, took so long."""
        self._learn("wake" if woke else "load", model, seconds)

    def began(self, device: str, model: str, *, now: float) -> None:
        """A work began on a model."""
        span = self._spans.setdefault((device, model), _Span(since=now))
        span.running += 1

    def ended(self, device: str, model: str, *, tokens: float, now: float) -> None:
        """A work that began there ended, having brought what was expected to take so many tokens; 0 for a failure."""
        span = self._spans.get((device, model))
        if span is None:
            return
        span.running -= 1
        span.tokens += tokens
        passed_s = now - span.since
        if span.running and passed_s < _SPAN_S:
            return
        if span.tokens and passed_s > 0:
            self._learn("tokens", model, span.tokens / passed_s)
        if span.running:
            span.since, span.tokens = now, 0.0
        else:
            del self._spans[device, model]

    def interrupted(self) -> None:
        """What runs ends unseen, and is not measured."""
        self._spans.clear()

    def _learn(self, what: str, model: str, value: float) -> None:
        mean = self._means.get((what, model), value)
        self._means[what, model] = mean + _WEIGHT * (value - mean)
