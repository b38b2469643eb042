"""The replay of one pool: its strategies one after the other, what they are compared with, and their curves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.decision_times import DecisionTimes, time_decisions
from eval.metrics import paired_difference
from eval.outcome_matrix import OutcomeMatrix
from eval.replay_bench import DatasetBench, PoolBench
from eval.replay_journal import ReplayJournal, code_fingerprint
from eval.replay_judge import ReplayResult, judge
from eval.replay_plan import Strategy
from eval.results import CostCurve, PairedDifference, ReplayRow, ShareCurve, Skipped
from eval.score_curves import (
    mix_curve,
    model_curve,
    recruiter_curve,
    score_matrix,
    share_curve,
    strategy_curves,
    with_aiq,
)
from router_service.errors import RouterError
from router_service.types import MAX_K

__all__ = ["PoolReplay", "PoolRun"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReplay:
    """What a replay found on one pool; matrices hold its outcomes on the fitted and on the judged questions."""

    pool: str
    fit: OutcomeMatrix
    test: OutcomeMatrix
    results: tuple[ReplayResult, ...]
    cost_curves: tuple[CostCurve, ...]
    share_curves: tuple[ShareCurve, ...]
    skipped: tuple[Skipped, ...]


@dataclass(kw_only=True)
class _Found:
    """What has been found on a pool so far."""

    results: list[ReplayResult] = field(default_factory=list)
    cost_curves: list[CostCurve] = field(default_factory=list)
    share_curves: list[ShareCurve] = field(default_factory=list)
    skipped: dict[str, Skipped] = field(default_factory=dict)


class PoolRun:
    """One pool under a plan; `replay` judges it, `report` is told how many strategies are done."""

    def __init__(
        self, bench: DatasetBench, pool: str, *, journal: ReplayJournal, report: Callable[[int], None]
    ) -> None:
        self._bench = bench
        self._plan = bench.plan
        self._pool = pool
        self._journal = journal
        self._report = report
        self._pool_benches: dict[bool, PoolBench] = {}
        self._times: dict[tuple[str, int | None], DecisionTimes | None] = {}
        self._found = _Found()
        self.fit = bench.matrix(bench.fitted, pool)
        self.test = bench.matrix(bench.judged, pool)

    async def replay(self) -> PoolReplay:
        """Judge every strategy, then compare."""
        done = 0
        for is_shuffled in (False, True)[: 1 + self._plan.has_shuffled_control]:
            for strategy in self._plan.strategies(is_shuffled=is_shuffled):
                result = await self._judged(strategy)
                if result is not None:
                    self._found.results.append(result)
                done += 1
                self._report(done)
        for name in self._plan.recruiter_names():
            await self._add_curves(name)
        results = [await self._compared(result) for result in self._found.results]
        return PoolReplay(
            pool=self._pool,
            fit=self.fit,
            test=self.test,
            results=tuple(results),
            cost_curves=tuple(self._cost_curves([result.row for result in results])),
            share_curves=tuple(self._found.share_curves),
            skipped=tuple(self._found.skipped.values()),
        )

    # --- strategies --------------------------------------------------------------------------------------------------

    async def _judged(self, strategy: Strategy, *, is_reference: bool = False) -> ReplayResult | None:
        """The strategy's result, from the journal where it is there; None where a part cannot be fitted."""
        key = self._key(strategy, kind="strategy")
        kept = self._journal.get(key)
        if kept is not None:
            return ReplayResult(row=ReplayRow.model_validate(kept["row"]), grades=tuple(kept["grades"]))
        bench = await self._pool_bench(strategy)
        if self._is_skipped(bench, strategy, is_reference=is_reference):
            return None
        times = await self._timed(bench, strategy)
        try:
            result = await judge(bench, strategy, matrix=self.test, times=times)
        except Exception as defect:  # one part's bug must not end a replay of many
            if self._plan.names_recruiters:
                raise
            _log.exception("%s could not be judged", strategy)
            self._skip(f"strategy {strategy.recruiter}, {strategy.aggregator}, k = {strategy.k}", defect)
            return None
        self._journal.put(key, {"row": result.row.as_json(), "grades": list(result.grades)})
        return result

    def _is_skipped(self, bench: PoolBench, strategy: Strategy, *, is_reference: bool) -> bool:
        problem = bench.problem_with(strategy)
        if problem is None:
            return False
        part, error = problem
        is_named = self._plan.names_recruiters or part.startswith("aggregator")
        if is_named and not is_reference:
            raise error
        if not is_reference:
            self._skip(part, error)
        return True

    def _skip(self, part: str, error: Exception) -> None:
        reason = error.message if isinstance(error, RouterError) else repr(error)
        self._found.skipped[part] = Skipped(dataset=self._bench.dataset.name, pool=self._pool, part=part, reason=reason)

    async def _pool_bench(self, strategy: Strategy) -> PoolBench:
        """The engine that the strategy runs on, made when first needed."""
        if strategy.is_shuffled not in self._pool_benches:
            pool = self._bench.dataset.pool(self._pool)
            annotator = await self._bench.annotator()
            self._pool_benches[strategy.is_shuffled] = PoolBench(
                self._bench, pool, annotator, is_shuffled=strategy.is_shuffled
            )
        return self._pool_benches[strategy.is_shuffled]

    async def _timed(self, bench: PoolBench, strategy: Strategy) -> DecisionTimes | None:
        """How long deciding takes, measured once per recruiter and k; None for a control, and where deciding fails."""
        if strategy.is_shuffled:
            return None
        case = (strategy.recruiter, strategy.k)
        if case not in self._times:
            recruiter = bench.recruiters.get(strategy.recruiter)
            try:
                self._times[case] = time_decisions(recruiter, await bench.requests(strategy))
            except Exception as error:  # the engine makes of it what it makes of it in service: failed queries
                _log.warning("recruiter %r cannot be timed: %r", strategy.recruiter, error)
                self._times[case] = None
        return self._times[case]

    # --- comparisons -------------------------------------------------------------------------------------------------

    async def _fixed(self, k: int) -> tuple[float, ...] | None:
        """The judged grades of the vote of the k best experts of the fitted questions; None where nobody may ask k."""
        if k > MAX_K:
            return None
        reference = Strategy(recruiter="fixed", aggregator="majority", k=k)
        result = await self._judged(reference, is_reference=True)
        return result.grades if result is not None else None

    async def _compared(self, result: ReplayResult) -> ReplayResult:
        """The result with its paired differences."""
        row = result.row
        k = row.k if row.k is not None else max(1, round(row.calls_per_query))
        fixed = await self._fixed(min(k, len(self.test.models)))
        differences = {
            "vs_best_single": self._difference(result.grades, self.test.grades[:, self.fit.best_model].tolist()),
            "vs_fixed": self._difference(result.grades, fixed) if fixed is not None else None,
        }
        return ReplayResult(row=row.model_copy(update=differences), grades=result.grades)

    def _difference(self, grades: Sequence[float], others: Sequence[float]) -> PairedDifference:
        found = paired_difference(grades, others, seed=self._plan.seed)
        return PairedDifference(mean=found.mean, low=found.low, high=found.high)

    # --- curves ------------------------------------------------------------------------------------------------------

    async def _add_curves(self, recruiter: str) -> None:
        """The curves of the recruiter's scores, one call per question."""
        strategy = Strategy(recruiter=recruiter, aggregator=self._plan.aggregators[0], k=1)
        key = self._key(strategy, kind="curves")
        kept = self._journal.get(key)
        if kept is None:
            bench = await self._pool_bench(strategy)
            if bench.problem_with(strategy) is not None:
                return
            times = await self._timed(bench, strategy)
            if times is None:
                return
            kept = self._score_curves(recruiter, score_matrix(times.decisions, self.test.models))
            self._journal.put(key, kept)
        self._found.cost_curves += [CostCurve.model_validate(curve) for curve in kept["cost"]]
        self._found.share_curves += [ShareCurve.model_validate(curve) for curve in kept["share"]]

    def _score_curves(self, recruiter: str, scores: Any) -> dict[str, list[dict[str, Any]]]:
        names = (self._bench.dataset.name, self._pool, recruiter)
        cost = recruiter_curve(*names, scores=scores, fit=self.fit, test=self.test)
        share = share_curve(*names, scores=scores, fit=self.fit, test=self.test)
        return {
            "cost": [cost.as_json()] if cost is not None else [],
            "share": [share.as_json()] if share is not None else [],
        }

    def _cost_curves(self, rows: Sequence[ReplayRow]) -> list[CostCurve]:
        """All curves of the pool: those of one call each share one range of costs for their AIQ, panels another."""
        names = (self._bench.dataset.name, self._pool)
        plain = [model_curve(*names, self.test), mix_curve(*names, fit=self.fit, test=self.test)]
        single = [curve for curve in plain if curve is not None] + self._found.cost_curves
        return [*with_aiq(single), *with_aiq(strategy_curves(rows))]

    # --- the journal -------------------------------------------------------------------------------------------------

    def _key(self, strategy: Strategy, *, kind: str) -> dict[str, Any]:
        """Everything that a result depends on."""
        if not self._journal.is_kept:
            return {}
        plan = self._plan
        return {
            "kind": kind,
            "dataset": self._bench.fingerprint,
            "code": code_fingerprint(),
            "pool": [self._pool, *self.test.models],
            "strategy": [strategy.recruiter, strategy.aggregator, strategy.k, strategy.is_shuffled],
            "seeds": plan.seeds,
            "fit_on": plan.fitted_splits(self._bench.dataset),
            "split": plan.split,
            "embedder": plan.embedder,
            "uses_responses": plan.uses_responses,
        }
