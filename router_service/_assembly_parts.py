"""An engine's recruiters and aggregators: each made and fitted once, or taken back from where it is kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from router_service.errors import ConfigError
from router_service.lessons import Lessons
from router_service.plugins import Registry
from router_service.recruit.base import RECRUITERS, Recruiter, SavableRecruiter
from router_service.recruit.kept import KeptRecruiters

__all__ = ["FittedRecruiters", "LazyParts"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_SLOW_FIT_S = 1.0
"""A fit that takes longer is worth keeping."""


class LazyParts(Generic[T]):
    """The registered parts of one kind, each made once, when first asked for; safe between threads."""

    def __init__(
        self,
        registry: Registry[T],
        options: Mapping[str, Mapping[str, Any]],
        fit: Callable[[T], T] | None = None,
    ) -> None:
        self._registry = registry
        self._options = options
        self._fit = fit
        self._made: dict[str, T] = {}
        self._unfitted: dict[str, T] = {}
        self._locks: dict[str, threading.Lock] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered name."""
        return self._registry.names()

    def check(self, name: str) -> None:
        """Make the part without fitting it yet; raises `UnknownNameError`, or what its options are refused with."""
        with self._lock(name):
            if name not in self._made and name not in self._unfitted:
                self._unfitted[name] = self._create(name)

    def get(self, name: str) -> T:
        """The part of that name; raises `UnknownNameError`, or what making or fitting it raises."""
        if name not in self._made:
            with self._lock(name):
                if name not in self._made:
                    part = self._unfitted.pop(name, None) or self._create(name)
                    self._made[name] = self._prepared(name, part)
        return self._made[name]

    def make_default(self, name: str, *, must_fit: bool) -> None:
        """Make and fit the part at once; where it cannot be fitted and need not be, say so in the log."""
        self.check(name)
        try:
            self.get(name)
        except ConfigError as problem:
            if must_fit:
                raise
            _log.warning("%s; until then only experts that a query names are asked", problem.message)

    def _create(self, name: str) -> T:
        return self._registry.create(name, self._options.get(name))

    def _prepared(self, name: str, part: T) -> T:
        return self._fit(part) if self._fit is not None else part

    def _lock(self, name: str) -> threading.Lock:
        """One lock a part, so that a slow fit keeps nobody from the others; an unknown name gets none."""
        self._registry.factory(name)
        return self._locks.setdefault(name, threading.Lock())


class FittedRecruiters(LazyParts[Recruiter]):
    """Recruiters fitted on an engine's lessons, or taken from those kept in the artefact's folder."""

    def __init__(
        self,
        options: Mapping[str, Mapping[str, Any]],
        lessons: Lessons,
        *,
        folder: Path | None,
        is_own_folder: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(RECRUITERS, options)
        self._lessons = lessons
        self._kept = None if folder is None else KeptRecruiters(folder)
        self._is_own_folder = is_own_folder
        self._clock = clock

    def _prepared(self, name: str, part: Recruiter) -> Recruiter:
        if self._is_taken(name, part):
            return part
        data = self._lessons.for_part(part)
        started = self._clock()
        fitted = part.fit(data)
        took_s = self._clock() - started
        if took_s > _SLOW_FIT_S and self._is_own_folder and isinstance(part, SavableRecruiter):
            _log.warning(
                "fitting recruiter %r took %.1f s; `enlist recruiter fit --recruiter %s` keeps what it learned",
                name,
                took_s,
                name,
            )
        return fitted

    def _is_taken(self, name: str, part: Recruiter) -> bool:
        """Whether the part was kept, as what it would become, and has that state now."""
        origin = self._lessons.origin(part)
        if self._kept is None or origin is None or not isinstance(part, SavableRecruiter):
            return False
        return self._kept.take(name, part, origin=origin, experts=self._lessons.plain.experts)
