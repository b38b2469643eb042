"""Made-up waves for the bench of the scheduler: queries that recruit several of many models, on some devices."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from router_service.backends.base import Device, Footprint
from router_service.dispatch.scheduler import Work

__all__ = ["Trace", "offline_traces", "online_trace", "works_of_requests"]

_MEMORY_GIB = 80.0
_REQUESTS_PER_WORK = (1, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Devices and what comes; the rest says how it was drawn."""

    seed: int
    devices: tuple[Device, ...]
    works: tuple[Work, ...]
    models: int
    skew: float
    run_over_load: float
    models_per_device: int
    is_mixed: bool


def offline_traces(count: int, *, seed: int = 0) -> list[Trace]:
    """So many waves, all works there at once, drawn independently of one another and of what the scheduler does.

    Each draws: 1 to 8 equal devices, 4 to 64 models, memory for 1 to 4 of them (every other trace of one size, else of
    0.5 to 1 of that share), Zipf's exponent 0.4 to 1.4, 100 to 1000 queries that recruit 1 to 5 different models each,
    works of at most 1, 4, 8, 16 or 32 requests, loads within a factor of 8, requests within a factor of 4, and in all
    between a quarter of the time and eight times the time for runs as for one load of every model.
    """
    return [_trace(random.Random(f"{seed}/{number}"), number) for number in range(count)]


def _trace(rng: random.Random, seed: int) -> Trace:
    devices = tuple(Device(name=f"gpu{n}", memory_gib=_MEMORY_GIB) for n in range(rng.randint(1, 8)))
    models = rng.randint(4, 64)
    skew, ratio = rng.uniform(0.4, 1.4), math.exp(rng.uniform(math.log(0.25), math.log(8)))
    per_device, is_mixed = rng.randint(1, 4), rng.random() < 0.5
    panels = _panels(rng, models, skew)
    loads_s = [5 * math.exp(rng.uniform(0, math.log(8))) for _ in range(models)]
    paces = [math.exp(rng.uniform(0, math.log(4))) for _ in range(models)]
    used = {model for panel in panels for model in panel}
    paced = sum(paces[model] for panel in panels for model in panel)
    scale = ratio * sum(loads_s[model] for model in used) / paced
    share_gib = _MEMORY_GIB / per_device
    footprints = [
        Footprint(
            model=f"model-{number:02}",
            turn=f"model-{number:02}",
            memory_gib=share_gib * (rng.uniform(0.5, 1) if is_mixed else 1),
            load_s=loads_s[number],
        )
        for number in range(models)
    ]
    most = rng.choice(_REQUESTS_PER_WORK)
    works = works_of_requests(panels, footprints, [pace * scale for pace in paces], most=most)
    return Trace(
        seed=seed,
        devices=devices,
        works=works,
        models=len(used),
        skew=skew,
        run_over_load=ratio,
        models_per_device=per_device,
        is_mixed=is_mixed,
    )


def _panels(rng: random.Random, models: int, skew: float) -> list[list[int]]:
    """Per query the different models it recruits; half of the queries take neighbours of their first one, so that some
    models are recruited together more often than their shares alone would have it."""
    weights = [1 / (rank + 1) ** skew for rank in range(models)]
    found = []
    for _ in range(rng.randint(100, 1000)):
        size = min(models, rng.randint(1, 5))
        first = rng.choices(range(models), weights)[0]
        if rng.random() < 0.5:
            found.append([(first + step) % models for step in range(size)])
            continue
        panel = {first}
        while len(panel) < size:
            panel.add(rng.choices(range(models), weights)[0])
        found.append(sorted(panel))
    return found


def works_of_requests(
    panels: Sequence[Sequence[int]], footprints: Sequence[Footprint], request_s: Sequence[float], *, most: int
) -> tuple[Work, ...]:
    """The requests grouped by model, in order of the queries, into works of at most so many."""
    by_model: dict[int, list[int]] = {}
    for query, panel in enumerate(panels):
        for model in panel:
            by_model.setdefault(model, []).append(query)
    return tuple(
        Work(
            id=f"{footprints[model].model}/{begin}",
            footprint=footprints[model],
            run_s=request_s[model] * len(queries[begin : begin + most]),
            queries=frozenset(f"q{query}" for query in queries[begin : begin + most]),
        )
        for model, queries in by_model.items()
        for begin in range(0, len(queries), most)
    )


def online_trace(seed: int, *, queries: int = 1000) -> Trace:
    """Works of one request that come one query after the other (Poisson), 70 % of what the devices could run."""
    rng = random.Random(f"online/{seed}")
    devices = tuple(Device(name=f"gpu{n}", memory_gib=_MEMORY_GIB) for n in range(rng.randint(1, 4)))
    models, per_device, skew = rng.randint(4, 16), rng.randint(1, 3), rng.uniform(0.4, 1.4)
    weights = [1 / (rank + 1) ** skew for rank in range(models)]
    footprints = [
        Footprint(model=f"model-{n:02}", turn="", memory_gib=_MEMORY_GIB / per_device, load_s=rng.uniform(5, 40))
        for n in range(models)
    ]
    size, run_s = 3, 1.0
    rate = 0.7 * len(devices) / (size * run_s)
    works, now = [], 0.0
    for query in range(queries):
        now += rng.expovariate(rate)
        for model in sorted(set(rng.choices(range(models), weights, k=size))):
            works.append(
                Work(
                    id=f"{query}/{model}",
                    footprint=footprints[model],
                    run_s=run_s * rng.uniform(0.5, 1.5),
                    arrived_s=now,
                    queries=frozenset({f"q{query}"}),
                )
            )
    return Trace(
        seed=seed,
        devices=devices,
        works=tuple(works),
        models=models,
        skew=skew,
        run_over_load=0.0,
        models_per_device=per_device,
        is_mixed=False,
    )
