"""Votes over the same recorded panels: each judged on test, and cross-validated on fit, beside the majority."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from aggregators.base import AGGREGATORS, CallingAggregator
from eval.datasets import Dataset
from eval.metrics import Difference, bootstrap_interval, paired_difference
from eval.replay import ReplayPlan, ReplayResult, replay
from router_service.types import stable_seed

__all__ = ["OURS", "PANELS", "VotePanel", "VoteRow", "vote_names", "vote_rows"]

_FOLDS = 5
_MAJORITY = "majority"


@dataclass(frozen=True, slots=True, kw_only=True)
class VotePanel:
    """Whom the votes are over: `k` completions, chosen by `recruiter`."""

    recruiter: str
    k: int

    @property
    def name(self) -> str:
        """`fixed 3`."""
        return f"{self.recruiter} {self.k}"


OURS = VotePanel(recruiter="auto", k=3)
"""What is recruited where nobody configures anything."""

PANELS = (VotePanel(recruiter="fixed", k=3), VotePanel(recruiter="fixed", k=5), OURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRow:
    """One vote over one kind of panels: on the test questions, fitted on fit, and, as `fit_*`, on the fit questions,
    each by what the other four fifths taught. Differences are paired, with 95 % bootstrap intervals: `vs_majority` and
    `fit_vs_majority` over the very same panels, `vs_fixed` against the majority of the k best experts."""

    dataset: str
    pool: str
    panel: VotePanel
    aggregator: str
    n: int
    accuracy: float
    ci95: tuple[float, float]
    calls_per_query: float
    vs_majority: Difference
    vs_fixed: Difference
    n_fit: int
    fit_accuracy: float
    fit_vs_majority: Difference


Grades = dict[tuple[str, VotePanel, str], tuple[float, ...]]
"""By pool, panel and aggregator."""


def vote_names() -> tuple[str, ...]:
    """Every registered aggregator that makes its answer of the completions alone."""
    return tuple(
        name
        for name in AGGREGATORS.names()
        if name != "selected" and not isinstance(AGGREGATORS.create(name), CallingAggregator)
    )


async def vote_rows(
    dataset: Dataset,
    pools: Sequence[str],
    aggregators: Sequence[str],
    *,
    panels: Sequence[VotePanel] = PANELS,
    fit_on: Sequence[str] = ("fit",),
    on_progress: Callable[[int, int], None] | None = None,
) -> list[VoteRow]:
    """A row per pool, panel and aggregator; the majority and the fixed panels are run whether named or not. Splits of
    `fit_on` besides `fit` are learned from, also in the cross-validation, and never judged."""
    names = tuple(dict.fromkeys((_MAJORITY, *aggregators)))
    plans = _plans(dataset, pools, names, panels=panels, fit_on=fit_on)
    folds = [fold for fold in (_fold(dataset, number, fit_on) for number in range(_FOLDS)) if fold is not None]
    done = _Counter(total=(len(folds) + 1) * len(plans), on_progress=on_progress)
    tested = await _judged(dataset, plans, done)
    fitted: Grades = {}
    for fold in folds:
        part = await _judged(fold, plans, done)
        for key, result in part.items():
            fitted[key] = (*fitted.get(key, ()), *result.grades)
    return [
        _row(key, tested, fitted)
        for key in tested
        if key[1] in panels and (key[2] in aggregators or key[2] == _MAJORITY)
    ]


@dataclass(slots=True, kw_only=True)
class _Counter:
    """How many replays are done."""

    total: int
    on_progress: Callable[[int, int], None] | None
    done: int = 0

    def add(self) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)


async def _judged(
    dataset: Dataset, plans: Sequence[ReplayPlan], done: _Counter
) -> dict[tuple[str, VotePanel, str], ReplayResult]:
    found = {}
    for plan in plans:
        for result in await replay(dataset, plan):
            row = result.row
            assert row.k is not None
            found[row.pool, VotePanel(recruiter=row.recruiter, k=row.k), row.aggregator] = result
        done.add()
    return found


def _plans(
    dataset: Dataset,
    pools: Sequence[str],
    names: Sequence[str],
    *,
    panels: Sequence[VotePanel],
    fit_on: Sequence[str],
) -> list[ReplayPlan]:
    """A plan per size of panel, the fixed panel of that size always in it."""
    by_k: dict[int, list[str]] = {}
    for panel in panels:
        by_k.setdefault(panel.k, ["fixed"]).append(panel.recruiter)
    return [
        ReplayPlan(
            pools=tuple(pools),
            recruiters=tuple(dict.fromkeys(recruiters)),
            aggregators=tuple(names),
            ks=(k,),
            fit_on=tuple(fit_on),
            uses_responses=(dataset.folder / "responses.parquet").is_file(),
        )
        for k, recruiters in by_k.items()
    ]


def _fold(dataset: Dataset, fold: int, fit_on: Sequence[str]) -> Dataset | None:
    """The dataset's fit questions, a fifth of them to be judged, and those of further splits to learn from; None where
    that fifth is empty."""
    fit = [
        replace(q, split="test" if stable_seed("fold", q.id) % _FOLDS == fold else "fit") for q in dataset.split("fit")
    ]
    more = [question for question in dataset.questions if question.split != "fit" and question.split in fit_on]
    is_judged = any(question.split == "test" for question in fit)
    return replace(dataset, questions=(*fit, *more)) if is_judged else None


def _row(
    key: tuple[str, VotePanel, str], tested: Mapping[tuple[str, VotePanel, str], ReplayResult], fitted: Grades
) -> VoteRow:
    pool, panel, aggregator = key
    result, fit_grades = tested[key], fitted[key]
    same = (pool, panel, _MAJORITY)
    fixed = (pool, VotePanel(recruiter="fixed", k=panel.k), _MAJORITY)
    return VoteRow(
        dataset=result.row.dataset,
        pool=pool,
        panel=panel,
        aggregator=aggregator,
        n=len(result.grades),
        accuracy=sum(result.grades) / len(result.grades),
        ci95=bootstrap_interval(result.grades),
        calls_per_query=result.row.calls_per_query,
        vs_majority=paired_difference(result.grades, tested[same].grades),
        vs_fixed=paired_difference(result.grades, tested[fixed].grades),
        n_fit=len(fit_grades),
        fit_accuracy=sum(fit_grades) / len(fit_grades),
        fit_vs_majority=paired_difference(fit_grades, fitted[same]),
    )
