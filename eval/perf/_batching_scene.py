"""What the bench of batching asks whom: real bases that count as different models, and short questions for them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from experts_registry.pool import Pool
from router_service.config import EngineConfig, PartConfig, cache_folder
from router_service.types import Expert, Prices, Query, Sampling, user_query

__all__ = ["BatchingScale", "bases", "config_of", "pool_of", "queries_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingScale:
    """How much is asked: `questions`, each of `k` experts of as many as there are `bases`, `max_tokens` long."""

    bases: int = 6
    questions: int = 60
    k: int = 3
    max_tokens: int = 12
    seed: int = 0


@contextmanager
def bases(count: int, *, source: Path) -> Iterator[list[Path]]:
    """So many folders with the model in `source`, each a model of its own to every engine: hard links where the file
    system has them, copies else. They lie beside the cached weights, and are gone afterwards."""
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="bench-bases-", dir=root) as folder:
        made = []
        for number in range(count):
            made.append(Path(folder) / f"base-{number}")
            made[-1].mkdir()
            for file in source.iterdir():
                _link(file, made[-1] / file.name)
        yield made


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def pool_of(folders: list[Path], *, backend: str, memory_gib: float) -> Pool:
    """One expert per folder, greedy and without price."""
    experts = tuple(
        Expert(
            id=f"expert-{number}",
            model=str(folder),
            backend=backend,
            prices=Prices(input_usd_per_mtok=0.0, output_usd_per_mtok=0.0),
            context_window=2048,
            memory_gib=memory_gib,
            sampling=Sampling(temperature=0.0),
        )
        for number, folder in enumerate(folders)
    )
    return Pool(name="bench of batching", experts=experts)


def config_of(scale: BatchingScale, *, prefetches: bool) -> EngineConfig:
    """Who is recruited is drawn per question: what loads cost does not depend on how well the choice was made."""
    usual = EngineConfig()
    return usual.model_copy(
        update={
            "annotator": PartConfig(name="blank"),
            "recruiter": PartConfig(name="random"),
            "aggregator": PartConfig(name="majority"),
            "k": scale.k,
            "dispatch": usual.dispatch.model_copy(update={"prefetches": prefetches, "stops_early": False}),
        }
    )


def queries_of(scale: BatchingScale) -> list[Query]:
    """Short sums in words of an everyday question, no two alike."""
    rng = random.Random(scale.seed)
    things = ("apples", "books", "coins", "stamps", "marbles", "pencils")
    pairs = rng.sample([(a, b) for a in range(2, 60) for b in range(2, 60)], scale.questions)
    found = []
    for number, (a, b) in enumerate(pairs):
        thing = things[number % len(things)]
        text = f"I had {a} {thing} and was given {b} more. How many {thing} do I have now?"
        query = user_query(f"question-{number:03}", text, seed=number)
        found.append(replace(query, sampling=Sampling(temperature=0.0, max_tokens=scale.max_tokens)))
    return found
