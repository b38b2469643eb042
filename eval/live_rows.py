"""What live runs of aggregators are worth: accuracy beside votes over the same drafts, and over as many calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from aggregators.choices import MAJORITY, Choice
from eval.live_panels import LivePanels, LiveRun, Progress
from eval.metrics import Difference, bootstrap_interval, paired_difference
from router_service.types import RouteFailure

__all__ = ["VOTES", "LiveRow", "LiveTable"]

VOTES = (MAJORITY, Choice(aggregator="weighted"))
"""What every aggregator is compared with, over k drafts and over as many calls as it made."""

_NOTES_KEPT = 5
_SELECTED = "selected"
_HAND_ON = ("auto", _SELECTED)
"""Their answers bear the names of those whom they chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRow:
    """One aggregator on all questions. `disputed` are the questions whose drafts did not all agree: only there can an
    aggregator do anything. `vs_equal` holds, by vote, the paired difference to that vote over k + c drafts, c being the
    aggregator's own calls for that question; `n_short` questions had fewer drafts to draw on than that."""

    name: str
    recruiter: str
    k: int
    n: int
    accuracy: float
    ci95: tuple[float, float]
    calls_per_query: float
    own_calls_per_query: float
    n_disputed: int
    accuracy_disputed: float | None
    vs_same_drafts: Mapping[str, Difference]
    vs_equal: Mapping[str, Difference]
    equal_accuracy: Mapping[str, float]
    n_short: int
    fallbacks: int
    failures: int
    notes: Mapping[str, int]
    model_s: float
    new_calls: int
    wall_s: float
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]

    def record(self) -> dict[str, object]:
        """The row as JSON holds it."""
        return asdict(self)


class LiveTable:
    """Rows over one set of drafts; the votes that rows are compared with are run when first needed, once."""

    def __init__(self, panels: LivePanels, *, recruiter: str, k: int) -> None:
        self._panels = panels
        self._recruiter = recruiter
        self._k = k
        self._votes: dict[tuple[Choice, int], LiveRun] = {}

    async def row(self, choice: Choice, *, on_progress: Progress | None = None) -> LiveRow:
        """Run the aggregator, and compare."""
        run = await self._panels.run(choice, k=self._k, recruiter=self._recruiter, on_progress=on_progress)
        disputed = [place for place, answer in enumerate((await self._vote(MAJORITY, self._k)).answers)
                    if answer is not None and answer.agreement < 1]  # fmt: skip
        wanted = [self._k + calls for calls in run.own_calls]
        equal = {vote.name: await self._equal_grades(vote, wanted) for vote in VOTES}
        answers = [answer for answer in run.answers if answer is not None]
        return LiveRow(
            name=_SELECTED if choice.aggregator == _SELECTED else choice.name,
            recruiter=self._recruiter,
            k=self._k,
            n=len(run.grades),
            accuracy=_mean(run.grades),
            ci95=bootstrap_interval(run.grades),
            calls_per_query=_mean([len(end.completions) for end in run.ends]) + _mean(run.own_calls),
            own_calls_per_query=_mean(run.own_calls),
            n_disputed=len(disputed),
            accuracy_disputed=_mean([run.grades[place] for place in disputed]) if disputed else None,
            vs_same_drafts={
                vote.name: paired_difference(run.grades, (await self._vote(vote, self._k)).grades) for vote in VOTES
            },
            vs_equal={name: paired_difference(run.grades, grades) for name, grades in equal.items()},
            equal_accuracy={name: _mean(grades) for name, grades in equal.items()},
            n_short=sum(many > self._panels.most_drafts for many in wanted),
            fallbacks=0 if choice.aggregator in _HAND_ON else sum(a.aggregator != choice.aggregator for a in answers),
            failures=sum(isinstance(end, RouteFailure) for end in run.ends),
            notes=dict(Counter(note for answer in answers for note in answer.notes).most_common(_NOTES_KEPT)),
            model_s=run.model_s,
            new_calls=run.new_calls,
            wall_s=run.wall_s,
            answers=tuple(answer.extracted if answer is not None else None for answer in run.answers),
            grades=run.grades,
        )

    async def oracle(self) -> float:
        """The share of questions to which any of the k drafts is right: who chooses can do no better."""
        run = await self._vote(MAJORITY, self._k)
        return _mean([float(any(self._panels.is_right(c, q) for c in end.completions))
                      for end, q in zip(run.ends, self._panels.questions, strict=True)])  # fmt: skip

    async def _equal_grades(self, vote: Choice, wanted: Sequence[int]) -> list[float]:
        """The vote's grade of each question over so many drafts, or all there are."""
        sizes = [min(many, self._panels.most_drafts) for many in wanted]
        runs = {size: await self._vote(vote, size) for size in sorted(set(sizes))}
        return [runs[size].grades[place] for place, size in enumerate(sizes)]

    async def _vote(self, vote: Choice, k: int) -> LiveRun:
        if (vote, k) not in self._votes:
            self._votes[vote, k] = await self._panels.run(vote, k=k, recruiter=self._recruiter)
        return self._votes[vote, k]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
