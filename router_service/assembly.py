"""Assembly: from a configuration to a running engine; the only place that knows how the parts fit together."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aggregators.base import AGGREGATORS
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool, built_in_pools, load_pool
from router_service._assembly_cluster import cluster_backends, spread_annotator
from router_service._assembly_parts import FittedRecruiters, LazyParts
from router_service.backends.base import BACKENDS, Backend
from router_service.config import ClusterConfig, EngineConfig, PartConfig
from router_service.dispatch.runner import Runner
from router_service.dispatch.sandbox import Sandbox
from router_service.engine import Engine, EngineDefaults
from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.lessons import Lessons
from router_service.recruit.base import RECRUITERS, Recruiter, SavableRecruiter
from router_service.recruit.kept import KeptRecruiters
from router_service.types import Expert
from skills.base import ANNOTATORS, Annotator

__all__ = [
    "KeptFit",
    "LazyParts",
    "artefact_folder",
    "asking_only",
    "build_engine",
    "keep_recruiter",
    "make_backends",
    "usable_pool",
]

_log = logging.getLogger(__name__)

AGGREGATOR_SELECTION_FILE = "aggregator.json"
"""What `enlist aggregator select` writes into the artefact's folder."""


def build_engine(
    config: EngineConfig,
    *,
    pool: Pool | None = None,
    artefact: Artefact | None = None,
    backends: Mapping[str, Backend] | None = None,
) -> Engine:
    """An engine as configured; what is passed in replaces what the configuration names.

    A pool that is passed in gets the configured artefact or none, never the one shipped with a built-in pool. The
    configured recruiter and aggregator are made and fitted here, so that what is wrong with them shows at once; others
    when first asked for. Raises `ConfigError` where no expert of the pool is usable, naming each one's problem, and
    what the configured parts raise. Only what cannot be fitted for want of an artefact is a warning: its experts can
    still be asked by name, and profiled.
    """
    folder = artefact_folder(config) if pool is None else config.artefact
    pool = pool or load_pool(config.pool)
    backends = make_backends(pool, config.backends, cluster=config.cluster) if backends is None else backends
    pool = usable_pool(pool, backends)
    if artefact is None and folder is not None:
        artefact = Artefact.load(folder)
    runner = Runner(
        experts={expert.id: expert for expert in pool.experts},
        backends=backends,
        settings=config.dispatch,
        sandbox=Sandbox(config.sandbox),
    )
    annotator = _annotator(config.annotator, artefact)
    lessons = Lessons(pool, artefact, annotator)
    recruiters = FittedRecruiters(
        _recruiter_options(config), lessons, folder=folder, is_own_folder=config.artefact is not None
    )
    aggregators = LazyParts(AGGREGATORS, _aggregator_options(config, folder), lessons.taught)
    recruiters.make_default(config.recruiter.name, must_fit=artefact is not None)
    aggregators.make_default(config.aggregator.name, must_fit=artefact is not None)
    if getattr(AGGREGATORS.factory(config.aggregator.name), "needs_sandbox", False):
        runner.sandbox.check()
    return Engine(
        pool=pool,
        annotator=spread_annotator(annotator, config),
        recruiters=recruiters,
        aggregators=aggregators,
        runner=runner,
        defaults=EngineDefaults(recruiter=config.recruiter.name, aggregator=config.aggregator.name, seed=config.seed),
    )


def asking_only(config: EngineConfig) -> EngineConfig:
    """The configuration for an engine that is only told whom to ask: nothing is annotated, and nothing fitted."""
    parts = {"annotator": "blank", "recruiter": "named", "aggregator": "first"}
    return config.model_copy(update={kind: PartConfig(name=name) for kind, name in parts.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFit:
    """A recruiter that was fitted and kept: where, how long the fit took, and on which version of the artefact."""

    recruiter: str
    path: Path
    fit_s: float
    artefact: str


def keep_recruiter(config: EngineConfig) -> KeptFit:
    """Fit the configured recruiter on the configured artefact and keep it beside that, for every later engine.

    Raises `ConfigError` without an artefact of one's own (never the one shipped with a pool), and for a recruiter
    that cannot be saved.
    """
    name, folder = config.recruiter.name, config.artefact
    if folder is None:
        raise ConfigError("a fitted recruiter is kept beside its artefact; name one made by `enlist profile`")
    artefact = Artefact.load(folder)
    lessons = Lessons(load_pool(config.pool), artefact, _annotator(config.annotator, artefact))
    recruiter = RECRUITERS.create(name, _recruiter_options(config).get(name))
    origin = lessons.origin(recruiter)
    if origin is None or not isinstance(recruiter, SavableRecruiter):
        raise ConfigError(f"recruiter {name!r} cannot be kept: {_not_keepable(recruiter)}")
    data = lessons.for_part(recruiter)
    started = time.perf_counter()
    recruiter.fit(data)
    fit_s = time.perf_counter() - started
    path = KeptRecruiters(folder).keep(name, recruiter, origin=origin)
    return KeptFit(recruiter=name, path=path, fit_s=fit_s, artefact=origin.artefact)


def _not_keepable(recruiter: Recruiter) -> str:
    if not isinstance(recruiter, SavableRecruiter):
        return "it has no `save` and `load`"
    return "it goes by embeddings, and the configured annotator does not say which embedder makes them"


def artefact_folder(config: EngineConfig) -> Path | None:
    """Where the artefact lies: the configured folder, or the built-in pool's own where it has one."""
    if config.artefact is not None:
        return config.artefact
    if config.pool not in built_in_pools():
        return None
    shipped = Path(inspect.getfile(load_pool)).parent / config.pool / "artefact"
    return shipped if shipped.is_dir() else None


def make_backends(
    pool: Pool, options: Mapping[str, Mapping[str, Any]], *, cluster: ClusterConfig | None = None
) -> dict[str, Backend]:
    """One backend per name that an enabled expert of the pool uses or that has options, so that all of these are
    checked; with a `cluster`, those that hold models run there.

    Raises `UnknownNameError` for an unknown backend, `ConfigError` for options it cannot take and for a cluster that
    cannot be joined or has nothing to do.
    """
    used = dict.fromkeys(expert.backend for expert in pool.experts if expert.is_enabled)
    there = {} if cluster is None else cluster_backends(used, options, cluster)
    return {name: there.get(name) or BACKENDS.create(name, options.get(name)) for name in {**options, **used}}


def usable_pool(pool: Pool, backends: Mapping[str, Backend]) -> Pool:
    """The pool with every expert disabled that its backend cannot serve; all unusable is a `ConfigError`."""
    problems: dict[str, str] = {}
    for expert in pool.experts:
        if expert.is_enabled:
            try:
                _backend_of(expert, backends).check(expert)
            except RouterError as problem:
                problems[expert.id] = problem.message
    experts = tuple(replace(expert, is_enabled=False) if expert.id in problems else expert for expert in pool.experts)
    if not any(expert.is_enabled for expert in experts):
        listed = "".join(f"\n  {text}" for text in problems.values())
        raise ConfigError(f"pool {pool.name!r} has no usable expert; enable or mend at least one{listed}")
    for text in problems.values():
        _log.warning("left out: %s", text)
    return replace(pool, experts=experts)


def _backend_of(expert: Expert, backends: Mapping[str, Backend]) -> Backend:
    if expert.backend not in backends:
        raise UnknownNameError(f"backend of expert {expert.id!r}:", expert.backend, backends)
    return backends[expert.backend]


def _annotator(part: PartConfig, artefact: Artefact | None) -> Annotator:
    annotator = ANNOTATORS.create(part.name, part.options)
    return annotator if artefact is None else annotator.fit(artefact.questions)


def _recruiter_options(config: EngineConfig) -> dict[str, dict[str, Any]]:
    """Every recruiter that takes a `k` gets the configured one; the configured recruiter its own options over that.

    So of `k` the nearest holds: a query's own (`controls.k`), else `recruiter.options.k`, else `k`. Who lets an
    option given on a command line replace the configuration's `k` must drop `recruiter.options.k` with it.
    """
    options: dict[str, dict[str, Any]] = {}
    for name in RECRUITERS.names():
        takes_k = "k" in inspect.signature(RECRUITERS.factory(name)).parameters
        options[name] = {"k": config.k} if takes_k else {}
    options.setdefault(config.recruiter.name, {}).update(config.recruiter.options)
    return options


def _aggregator_options(config: EngineConfig, folder: Path | None) -> dict[str, dict[str, Any]]:
    """The configured aggregator's options; `selected` finds the artefact's selection by itself."""
    options: dict[str, dict[str, Any]] = {config.aggregator.name: dict(config.aggregator.options)}
    if folder is not None and (folder / AGGREGATOR_SELECTION_FILE).exists():
        options.setdefault("selected", {}).setdefault("path", str(folder / AGGREGATOR_SELECTION_FILE))
    return options
