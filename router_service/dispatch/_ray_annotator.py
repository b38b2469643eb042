"""Annotation over a cluster: the queries of a large window go through Ray Data to annotators on all its nodes."""

from __future__ import annotations

import asyncio
import logging
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from router_service.config import PartConfig
from router_service.types import Ask, Completion, Query, Question, SkillAnnotation
from skills.base import ANNOTATORS, Annotator

__all__ = ["Annotates", "AnnotatorRecipe", "RayAnnotator", "annotates_alone", "spread_with_ray_data", "whole_cpus"]

_log = logging.getLogger(__name__)

_BLOCK = 256
"""Queries that one annotator takes at once: about a second's work."""
_MOST_ANNOTATORS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorRecipe:
    """An annotator as it travels: its registered name, its options, and the files that its `save` wrote, by name."""

    part: PartConfig
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, annotator: SavableAnnotator, part: PartConfig) -> AnnotatorRecipe:
        """What makes an equal annotator elsewhere."""
        with tempfile.TemporaryDirectory() as folder:
            annotator.save(Path(folder) / _STATE)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return cls(part=part, files=files)

    def annotator(self) -> Annotator:
        """An annotator that annotates as the one did that this was made of."""
        annotator = ANNOTATORS.create(self.part.name, self.part.options)
        assert isinstance(annotator, SavableAnnotator)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return annotator.load(Path(folder) / _STATE)


@runtime_checkable
class SavableAnnotator(Protocol):
    """An annotator whose fitted state can be kept."""

    def save(self, path: str | Path) -> None:
        """Write the state to a file, and perhaps others beside it."""
        ...

    def load(self, path: str | Path) -> Annotator:
        """Take the state that `save` wrote."""
        ...


Spread = Callable[[AnnotatorRecipe, Sequence[Query]], Iterator[tuple[int, SkillAnnotation]]]
"""Has queries annotated elsewhere: (place in the sequence, annotation) as they come, in any order."""

_STATE = "annotator"


def annotates_alone(annotator: Annotator) -> bool:
    """Whether an annotator can work anywhere: it says that it never asks an LLM, and its state can be kept."""
    return bool(getattr(annotator, "annotates_alone", False)) and isinstance(annotator, SavableAnnotator)


class RayAnnotator:
    """An annotator whose large windows are annotated by equal ones on other machines; the annotations are the same.

    What the cluster does not bring, for whatever reason, is annotated here.
    """

    def __init__(self, annotator: Annotator, part: PartConfig, *, from_queries: int, spread: Spread) -> None:
        """`part` is what `annotator` was made of; windows of `from_queries` and more are spread."""
        self._annotator = annotator
        self._part = part
        self._from_queries = from_queries
        self._spread = spread
        self._recipe: AnnotatorRecipe | None = None

    def fit(self, questions: Sequence[Question]) -> RayAnnotator:
        """Fit the annotator here; what works elsewhere is what it becomes."""
        fitted = self._annotator.fit(questions)
        return RayAnnotator(fitted, self._part, from_queries=self._from_queries, spread=self._spread)

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        """One annotation per query, in order."""
        if len(queries) < self._from_queries:
            return await self._annotator.annotate(queries, ask=ask)
        found = await self._elsewhere(queries)
        missing = [place for place in range(len(queries)) if place not in found]
        if missing:
            here = await self._annotator.annotate([queries[place] for place in missing], ask=ask)
            found |= dict(zip(missing, here, strict=True))
        return [found[place] for place in range(len(queries))]

    async def _elsewhere(self, queries: Sequence[Query]) -> dict[int, SkillAnnotation]:
        """What the cluster brings; a caller who goes away ends it at the next block."""
        found: dict[int, SkillAnnotation] = {}
        is_cancelled = threading.Event()

        def gather() -> None:
            assert isinstance(self._annotator, SavableAnnotator)
            self._recipe = self._recipe or AnnotatorRecipe.of(self._annotator, self._part)
            for place, annotation in self._spread(self._recipe, queries):
                found[place] = annotation
                if is_cancelled.is_set():
                    return

        try:
            await asyncio.to_thread(gather)
        except Exception as broke:  # whatever ails the cluster, the questions can be annotated here
            _log.warning(
                "the cluster annotated %d of %d queries, the rest is annotated here: %s: %s",
                len(found),
                len(queries),
                type(broke).__name__,
                str(broke).split("\n", 1)[0],
            )
        finally:
            is_cancelled.set()
        return found


class Annotates:
    """What a worker of Ray Data holds: an annotator, for blocks of pickled queries."""

    def __init__(self, recipe: AnnotatorRecipe) -> None:
        self._annotator = recipe.annotator()

    def __call__(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """Annotations for the queries, pickled, beside the place of each."""
        queries = [pickle.loads(query) for query in block["query"]]
        annotations = asyncio.run(self._annotator.annotate(queries, ask=_nobody))
        return {"place": block["place"], "annotation": [pickle.dumps(annotation) for annotation in annotations]}


async def _nobody(expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
    raise AssertionError("an annotator that is said to annotate alone asked an expert")


def whole_cpus(nodes: Iterable[Mapping[str, float]]) -> int:
    """CPUs that are free as a whole; halves on two nodes make none."""
    return sum(int(resources.get("CPU", 0)) for resources in nodes)


def spread_with_ray_data(recipe: AnnotatorRecipe, queries: Sequence[Query]) -> Iterator[tuple[int, SkillAnnotation]]:
    """Stream the queries through annotators on the CPUs that are free in the cluster this process has joined.

    Where no node has a whole one free, nothing is brought: Ray Data would wait for one without end.
    """
    from ray import data
    from ray._private.state import available_resources_per_node

    free = whole_cpus(available_resources_per_node().values())
    blocks = -(-len(queries) // _BLOCK)
    if free < 1:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    rows = [{"place": place, "query": pickle.dumps(query)} for place, query in enumerate(queries)]
    pool = data.ActorPoolStrategy(min_size=1, max_size=min(free, blocks, _MOST_ANNOTATORS))
    annotated = data.from_items(rows, override_num_blocks=blocks).map_batches(
        Annotates, fn_constructor_args=(recipe,), batch_size=_BLOCK, compute=pool, num_cpus=1
    )
    for block in annotated.iter_batches(batch_size=_BLOCK, batch_format="numpy"):
        for place, annotation in zip(block["place"], block["annotation"], strict=True):
            yield int(place), pickle.loads(annotation)
