"""What embedding costs, and what a decision adds to it: cold queries, batches, and texts asked again."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from eval.perf.scene import Scene, sentences
from eval.perf.timing import per_second, timed
from experts_registry.artefact import Artefact
from router_service.assembly import build_engine
from router_service.config import EngineConfig, PartConfig
from router_service.engine import Engine
from router_service.errors import RouterError
from router_service.types import user_query
from skills.base import EMBEDDERS, Embedder
from skills.cached_embedder import CachedEmbedder

__all__ = ["EmbeddingCost", "embedding_costs"]

_BATCHES = (8, 32)
_FIT_QUESTIONS = 200
"""Enough to search among; with a slow embedder more would take the bench most of its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCost:
    """One embedder, for texts of `words` words.

    `embedding_ms` is one text's embedding alone, `cold_ms` one query never seen, text to decision, through the engine;
    they are taken in turns, and `cold_over_embedding` is the median of the pairs' ratios.
    """

    embedder: str
    words: int
    recruiter: str | None = None
    embedding_ms: float | None = None
    cold_ms: float | None = None
    cold_over_embedding: float | None = None
    warm_ms: float | None = None
    """The same query again: its text is remembered."""
    embed_per_s: float | None = None
    embed_per_s_batch_8: float | None = None
    embed_per_s_batch_32: float | None = None
    remembered_per_s: float | None = None
    """Texts a second that the memory in front of the embedder knows."""
    skipped: str | None = None


def embedding_costs(
    names: Sequence[str], scene: Scene, *, recruiter: str, texts: int, repeats: int
) -> list[EmbeddingCost]:
    """Every embedder that can be opened here; `texts` are how many of each kind are embedded."""
    return [_cost(name, scene, recruiter=recruiter, texts=texts, repeats=repeats) for name in names]


def _cost(name: str, scene: Scene, *, recruiter: str, texts: int, repeats: int) -> EmbeddingCost:
    words = scene.scale.words
    try:
        embedder = EMBEDDERS.create(name)
        embedder.embed(["warm up"])
    except RouterError as problem:
        return EmbeddingCost(embedder=name, words=words, skipped=problem.message)
    engine = _engine(scene, embedder, recruiter)
    alone_s, cold_s, warm_s = asyncio.run(_in_turns(engine, embedder, texts=texts, words=words))
    return replace(
        _throughput(name, embedder, words=words, texts=texts, repeats=repeats),
        recruiter=recruiter,
        embedding_ms=statistics.median(alone_s) * 1e3,
        cold_ms=statistics.median(cold_s) * 1e3,
        cold_over_embedding=statistics.median(cold / alone for cold, alone in zip(cold_s, alone_s, strict=True)),
        warm_ms=statistics.median(warm_s) * 1e3,
    )


def _engine(scene: Scene, embedder: Embedder, recruiter: str) -> Engine:
    """An engine as configured by default, but for its pool, its artefact and this embedder (behind its memory)."""
    questions = scene.artefact.questions[:_FIT_QUESTIONS]
    kept = {question.id for question in questions}
    outcomes = [outcome for outcome in scene.artefact.outcomes if outcome.question_id in kept]
    config = EngineConfig(
        annotator=PartConfig(name="embedding", options={"embedder": CachedEmbedder(embedder)}),
        recruiter=PartConfig(name=recruiter),
    )
    artefact = Artefact.fit(outcomes, questions, pool_name=scene.pool.name)
    return build_engine(config, pool=scene.pool, artefact=artefact)


async def _in_turns(
    engine: Engine, embedder: Embedder, *, texts: int, words: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds of embedding alone, of a cold decision, and of the same decision again, each for texts never seen."""
    alone_s, cold_s, warm_s = [], [], []
    fresh = sentences(2 * (texts + 1), words, seed=2)
    for number in range(texts + 1):
        mine, asked = fresh[2 * number], fresh[2 * number + 1]
        alone, _ = timed(partial(embedder.embed, [mine]))
        cold = await _routing_s(engine, f"cold-{number}", asked)
        warm = await _routing_s(engine, f"warm-{number}", asked)
        if number:  # the first turn warms up
            alone_s.append(alone)
            cold_s.append(cold)
            warm_s.append(warm)
    return alone_s, cold_s, warm_s


async def _routing_s(engine: Engine, query_id: str, text: str) -> float:
    start = perf_counter()
    await engine.route([user_query(query_id, text)])
    return perf_counter() - start


def _throughput(name: str, embedder: Embedder, *, words: int, texts: int, repeats: int) -> EmbeddingCost:
    known = sentences(texts, words, seed=3)
    memory = CachedEmbedder(embedder, capacity=max(1, texts))
    memory.embed(known)
    one, *batches = (_texts_per_s(embedder, known, size=size, repeats=repeats) for size in (1, *_BATCHES))
    return EmbeddingCost(
        embedder=name,
        words=words,
        embed_per_s=one,
        embed_per_s_batch_8=batches[0],
        embed_per_s_batch_32=batches[1],
        remembered_per_s=_texts_per_s(memory, known, size=1, repeats=repeats),
    )


def _texts_per_s(embedder: Embedder, texts: Sequence[str], *, size: int, repeats: int) -> float:
    batches = [list(texts[start : start + size]) for start in range(0, len(texts), size)]

    def embed_all() -> None:
        for batch in batches:
            embedder.embed(batch)

    by_clock, _ = per_second(len(texts), [timed(embed_all) for _ in range(repeats)])
    return by_clock
