"""Annotating elsewhere: the same annotations in the same order, and here whatever does not come."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.config import PartConfig
from router_service.dispatch._ray_annotator import Annotates, AnnotatorRecipe, RayAnnotator, annotates_alone, whole_cpus
from router_service.types import Query, Question, SkillAnnotation, user_query
from skills.annotators.embedding import Embedding
from skills.base import ANNOTATORS, Annotator
from tests.router_service.dispatch.fakes import until

PARTS = {
    "embedding": PartConfig(name="embedding", options={"embedder": "hashing"}),
    "recorded": PartConfig(name="recorded", options={"embedder": "hashing", "embeds": True}),
}
QUESTIONS = [
    Question(id=f"f{i}", text=text, skills=(skill,), category=skill)
    for i, (text, skill) in enumerate(
        [("add two and three", "sums"), ("the capital of France", "places"), ("what is nine plus one", "sums")] * 3
    )
]


def fitted(name: str = "embedding") -> Annotator:
    return ANNOTATORS.create(name, PARTS[name].options).fit(QUESTIONS)


def queries(count: int) -> list[Query]:
    return [user_query(f"q{i}", f"add {i} and {i * 7 % 5} in France") for i in range(count)]


async def nobody(expert_id: str, query: Query, *, is_visible: bool = False) -> None:
    raise AssertionError("nobody may be asked")


class Blocks:
    """Annotates in blocks by pickled recipes, as Ray Data's workers do; `loses` leaves blocks out, and after
    `breaks_after` of them it raises."""

    def __init__(self, size: int = 4, *, loses: Sequence[int] = (), breaks_after: int | None = None) -> None:
        self.size, self.loses, self.breaks_after = size, loses, breaks_after
        self.blocks = 0

    def __call__(self, recipe: AnnotatorRecipe, asked: Sequence[Query]) -> Iterator[tuple[int, SkillAnnotation]]:
        worker = Annotates(pickle.loads(pickle.dumps(recipe)))
        starts = list(range(0, len(asked), self.size))
        for number, start in reversed(list(enumerate(starts))):
            if self.breaks_after is not None and self.blocks == self.breaks_after:
                raise ConnectionError("the head is gone\nand so on")
            self.blocks += 1
            if number in self.loses:
                continue
            places = list(range(start, min(start + self.size, len(asked))))
            done = worker({"place": places, "query": [pickle.dumps(asked[place]) for place in places]})
            yield from zip(done["place"], map(pickle.loads, done["annotation"]), strict=True)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_annotations_are_those_of_here(name: str) -> None:
    spread = Blocks()
    annotator = RayAnnotator(fitted(name), PARTS[name], from_queries=10, spread=spread)
    asked = queries(11)
    assert asyncio.run(annotator.annotate(asked, ask=nobody)) == asyncio.run(fitted(name).annotate(asked, ask=nobody))
    assert spread.blocks == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.sets(st.integers(0, 9)), st.none() | st.integers(0, 5))
def test_what_does_not_come_is_annotated_here(count: int, size: int, loses: set[int], breaks: int | None) -> None:
    spread = Blocks(size, loses=sorted(loses), breaks_after=breaks)
    annotator = RayAnnotator(fitted(), PARTS["embedding"], from_queries=1, spread=spread)
    asked = queries(count)
    assert asyncio.run(annotator.annotate(asked, ask=nobody)) == asyncio.run(fitted().annotate(asked, ask=nobody))


async def test_a_cluster_that_breaks_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    annotator = RayAnnotator(fitted(), PARTS["embedding"], from_queries=1, spread=Blocks(breaks_after=1))
    with caplog.at_level(logging.WARNING):
        await annotator.annotate(queries(8), ask=nobody)
    [record] = caplog.records
    assert "annotated 4 of 8 queries" in record.message
    assert record.message.endswith("ConnectionError: the head is gone")


async def test_small_windows_stay_here() -> None:
    spread = Blocks()
    annotator = RayAnnotator(fitted(), PARTS["embedding"], from_queries=10, spread=spread)
    assert len(await annotator.annotate(queries(9), ask=nobody)) == 9
    assert await annotator.annotate([], ask=nobody) == []
    assert spread.blocks == 0


async def test_a_caller_who_goes_away_ends_it_at_the_next_annotation() -> None:
    taken: list[int] = []
    annotation = SkillAnnotation(query_id="q")

    def endless(recipe: AnnotatorRecipe, asked: Sequence[Query]) -> Iterator[tuple[int, SkillAnnotation]]:
        while True:
            taken.append(len(taken))
            yield 0, annotation

    annotator = RayAnnotator(fitted(), PARTS["embedding"], from_queries=1, spread=endless)
    task = asyncio.create_task(annotator.annotate(queries(3), ask=nobody))
    await until(lambda: len(taken) > 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = -1

    def is_still() -> bool:
        nonlocal seen
        seen, before = len(taken), seen
        return seen == before

    await until(is_still)


async def test_fitting_makes_another_that_spreads_too() -> None:
    spread = Blocks()
    unfitted = ANNOTATORS.create("embedding", PARTS["embedding"].options)
    annotator = RayAnnotator(unfitted, PARTS["embedding"], from_queries=1, spread=spread).fit(QUESTIONS)
    assert await annotator.annotate(queries(5), ask=nobody) == await fitted().annotate(queries(5), ask=nobody)
    assert spread.blocks == 2


def test_halves_of_a_cpu_on_two_nodes_are_no_place_for_an_annotator() -> None:
    assert whole_cpus([{"CPU": 0.5}, {"CPU": 0.5}, {"GPU": 1.0}]) == 0
    assert whole_cpus([{"CPU": 1.5}, {"CPU": 2.5}]) == 3


def test_only_annotators_that_ask_nobody_travel() -> None:
    assert annotates_alone(Embedding(embedder="hashing"))
    assert annotates_alone(ANNOTATORS.create("recorded", {"embedder": "hashing"}))
    assert not annotates_alone(ANNOTATORS.create("llm", {"expert": "e", "embedder": "hashing"}))
    assert not annotates_alone(ANNOTATORS.create("blank"))
