"""Judges one strategy on one pool: runs the engine on every judged question and measures what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.calibration import calibration
from eval.datasets import Dataset
from eval.decision_times import DecisionTimes
from eval.grading import grade
from eval.metrics import bootstrap_interval
from eval.outcome_matrix import OutcomeMatrix
from eval.replay_bench import PoolBench
from eval.replay_plan import Strategy
from eval.results import Calibration, ReplayRow, Unanswered
from router_service.types import Question, RouteDecision, RouteFailure, RouteResponse

__all__ = ["ReplayResult", "judge"]

End = RouteResponse | RouteFailure
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """A row with the grade of each judged question, in the dataset's order, for paired comparisons.

    Grades are means over the seeds.
    """

    row: ReplayRow
    grades: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One seed's ends and their grades, in the order of the questions."""

    ends: Sequence[End]
    grades: tuple[float, ...]

    def is_like(self, other: _Run) -> bool:
        """Whether both decided and answered alike, so that further seeds would tell nothing."""
        return self.grades == other.grades and all(
            _panel(mine) == _panel(theirs) for mine, theirs in zip(self.ends, other.ends, strict=True)
        )


async def judge(
    bench: PoolBench, strategy: Strategy, *, matrix: OutcomeMatrix, times: DecisionTimes | None = None
) -> ReplayResult:
    """The strategy's result over the plan's seeds; `matrix` holds the pool's outcomes on the judged questions."""
    runs: list[_Run] = []
    for seed in bench.bench.plan.seeds:
        runs.append(await _run(bench, strategy, seed))
        if len(runs) == 2 and runs[1].is_like(runs[0]):
            break
    by_seed = np.array([run.grades for run in runs])
    grades = tuple(by_seed.mean(axis=0).tolist())
    first = [_first_grades(run, matrix) for run in runs]
    some_right = matrix.grades.max(axis=1) > 0
    row = ReplayRow(
        dataset=bench.bench.dataset.name,
        pool=bench.pool.name,
        recruiter=strategy.recruiter,
        aggregator=strategy.aggregator,
        k=strategy.k,
        n=len(grades),
        accuracy=float(by_seed.mean()),
        ci95=bootstrap_interval(grades, seed=bench.bench.plan.seed),
        calls_per_query=_mean([_calls(end) for run in runs for end in run.ends]),
        cost_usd_per_1k=_cost_per_1k(bench.bench.dataset, runs),
        n_seeds=len(runs),
        accuracy_sd=float(by_seed.mean(axis=1).std(ddof=1)) if len(runs) > 1 else None,
        regret=float((matrix.grades.max(axis=1) - by_seed.mean(axis=0)).mean()),
        top1_accuracy=float(np.mean(first)),
        top1_hit_rate=float(np.mean([hits[some_right] for hits in _hits(first, matrix)])) if some_right.any() else None,
        p_correct=_recruit_calibration(runs, matrix),
        confidence=_answer_calibration(runs),
        fit_s=bench.fit_s.get(strategy.recruiter),
        recruit_ms_median=times.median_ms if times else None,
        recruit_ms_p99=times.p99_ms if times else None,
        decisions_per_s=times.decisions_per_s if times else None,
        n_fallbacks=sum(d.is_fallback for run in runs for end in run.ends if (d := end.decision) is not None),
        n_repeats=sum(_repeats(bench.bench.dataset, end) for run in runs for end in run.ends),
        failures=_failures(runs),
        is_shuffled=strategy.is_shuffled,
    )
    return ReplayResult(row=row, grades=grades)


async def _run(bench: PoolBench, strategy: Strategy, seed: int) -> _Run:
    ends = await bench.engine.run(bench.queries(strategy, seed))
    dataset, questions = bench.bench.dataset, bench.bench.judged
    grades = tuple(_grade(dataset, question, end) for question, end in zip(questions, ends, strict=True))
    return _Run(ends=ends, grades=grades)


def _grade(dataset: Dataset, question: Question, end: End) -> float:
    """As recorded where the answer is an expert's own, else by this project's grading; no answer is wrong.

    Some datasets record who was right and not what was said, and now and then the right answer is an empty text.
    Nobody can vote then, so a panel without any readable answer is judged by its earliest member, as recorded.
    """
    supporters = end.answer.supporters if isinstance(end, RouteResponse) else None
    said = end.answer.extracted if isinstance(end, RouteResponse) else None
    for completion in end.completions:
        outcome = dataset.outcome(question.id, completion.expert_id, sample=completion.sample)
        is_meant = supporters is None or completion.expert_id in supporters
        if outcome is not None and is_meant and (completion.extracted or None) == said:
            return outcome.correct
    return 0.0 if question.answer is None else grade(said, question)


# --- what was asked and paid -----------------------------------------------------------------------------------------


def _panel(end: End) -> tuple[tuple[str, int], ...]:
    decision = end.decision
    return () if decision is None else tuple((recruit.expert_id, recruit.samples) for recruit in decision.recruits)


def _calls(end: End) -> int:
    """Completions asked of experts, whatever became of them, and what annotator and aggregator asked."""
    others = end.usage.completions - sum(completion.usage.completions for completion in end.completions)
    return len(end.completions) + others


def _cost_per_1k(dataset: Dataset, runs: Sequence[_Run]) -> float | None:
    costs = [_cost_usd(dataset, end) for run in runs for end in run.ends]
    known = [cost for cost in costs if cost is not None]
    return 1000 * _mean(known) if len(known) == len(costs) else None


def _cost_usd(dataset: Dataset, end: End) -> float | None:
    """What experts and aggregator cost; an outcome that was never recorded cost nothing, an unknown price stays so."""
    costs = [c.usage.cost_usd for c in end.completions if (end.query_id, c.expert_id) in dataset.recorded]
    if isinstance(end, RouteResponse):
        costs.append(end.answer.usage.cost_usd)
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _repeats(dataset: Dataset, end: End) -> int:
    """Completions beyond the recorded samples of their expert."""
    asked = ((completion.sample, (end.query_id, completion.expert_id)) for completion in end.completions)
    return sum(sample >= len(dataset.recorded[key]) for sample, key in asked if key in dataset.recorded)


def _failures(runs: Sequence[_Run]) -> dict[str, Unanswered]:
    failures: dict[str, Unanswered] = {}
    for run in runs:
        for end, points in zip(run.ends, run.grades, strict=True):
            if isinstance(end, RouteFailure):
                failures[end.code] = failures.get(end.code, Unanswered()).with_one(points)
    return failures


# --- how good the recruits were --------------------------------------------------------------------------------------


def _decisions(run: _Run) -> list[RouteDecision | None]:
    return [end.decision for end in run.ends]


def _first_grades(run: _Run, matrix: OutcomeMatrix) -> Floats:
    """The first recruit's mean grade on each question; 0 where nobody was recruited."""
    column = {model: i for i, model in enumerate(matrix.models)}
    grades = np.zeros(len(run.ends))
    for row, decision in enumerate(_decisions(run)):
        if decision is not None and decision.recruits:
            grades[row] = matrix.grades[row, column[decision.recruits[0].expert_id]]
    return grades


def _hits(first: Sequence[Floats], matrix: OutcomeMatrix) -> list[Floats]:
    """For each run and question 1 where the first recruit did as well as anybody, else 0."""
    best = matrix.grades.max(axis=1)
    return [(grades >= best - 1e-12).astype(np.float64) for grades in first]


def _recruit_calibration(runs: Sequence[_Run], matrix: OutcomeMatrix) -> Calibration | None:
    column = {model: i for i, model in enumerate(matrix.models)}
    chances, grades = [], []
    for run in runs:
        for row, decision in enumerate(_decisions(run)):
            for recruit in decision.recruits if decision is not None else ():
                if recruit.p_correct is not None:
                    chances.append(recruit.p_correct)
                    grades.append(float(matrix.grades[row, column[recruit.expert_id]]))
    return calibration(chances, grades)


def _answer_calibration(runs: Sequence[_Run]) -> Calibration | None:
    stated = [
        (end.answer.confidence, points)
        for run in runs
        for end, points in zip(run.ends, run.grades, strict=True)
        if isinstance(end, RouteResponse) and end.answer.confidence is not None
    ]
    return calibration([confidence for confidence, _ in stated], [points for _, points in stated])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
