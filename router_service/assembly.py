"""Assembly: from a configuration to a running engine; the only place that knows how the parts fit together."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from aggregators.base import AGGREGATORS
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool, built_in_pools, load_pool
from router_service.backends.base import BACKENDS, Backend
from router_service.config import EngineConfig, PartConfig
from router_service.dispatch.runner import Runner
from router_service.engine import Engine, EngineDefaults
from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.lessons import Lessons
from router_service.plugins import Registry
from router_service.recruit.base import RECRUITERS
from router_service.types import Expert
from skills.base import ANNOTATORS, Annotator

__all__ = ["LazyParts", "artefact_folder", "build_engine", "make_backends", "usable_pool"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

AGGREGATOR_SELECTION_FILE = "aggregator.json"
"""What `enlist aggregator select` writes into the artefact's folder."""


class LazyParts(Generic[T]):
    """The registered parts of one kind, each made once, when first asked for."""

    def __init__(self, registry: Registry[T], options: Mapping[str, Mapping[str, Any]], fit: Any = None) -> None:
        self._registry = registry
        self._options = options
        self._fit = fit
        self._made: dict[str, T] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered name."""
        return self._registry.names()

    def get(self, name: str) -> T:
        """The part of that name; raises `UnknownNameError`, or what making or fitting it raises."""
        if name not in self._made:
            part = self._registry.create(name, self._options.get(name))
            self._made[name] = self._fit(part) if self._fit is not None else part
        return self._made[name]


def build_engine(
    config: EngineConfig,
    *,
    pool: Pool | None = None,
    artefact: Artefact | None = None,
    backends: Mapping[str, Backend] | None = None,
) -> Engine:
    """An engine as configured; what is passed in replaces what the configuration names.

    A pool that is passed in gets the configured artefact or none, never the one shipped with a built-in pool. Raises
    `ConfigError` where no expert of the pool is usable, naming each one's problem.
    """
    folder = artefact_folder(config) if pool is None else config.artefact
    pool = pool or load_pool(config.pool)
    backends = make_backends(pool, config.backends) if backends is None else backends
    pool = usable_pool(pool, backends)
    if artefact is None and folder is not None:
        artefact = Artefact.load(folder)
    runner = Runner(
        experts={expert.id: expert for expert in pool.experts},
        backends=backends,
        settings=config.dispatch,
    )
    annotator = _annotator(config.annotator, artefact)
    lessons = Lessons(pool, artefact, annotator)
    return Engine(
        pool=pool,
        annotator=annotator,
        recruiters=LazyParts(RECRUITERS, _recruiter_options(config), lambda part: part.fit(lessons.for_part(part))),
        aggregators=LazyParts(AGGREGATORS, _aggregator_options(config, folder), lessons.taught),
        runner=runner,
        defaults=EngineDefaults(recruiter=config.recruiter.name, aggregator=config.aggregator.name, seed=config.seed),
    )


def artefact_folder(config: EngineConfig) -> Path | None:
    """Where the artefact lies: the configured folder, or the built-in pool's own where it has one."""
    if config.artefact is not None:
        return config.artefact
    if config.pool not in built_in_pools():
        return None
    shipped = Path(inspect.getfile(load_pool)).parent / config.pool / "artefact"
    return shipped if shipped.is_dir() else None


def make_backends(pool: Pool, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Backend]:
    """One backend per name that an enabled expert of the pool uses or that has options, so that all of these are
    checked; raises `UnknownNameError` for an unknown backend and `ConfigError` for options it cannot take."""
    names = dict.fromkeys([*options, *(expert.backend for expert in pool.experts if expert.is_enabled)])
    return {name: BACKENDS.create(name, options.get(name)) for name in names}


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
