"""The schedule's words: works that wait, the actions that are to be begun, the settings."""

from __future__ import annotations

from dataclasses import dataclass

from router_service.backends.base import Footprint

__all__ = ["Action", "Load", "Release", "SchedulerSettings", "Start", "Work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An indivisible piece of work: requests to one expert that run together on its model.

    `run_s` estimates how long it takes alone; `queries` are the ids it answers for (experts that answer for the same
    queries are placed apart). Times are in seconds; a simulation may count them in whole numbers.
    """

    id: str
    footprint: Footprint
    run_s: float
    arrived_s: float = 0.0
    queries: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Have a model resident on a device now; `wakes` where it sleeps there. `work_id` is one that asks for it."""

    device: str
    model: str
    work_id: str
    wakes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give a model's memory on a device back now; keep it asleep where `sleeps`."""

    device: str
    model: str
    sleeps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Run a work on a device now; its model is resident there."""

    device: str
    work_id: str


Action = Load | Release | Start


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """How models take turns; `DispatchConfig` says what each means."""

    window_s: float = 0.01
    turn_cap: float = 2.0
    prefetches: bool = True
    replicates: bool = True
