"""What embedding costs, and what a decision adds to it: cold queries, batches, and texts asked again."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter, process_time

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
    cold_over_embedding_cpu: float | None = None
    """The same by the process's own work, all threads, which other load on the machine spares."""
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
    turns = asyncio.run(_in_turns(engine, embedder, texts=texts, words=words))
    return replace(
        _throughput(name, embedder, words=words, texts=texts, repeats=repeats),
        recruiter=recruiter,
        embedding_ms=statistics.median(turn.alone[0] for turn in turns) * 1e3,
        cold_ms=statistics.median(turn.cold[0] for turn in turns) * 1e3,
        cold_over_embedding=statistics.median(turn.cold[0] / turn.alone[0] for turn in turns),
        cold_over_embedding_cpu=statistics.median(turn.cold[1] / turn.alone[1] for turn in turns),
        warm_ms=statistics.median(turn.warm[0] for turn in turns) * 1e3,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """Seconds, by the clock and of this process's work, of embedding one text, routing another, and that again."""

    alone: tuple[float, float]
    cold: tuple[float, float]
    warm: tuple[float, float]


async def _in_turns(engine: Engine, embedder: Embedder, *, texts: int, words: int) -> list[_Turn]:
    """So many turns, each with two texts never seen before; one more goes before them to warm up."""
    fresh = iter(sentences(2 * (texts + 1), words, seed=2))
    turns = []
    for number, (mine, asked) in enumerate(zip(fresh, fresh, strict=True)):
        start = _now()
        embedder.embed([mine])
        alone = _since(start)
        cold, warm = [await _routing(engine, f"{kind}-{number}", asked) for kind in ("cold", "warm")]
        turns.append(_Turn(alone=alone, cold=cold, warm=warm))
    return turns[1:]


async def _routing(engine: Engine, query_id: str, text: str) -> tuple[float, float]:
    start = _now()
    await engine.route([user_query(query_id, text)])
    return _since(start)


def _now() -> tuple[float, float]:
    return perf_counter(), process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return perf_counter() - start[0], max(process_time() - start[1], 1e-9)


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
