"""How fast recruiters decide, given embeddings: a whole batch on one core, and one query after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from eval.perf.scene import Scale, Scene
from eval.perf.timing import latency, per_second, timed
from router_service.errors import RouterError
from router_service.recruit.base import RECRUITERS, ConsultingRecruiter, Recruiter, RecruitRequest

__all__ = ["DecisionSpeed", "decision_speeds", "growth"]

_SINGLES = 500
"""Queries of one pass that are decided one by one: enough for a 99th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSpeed:
    """One recruiter at one pool size. `recruit_` is recruiting alone, in a batch; `decision_` one query, from its
    embedding over the neighbour search and the annotation to the decision; `_cpu` counts only this thread's work."""

    recruiter: str
    experts: int
    fit_s: float | None = None
    recruit_per_s: float | None = None
    recruit_per_cpu_s: float | None = None
    decision_p50_ms: float | None = None
    decision_p99_ms: float | None = None
    decision_p50_cpu_ms: float | None = None
    decision_p99_cpu_ms: float | None = None
    skipped: str | None = None
    """Why there are no figures."""


def growth(
    sizes: Sequence[int], names: Sequence[str], *, scale: Scale, repeats: int, max_fit_s: float
) -> Iterator[DecisionSpeed]:
    """Every recruiter at every number of experts. One whose fit took over `max_fit_s` at some size, per expert, is
    left out where its fit would take longer still."""
    fit_s_per_expert: dict[str, float] = {}
    for size in sizes:
        scene = Scene(replace(scale, experts=size))
        requests = scene.requests()
        for name in names:
            if fit_s_per_expert.get(name, 0.0) * size > max_fit_s:
                skipped = f"its fit would take over {max_fit_s:g} s"
                yield DecisionSpeed(recruiter=name, experts=size, skipped=skipped)
                continue
            speed = _speed(name, scene, requests, repeats=repeats)
            if speed.fit_s is not None:
                fit_s_per_expert[name] = speed.fit_s / size
            yield speed


def decision_speeds(scene: Scene, names: Sequence[str], *, repeats: int) -> list[DecisionSpeed]:
    """Every recruiter on one scene."""
    requests = scene.requests()
    return [_speed(name, scene, requests, repeats=repeats) for name in names]


def _speed(name: str, scene: Scene, requests: Sequence[RecruitRequest], *, repeats: int) -> DecisionSpeed:
    missing = partial(DecisionSpeed, recruiter=name, experts=scene.scale.experts)
    try:
        recruiter = RECRUITERS.create(name)
        if isinstance(recruiter, ConsultingRecruiter):
            return missing(skipped="asks an LLM before it decides")
        data = scene.lessons.for_part(recruiter)  # embedded before the clock starts
        fit_s, _ = timed(lambda: recruiter.fit(data))
        decisions = recruiter.recruit(requests[:64])
    except Exception as problem:  # a recruiter that breaks leaves the others their figures
        return missing(skipped=problem.message if isinstance(problem, RouterError) else f"broke: {problem!r}")
    if not any(decision.recruits for decision in decisions):
        return missing(fit_s=fit_s, skipped="recruits nobody for these queries")
    in_batch = [timed(lambda: recruiter.recruit(requests)) for _ in range(repeats)]
    by_clock, by_work = per_second(len(requests), in_batch)
    single = latency([list(_singly(recruiter, scene)) for _ in range(repeats)])
    return missing(
        fit_s=fit_s,
        recruit_per_s=by_clock,
        recruit_per_cpu_s=by_work,
        decision_p50_ms=single.p50_ms,
        decision_p99_ms=single.p99_ms,
        decision_p50_cpu_ms=single.p50_cpu_ms,
        decision_p99_cpu_ms=single.p99_cpu_ms,
    )


def _singly(recruiter: Recruiter, scene: Scene) -> Iterator[tuple[float, float]]:
    """The times of one decision each, given the embedding."""

    def decide(number: int) -> None:
        query = scene.queries[number]
        (annotation,) = scene.annotator.annotations([query], scene.vectors[number : number + 1])
        recruiter.recruit([RecruitRequest(query=query, annotation=annotation, seed=number)])

    for number in range(min(_SINGLES, len(scene.queries))):
        yield timed(partial(decide, number))
