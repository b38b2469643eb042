"""Replays recorded outcomes: strategies fitted on `fit`, judged on `test`, by the very engine that serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from eval.datasets import Dataset
from eval.grading import grade, question_query
from eval.kept_embedder import KeptEmbedder
from eval.metrics import accuracy, bootstrap_interval
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.backends.base import BACKENDS, Backend
from router_service.config import EngineConfig, PartConfig
from router_service.engine import Engine
from router_service.errors import ConfigError, UnknownNameError
from router_service.recruit.base import RECRUITERS
from router_service.types import (
    Query,
    Question,
    RouteControls,
    RouteFailure,
    RouteResponse,
    stable_seed,
)
from skills.base import EMBEDDERS, Embedder

__all__ = [
    "ReplayPlan",
    "ReplayResult",
    "ReplayRow",
    "Unanswered",
    "disagreements",
    "remarks",
    "replay",
    "usable_embedder",
]

_FIT, _TEST = "fit", "test"
_FAST_EMBEDDER, _PLAIN_EMBEDDER = "minilm_onnx", "hashing"

Progress = Callable[[int, int], None]
"""Called with the strategies finished and the strategies in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """Which strategies to judge: every pool with every recruiter, aggregator and k."""

    pools: tuple[str, ...]
    recruiters: tuple[str, ...]
    aggregators: tuple[str, ...] = ("majority",)
    ks: tuple[int, ...] = (3,)
    embedder: str = _FAST_EMBEDDER
    seed: int = 0
    cache_dir: Path | None = None
    """Where embeddings are kept; unset is the user's cache."""

    def strategies(self) -> Iterator[tuple[str, str, int]]:
        """Recruiter, aggregator and k of each strategy, in the order asked for."""
        yield from product(self.recruiters, self.aggregators, self.ks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRow:
    """What a strategy reached. `ci95` is the bootstrap interval; `cost_usd_per_1k` is None where a cost is unknown."""

    dataset: str
    pool: str
    recruiter: str
    aggregator: str
    k: int
    n: int
    accuracy: float
    ci95: tuple[float, float]
    calls_per_query: float
    cost_usd_per_1k: float | None

    def as_json(self) -> dict[str, object]:
        """The row as JSON holds it."""
        return dataclasses.asdict(self) | {"ci95": list(self.ci95)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """How many questions got no answer, and how many of these were graded 0; the others count as recorded."""

    count: int = 0
    n_wrong: int = 0

    @property
    def judged(self) -> str:
        """How they count, in words."""
        if self.n_wrong == self.count:
            return "all count as wrong"
        return f"counted as wrong: {self.n_wrong}, as recorded: {self.count - self.n_wrong}"

    def with_one(self, grade: float) -> Unanswered:
        """One question more, graded `grade`."""
        return Unanswered(count=self.count + 1, n_wrong=self.n_wrong + (grade == 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """A row with the grade of each test question, in the dataset's order, for paired comparisons; and the failures."""

    row: ReplayRow
    grades: tuple[float, ...]
    failures: Mapping[str, Unanswered]
    """By error code."""


async def replay(dataset: Dataset, plan: ReplayPlan, *, on_progress: Progress | None = None) -> list[ReplayResult]:
    """One result per pool, recruiter, aggregator and k.

    Raises `UnknownNameError` for a pool, recruiter or aggregator that is not there, before anything is run.
    """
    pools = [dataset.pool(name) for name in plan.pools]
    strategies = list(plan.strategies())
    backend = BACKENDS.create("replay", {"data_dir": str(dataset.folder)})
    engines: list[Engine] = []
    results: list[ReplayResult] = []
    try:
        for pool in pools:
            engines.append(_engine(dataset, pool, plan, backends={"replay": backend}))
            _require_names(engines[-1], plan)
            for recruiter, aggregator, k in strategies:
                controls = RouteControls(recruiter=recruiter, aggregator=aggregator, k=k)
                results.append(await _judge(engines[-1], dataset, controls, seed=plan.seed))
                if on_progress is not None:
                    on_progress(len(results), len(pools) * len(strategies))
    finally:
        for engine in engines:
            await engine.aclose()
    return results


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


def remarks(dataset: Dataset, plan: ReplayPlan, results: Sequence[ReplayResult]) -> list[str]:
    """What a reader of the rows should know: questions without any answer, and what was recorded otherwise."""
    said = []
    for result in results:
        for code, failed in result.failures.items():
            row = result.row
            strategy = f"{row.pool}, {row.recruiter}, {row.aggregator}, k = {row.k}"
            said.append(f"{strategy}: {failed.count} of {row.n} questions got no answer ({code}); {failed.judged}")
    if not dataset.has_answers:
        said.append(
            "the dataset records who was right, not always what was said: a panel without a readable answer is judged "
            "by its earliest member"
        )
    models = list(dict.fromkeys(model for name in plan.pools for model in dataset.pools[name]))
    odd = disagreements(dataset, models)
    if odd:
        said.append(
            f"{len(odd)} recorded test outcomes are graded otherwise by this project's rules (for instance {odd[0]}); "
            "answers of experts count as recorded"
        )
    return said


def disagreements(dataset: Dataset, models: Sequence[str]) -> list[str]:
    """Recorded test outcomes that this project's grading judges otherwise than the dataset, as `question/model`."""
    if not dataset.has_answers:
        return []
    questions = {question.id: question for question in dataset.split(_TEST)}
    return [
        f"{outcome.question_id}/{outcome.expert_id}"
        for outcome in dataset.outcomes(questions.values(), models)
        if grade(outcome.extracted, questions[outcome.question_id]) != outcome.correct
    ]


def _engine(dataset: Dataset, pool: Pool, plan: ReplayPlan, *, backends: Mapping[str, Backend]) -> Engine:
    """The serving engine over a recorded pool, fitted on the fit split."""
    questions = [_with_skills(question, dataset) for question in dataset.split(_FIT)]
    outcomes = dataset.outcomes(questions, pool.ids)
    config = EngineConfig(
        annotator=_annotator(dataset, plan),
        recruiter=PartConfig(name=plan.recruiters[0]),
        aggregator=PartConfig(name=plan.aggregators[0]),
        seed=plan.seed,
    )
    artefact = Artefact.fit(outcomes, questions, pool_name=pool.name)
    return build_engine(config, pool=pool, artefact=artefact, backends=backends)


def _annotator(dataset: Dataset, plan: ReplayPlan) -> PartConfig:
    """Skills as recorded, else those of the nearest fit questions; nothing is embedded for who asks for no skills."""
    if not any(getattr(RECRUITERS.factory(name), "needs_annotation", True) for name in plan.recruiters):
        return PartConfig(name="blank")
    embedder: Embedder | str = plan.embedder
    if plan.embedder != _PLAIN_EMBEDDER:
        embedder = KeptEmbedder(EMBEDDERS.create(plan.embedder), name=dataset.name, folder=plan.cache_dir)
    return PartConfig(name="recorded" if dataset.has_skills else "embedding", options={"embedder": embedder})


def _with_skills(question: Question, dataset: Dataset) -> Question:
    """The question as it is fitted on: where the dataset records no skills, its category is its one skill."""
    if dataset.has_skills or question.category is None:
        return question
    return replace(question, skills=(question.category,))


def _require_names(engine: Engine, plan: ReplayPlan) -> None:
    for kind, names, allowed in (
        ("recruiter", plan.recruiters, engine.recruiter_names),
        ("aggregator", plan.aggregators, engine.aggregator_names),
    ):
        for name in names:
            if name not in allowed:
                raise UnknownNameError(kind, name, allowed)


async def _judge(engine: Engine, dataset: Dataset, controls: RouteControls, *, seed: int) -> ReplayResult:
    questions = dataset.split(_TEST)
    ends = await engine.run([_query(question, controls, seed) for question in questions])
    grades = tuple(_grade(dataset, question, end) for question, end in zip(questions, ends, strict=True))
    failures: dict[str, Unanswered] = {}
    for end, points in zip(ends, grades, strict=True):
        if isinstance(end, RouteFailure):
            failures[end.code] = failures.get(end.code, Unanswered()).with_one(points)
    costs = [_cost_usd(dataset, end) for end in ends]
    known = [cost for cost in costs if cost is not None]
    row = ReplayRow(
        dataset=dataset.name,
        pool=engine.pool.name,
        recruiter=controls.recruiter or "",
        aggregator=controls.aggregator or "",
        k=controls.k or 0,
        n=len(questions),
        accuracy=accuracy(grades),
        ci95=bootstrap_interval(grades, seed=seed),
        calls_per_query=sum(map(_calls, ends)) / len(ends),
        cost_usd_per_1k=1000 * sum(known) / len(costs) if len(known) == len(costs) else None,
    )
    return ReplayResult(row=row, grades=grades, failures=failures)


def _query(question: Question, controls: RouteControls, seed: int) -> Query:
    query = question_query(question, seed=stable_seed(seed, question.id))
    return replace(query, controls=controls)


def _grade(dataset: Dataset, question: Question, end: RouteResponse | RouteFailure) -> float:
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


def _calls(end: RouteResponse | RouteFailure) -> int:
    """Completions asked of experts, whatever became of them, and what annotator and aggregator asked."""
    others = end.usage.completions - sum(completion.usage.completions for completion in end.completions)
    return len(end.completions) + others


def _cost_usd(dataset: Dataset, end: RouteResponse | RouteFailure) -> float | None:
    """What experts and aggregator cost; an outcome that was never recorded cost nothing, an unknown price stays so."""
    costs = [c.usage.cost_usd for c in end.completions if (end.query_id, c.expert_id) in dataset.recorded]
    if isinstance(end, RouteResponse):
        costs.append(end.answer.usage.cost_usd)
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
