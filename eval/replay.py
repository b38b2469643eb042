"""Replays recorded outcomes: strategies fitted on `fit`, judged on `test`, by the very engine that serves."""

from __future__ import annotations

from collections.abc import Callable

from eval.datasets import Dataset
from eval.replay_bench import DatasetBench
from eval.replay_journal import ReplayJournal
from eval.replay_judge import ReplayResult
from eval.replay_plan import FREE, ReplayPlan
from eval.replay_pool import PoolReplay, PoolRun

__all__ = ["FREE", "PoolReplay", "Progress", "ReplayPlan", "ReplayResult", "replay", "replay_pools"]

Progress = Callable[[int, int], None]
"""Called with the strategies finished and the strategies in all."""


async def replay(dataset: Dataset, plan: ReplayPlan, *, on_progress: Progress | None = None) -> list[ReplayResult]:
    """One result per pool, recruiter, aggregator and k; controls on shuffled grades come after a pool's others.

    Raises `UnknownNameError` for a pool, recruiter, aggregator or split that is not there, before anything is run, and
    `ConfigError` where a recruiter that was named, or an aggregator, cannot be fitted on a pool.
    """
    plan.require([dataset])
    return [result for pool in await replay_pools(dataset, plan, on_progress=on_progress) for result in pool.results]


async def replay_pools(dataset: Dataset, plan: ReplayPlan, *, on_progress: Progress | None = None) -> list[PoolReplay]:
    """As `replay`, pool by pool and with curves; `plan.require` has seen to the names."""
    bench = DatasetBench(dataset, plan)
    names = plan.pools_of(dataset)
    per_pool = len(list(plan.strategies())) * (1 + plan.has_shuffled_control)
    journal = ReplayJournal(plan.results_dir)
    replayed: list[PoolReplay] = []
    try:
        for number, name in enumerate(names):

            def report(done: int, before: int = number * per_pool) -> None:
                if on_progress is not None:
                    on_progress(before + done, len(names) * per_pool)

            replayed.append(await PoolRun(bench, name, journal=journal, report=report).replay())
    finally:
        await bench.backend.aclose()
    return replayed
