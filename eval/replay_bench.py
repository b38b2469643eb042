"""The bench a replay works on: the serving engine over a recorded pool, its questions annotated once for all pools."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from aggregators.base import AGGREGATORS
from eval.datasets import Dataset
from eval.grading import question_query
from eval.kept_embedder import KeptEmbedder
from eval.outcome_matrix import OutcomeMatrix, outcome_matrix
from eval.replay_journal import dataset_fingerprint
from eval.replay_plan import ReplayPlan, Strategy
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.assembly import LazyParts, usable_pool
from router_service.backends.base import BACKENDS, Backend
from router_service.config import DispatchConfig
from router_service.dispatch.runner import Runner
from router_service.engine import Engine, EngineDefaults
from router_service.errors import ConfigError, RouterError
from router_service.lessons import EmbeddingAnnotator, Lessons
from router_service.recruit.base import RECRUITERS, Recruiter, RecruitRequest
from router_service.types import (
    MAX_K,
    Ask,
    Completion,
    Outcome,
    Query,
    Question,
    RouteControls,
    SkillAnnotation,
    stable_seed,
)
from skills.base import ANNOTATORS, EMBEDDERS, Annotator, Embedder, Vectors

__all__ = ["DatasetBench", "PoolBench"]

_log = logging.getLogger(__name__)

_PLAIN_EMBEDDER = "hashing"


class DatasetBench:
    """A dataset made ready for a plan: the questions to fit on and to judge, embedded and annotated once.

    Nothing is embedded before somebody needs an annotation.
    """

    def __init__(self, dataset: Dataset, plan: ReplayPlan) -> None:
        self.dataset = dataset
        self.plan = plan
        self.judged = dataset.split(plan.split)
        self.backend = BACKENDS.create(
            "replay", {"data_dir": str(dataset.folder), "uses_responses": plan.uses_responses}
        )
        self._annotator: Annotator | None = None

    @cached_property
    def fitted(self) -> tuple[Question, ...]:
        """The questions to learn from. Where the dataset records no skills, a question's category is its one skill."""
        questions = [q for split in self.plan.fitted_splits(self.dataset) for q in self.dataset.split(split)]
        if self._has_skills:
            return tuple(questions)
        return tuple(q if q.category is None else replace(q, skills=(q.category,)) for q in questions)

    def matrix(self, questions: Sequence[Question], pool: str) -> OutcomeMatrix:
        """The outcomes of a pool on these questions."""
        return outcome_matrix(self.dataset, questions, self.dataset.pools[pool])

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the dataset does."""
        return dataset_fingerprint(self.dataset)

    @cached_property
    def queries(self) -> tuple[Query, ...]:
        """The judged questions as queries, without seed and controls."""
        return tuple(question_query(question) for question in self.judged)

    async def annotator(self) -> Annotator:
        """One that knows the judged questions by heart: skills as recorded, else those of the nearest fitted ones."""
        if self._annotator is None:
            self._annotator = await self._prepare()
        return self._annotator

    @cached_property
    def _has_skills(self) -> bool:
        return self.dataset.has_skills

    async def _prepare(self) -> Annotator:
        if not self._needs_annotation():
            return ANNOTATORS.create("blank")
        embedder: Embedder | str = self.plan.embedder
        if embedder != _PLAIN_EMBEDDER:
            name, folder = self.dataset.name, self.plan.cache_dir
            embedder = KeptEmbedder(EMBEDDERS.create(self.plan.embedder), name=name, folder=folder)
        options: dict[str, Any] = {"embedder": embedder}
        name = "embedding"
        if self._has_skills:
            name, options["embeds"] = "recorded", True
        annotator = ANNOTATORS.create(name, options).fit(self.fitted)
        annotations = await annotator.annotate(self.queries, ask=_no_model)
        return _ByHeart(annotator, {annotation.query_id: annotation for annotation in annotations})

    def _needs_annotation(self) -> bool:
        recruiters = [RECRUITERS.factory(name) for name in self.plan.recruiter_names()]
        aggregators = [AGGREGATORS.factory(name) for name in self.plan.aggregators]
        is_embedded = any(getattr(part, "needs_embeddings", False) for part in (*recruiters, *aggregators))
        return is_embedded or any(getattr(part, "needs_annotation", True) for part in recruiters)


class PoolBench:
    """The serving engine over one pool of the dataset, each part fitted when first asked for.

    With `is_shuffled` it learns from grades that are shuffled over the questions, each expert's by itself.
    """

    def __init__(self, bench: DatasetBench, pool: Pool, annotator: Annotator, *, is_shuffled: bool = False) -> None:
        self.bench = bench
        self.annotator = annotator
        self.is_shuffled = is_shuffled
        self.fit_s: dict[str, float] = {}
        backends: dict[str, Backend] = {"replay": bench.backend}
        pool = usable_pool(pool, backends)
        outcomes = bench.dataset.outcomes(bench.fitted, pool.ids)
        if is_shuffled:
            outcomes = _shuffled(outcomes, bench.fitted, seed=bench.plan.seed)
        lessons = Lessons(pool, Artefact.fit(outcomes, bench.fitted, pool_name=pool.name), annotator)
        self.recruiters = LazyParts(RECRUITERS, {}, lambda part: self._fit(part, lessons))
        self.aggregators = LazyParts(AGGREGATORS, {}, lessons.taught)
        self._problems: dict[str, Exception | None] = {}
        self.engine = Engine(
            pool=pool,
            annotator=annotator,
            recruiters=self.recruiters,
            aggregators=self.aggregators,
            runner=Runner(experts={e.id: e for e in pool.experts}, backends=backends, settings=DispatchConfig()),
            defaults=EngineDefaults(recruiter="fixed", aggregator="majority", seed=bench.plan.seed),
        )

    @property
    def pool(self) -> Pool:
        """The pool, with every expert switched off of which nothing is recorded."""
        return self.engine.pool

    def problem_with(self, strategy: Strategy) -> tuple[str, Exception] | None:
        """The part that cannot be made or fitted on this pool, and why; None where all is well."""
        for parts, name in ((self.recruiters, strategy.recruiter), (self.aggregators, strategy.aggregator)):
            key = f"{'recruiter' if parts is self.recruiters else 'aggregator'} {name!r}"
            if key not in self._problems:
                self._problems[key] = _try(parts, name, key)
            problem = self._problems[key]
            if problem is not None:
                return key, problem
        return None

    def queries(self, strategy: Strategy, seed: int) -> list[Query]:
        """The judged questions as queries that ask for the strategy, each with a seed of its own."""
        controls = RouteControls(
            recruiter=strategy.recruiter,
            aggregator=strategy.aggregator,
            k=self._completions(strategy),
            waits_for_all=True,
        )
        return [replace(query, seed=stable_seed(seed, query.id), controls=controls) for query in self.bench.queries]

    async def requests(self, strategy: Strategy) -> list[RecruitRequest]:
        """What the engine shows the recruiter for each judged question, under the first seed."""
        queries = self.queries(strategy, self.bench.plan.seed)
        annotations = [SkillAnnotation(query_id=query.id) for query in queries]
        if self.recruiters.get(strategy.recruiter).needs_annotation:
            annotations = await self.annotator.annotate(queries, ask=_no_model)
        return [
            RecruitRequest(query=query, annotation=annotation, seed=query.seed or 0)
            for query, annotation in zip(queries, annotations, strict=True)
        ]

    def _completions(self, strategy: Strategy) -> int | None:
        if strategy.k is not None:
            return strategy.k
        recruiter = self.recruiters.get(strategy.recruiter)
        sizes_up_to_k = getattr(recruiter, "sizes_panel", False) and getattr(recruiter, "k", None) is not None
        return MAX_K if sizes_up_to_k else None

    def _fit(self, part: Recruiter, lessons: Lessons) -> Recruiter:
        data = lessons.for_part(part)  # embeds, where nobody has before, which is not the recruiter's own work
        started = time.perf_counter()
        fitted = part.fit(data)
        self.fit_s[getattr(part, "name", type(part).__name__)] = time.perf_counter() - started
        return fitted


class _ByHeart:
    """An annotator that hands out what was annotated before; `embed` is that of the one that made it."""

    def __init__(self, inner: Annotator, annotations: Mapping[str, SkillAnnotation]) -> None:
        self._inner = inner
        self._annotations = annotations

    def fit(self, questions: Sequence[Question]) -> _ByHeart:
        return self

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        return [self._annotations[query.id] for query in queries]

    def embed(self, texts: Sequence[str]) -> Vectors:
        assert isinstance(self._inner, EmbeddingAnnotator)
        return self._inner.embed(texts)


async def _no_model(expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
    raise ConfigError(f"a replay calls no model, and expert {expert_id!r} was asked to annotate {query.id!r}")


def _try(parts: LazyParts[Any], name: str, key: str) -> Exception | None:
    try:
        parts.get(name)
    except RouterError as problem:
        return problem
    except Exception as defect:  # one part's bug must not end a replay of many
        _log.exception("%s could not be fitted", key)
        return defect
    return None


def _shuffled(outcomes: Sequence[Outcome], questions: Sequence[Question], *, seed: int) -> tuple[Outcome, ...]:
    """Each expert's outcomes, whole, dealt out anew over the questions: who is strong stays, at what does not."""
    others: dict[str, dict[str, Question]] = {}
    for expert_id in dict.fromkeys(outcome.expert_id for outcome in outcomes):
        dealt = list(questions)
        random.Random(stable_seed(seed, "shuffled grades", expert_id)).shuffle(dealt)
        others[expert_id] = {question.id: other for question, other in zip(questions, dealt, strict=True)}
    return tuple(
        replace(outcome, question_id=other.id, split=other.split)
        for outcome in outcomes
        for other in (others[outcome.expert_id][outcome.question_id],)
    )
