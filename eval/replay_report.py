"""Replays any number of datasets and gathers everything found in one report."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval.accuracy_tables import accuracy_tables
from eval.baselines import baselines
from eval.datasets import Dataset, load_dataset
from eval.leaks import audit_leaks
from eval.outcome_matrix import outcome_matrix
from eval.replay import PoolReplay, Progress, replay_pools
from eval.replay_plan import ReplayPlan
from eval.replay_remarks import replay_remarks
from eval.results import AccuracyTable, DatasetCard, LeakAudit, ReplayReport, ReplaySettings
from router_service import __version__
from router_service.errors import ConfigError
from skills.base import EMBEDDERS

__all__ = ["load_datasets", "replay_report", "usable_embedder"]

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "pyarrow", "faiss-cpu", "onnxruntime")
_FAST_EMBEDDER, _PLAIN_EMBEDDER = "minilm_onnx", "hashing"
_CARD = "dataset.json"


def load_datasets(folders: Sequence[Path]) -> list[Dataset]:
    """Each folder's dataset, or those in its subfolders (by name) where it is none itself.

    Raises `ConfigError` where a folder holds neither, and where two datasets share a name.
    """
    datasets = []
    for folder in folders:
        inside = sorted(card.parent for card in folder.glob(f"*/{_CARD}"))
        found = inside if inside and not (folder / _CARD).exists() else [folder]
        datasets += [load_dataset(each) for each in found]
    twice = [name for name, count in Counter(dataset.name for dataset in datasets).items() if count > 1]
    if twice:
        raise ConfigError(f"two datasets are named {twice[0]!r}; give each its own `name` in {_CARD}, or name one once")
    return datasets


async def replay_report(
    datasets: Sequence[Dataset], plan: ReplayPlan, *, on_progress: Progress | None = None
) -> ReplayReport:
    """Judge the plan's strategies on every dataset; raises as `eval.replay.replay` does."""
    plan.require(datasets)
    started = time.perf_counter()
    per_pool = len(list(plan.strategies())) * (1 + plan.has_shuffled_control)
    totals = [len(plan.pools_of(dataset)) * per_pool for dataset in datasets]
    parts = []
    for number, dataset in enumerate(datasets):

        def report(done: int, _: int, before: int = sum(totals[:number])) -> None:
            if on_progress is not None:
                on_progress(before + done, sum(totals))

        parts.append(_part(dataset, plan, await replay_pools(dataset, plan, on_progress=report)))
    return ReplayReport(
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        took_s=time.perf_counter() - started,
        settings=_settings(plan),
        versions=_versions(),
        datasets=tuple(card for part in parts for card in part.datasets),
        rows=tuple(row for part in parts for row in part.rows),
        baselines=tuple(baseline for part in parts for baseline in part.baselines),
        cost_curves=tuple(curve for part in parts for curve in part.cost_curves),
        share_curves=tuple(curve for part in parts for curve in part.share_curves),
        accuracy_tables=tuple(table for part in parts for table in part.accuracy_tables),
        leak_audits=tuple(audit for part in parts for audit in part.leak_audits),
        skipped=tuple(skipped for part in parts for skipped in part.skipped),
        remarks=tuple(remark for part in parts for remark in part.remarks),
    )


def usable_embedder(name: str) -> tuple[str, str | None]:
    """`name` where it works here, else the plain embedder with what is lost by that; another broken one raises."""
    try:
        EMBEDDERS.create(name).embed(["ready"])
    except ConfigError as missing:
        if name != _FAST_EMBEDDER:
            raise
        return _PLAIN_EMBEDDER, (
            f"the embedder {name!r} is not usable here ({missing.message}); {_PLAIN_EMBEDDER!r} stands in for it and "
            "knows letters, not meanings: expect lower accuracy wherever skills are matched"
        )
    return name, None


def _part(dataset: Dataset, plan: ReplayPlan, replayed: Sequence[PoolReplay]) -> ReplayReport:
    """One dataset's part of the report."""
    rows = tuple(result.row for pool in replayed for result in pool.results)
    audit = _audit(dataset, plan)
    skipped = tuple(skipped for pool in replayed for skipped in pool.skipped)
    return ReplayReport(
        settings=_settings(plan),
        datasets=(_card(dataset, plan),),
        rows=rows,
        baselines=tuple(
            baseline
            for pool in replayed
            for baseline in baselines(dataset.name, pool.pool, fit=pool.fit, test=pool.test)
        ),
        cost_curves=tuple(curve for pool in replayed for curve in pool.cost_curves),
        share_curves=tuple(curve for pool in replayed for curve in pool.share_curves),
        accuracy_tables=tuple(_tables(dataset, plan)),
        leak_audits=(audit,),
        skipped=skipped,
        remarks=tuple(replay_remarks(dataset, plan, rows, audit=audit, skipped=skipped)),
    )


def _audit(dataset: Dataset, plan: ReplayPlan) -> LeakAudit:
    splits = plan.fitted_splits(dataset)
    fitted = [question for split in splits for question in dataset.split(split)]
    return audit_leaks(dataset.name, fitted, dataset.split(plan.split), splits=splits, split=plan.split)


def _tables(dataset: Dataset, plan: ReplayPlan) -> list[AccuracyTable]:
    """Who is good at what, on what was fitted first and on what was judged."""
    models = list(dict.fromkeys(model for pool in plan.pools_of(dataset) for model in dataset.pools[pool]))
    splits = (plan.fitted_splits(dataset)[0], plan.split)
    return [
        table
        for split in splits
        for table in accuracy_tables(dataset.name, split, outcome_matrix(dataset, dataset.split(split), models))
    ]


def _card(dataset: Dataset, plan: ReplayPlan) -> DatasetCard:
    return DatasetCard(
        name=dataset.name,
        splits=dict(Counter(question.split for question in dataset.questions)),
        pools={name: dataset.pools[name] for name in plan.pools_of(dataset)},
        has_skills=dataset.has_skills,
        has_answers=dataset.has_answers,
        has_costs=all(outcome.cost_usd is not None for samples in dataset.recorded.values() for outcome in samples),
    )


def _settings(plan: ReplayPlan) -> ReplaySettings:
    return ReplaySettings(
        recruiters=plan.recruiter_names(),
        aggregators=plan.aggregators,
        ks=plan.ks,
        seeds=plan.seeds,
        fit_on=plan.fit_on,
        split=plan.split,
        embedder=plan.embedder,
        has_shuffled_control=plan.has_shuffled_control,
    )


def _versions() -> dict[str, str]:
    versions = {"enlist": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
