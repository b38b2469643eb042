"""The recorded annotator: skills from metadata, snapped; what is malformed gives no skills and fails nobody."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from router_service.errors import ConfigError
from router_service.types import user_query
from skills.annotators.recorded import Recorded
from tests.skills.fakes import QUESTIONS, CountingEmbedder, ScriptedAsk


def skills_of(annotator: Recorded, *values: str | None) -> list[dict[str, float]]:
    queries = [
        replace(user_query(str(i), "?"), metadata={} if value is None else {"skills": value})
        for i, value in enumerate(values)
    ]
    found = asyncio.run(annotator.annotate(queries, ask=ScriptedAsk(lambda query: None)))
    return [dict(annotation.skills) for annotation in found]


def fitted(**options) -> Recorded:
    return Recorded(embedder=CountingEmbedder(), **options).fit(QUESTIONS)


def test_weights_are_counts_after_snapping():
    names = json.dumps(["algebra", "algebras", "genetics", " genetics ", "genetics"])
    assert skills_of(fitted(), names) == [{"algebra": 2.0, "genetics": 3.0}]


def test_known_names_need_no_embedding():
    annotator = fitted()
    assert skills_of(annotator, '["algebra", "history"]') == [{"algebra": 1.0, "history": 1.0}]
    assert annotator.embedder.batches == []


@pytest.mark.parametrize(
    "value", ["", "not json", "null", "3", '"algebra"', '{"algebra": 1}', "[1, 2]", '["algebra", null]', "[" * 99_999]
)
def test_malformed_metadata_gives_no_skills_and_leaves_the_others_alone(value):
    assert skills_of(fitted(), value, '["algebra"]', None) == [{}, {"algebra": 1.0}, {}]


def test_blank_names_and_names_below_the_floor_are_no_skills():
    assert skills_of(fitted(floor=0.4), '["", " ", "zzyzx", "algebras"]') == [{"algebra": 1.0}]


def test_an_impossible_floor_is_refused():
    with pytest.raises(ConfigError, match="between -1 and 1"):
        Recorded(embedder=CountingEmbedder(), floor=2.0)
