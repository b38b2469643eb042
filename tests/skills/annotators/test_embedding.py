"""The embedding annotator: weights worked out by hand, novelty, floor, one call a batch."""

from __future__ import annotations

import asyncio
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.errors import ConfigError
from router_service.types import Question, user_query
from skills.annotators.embedding import Embedding
from skills.embedders.hashing import Hashing
from tests.skills.fakes import QUERIES, QUESTIONS, CountingEmbedder, ScriptedAsk, TableEmbedder

DATA = Path(os.environ.get("ENLIST_DATA", Path(__file__).parents[3] / "../shared/data"))
EMBEDDER = Hashing(256)
TABLE = TableEmbedder({"east": [1, 0], "north": [0, 1], "north-east": [4, 3], "west": [-1, 0], "asked": [1, 0]})
COMPASS = [
    Question(id="1", text="east", category="x", skills=("a", "b")),
    Question(id="2", text="north-east", category="y", skills=("b", "c")),
    Question(id="3", text="north", category="y", skills=("d",)),
]


def annotate(annotator: Embedding, *texts: str):
    return annotate_queries(annotator, [user_query(str(i), text) for i, text in enumerate(texts)])


def annotate_queries(annotator: Embedding, queries):
    return asyncio.run(annotator.annotate(queries, ask=ScriptedAsk(lambda query: None)))


def test_weights_by_hand():
    """Similarities 1, 0.8, 0 at temperature 0.2: weights e^0 : e^-1 : e^-5."""
    (annotation,) = annotate(Embedding(embedder=TABLE, temperature=0.2).fit(COMPASS), "asked")
    raw = [1.0, math.exp(-1), math.exp(-5)]
    east, north_east, north = (value / sum(raw) for value in raw)
    expected = {"b": east + north_east, "a": east, "c": north_east, "d": north}
    assert annotation.skills == pytest.approx(expected, abs=1e-6)
    assert list(annotation.skills) == list("bacd")
    assert annotation.category == "x"
    assert annotation.nearest == (("1", 1.0), ("2", 0.8), ("3", 0.0))
    assert annotation.novelty == 0.0


def test_many_alike_outvote_the_nearest_where_the_temperature_is_high():
    (annotation,) = annotate(Embedding(embedder=TABLE, temperature=10.0).fit(COMPASS), "asked")
    assert annotation.category == "y"


def test_neighbours_and_max_skills_bound_what_is_read():
    (one,) = annotate(Embedding(embedder=TABLE, neighbours=1).fit(COMPASS), "asked")
    assert one.skills == {"a": 1.0, "b": 1.0} and len(one.nearest) == 1
    (short,) = annotate(Embedding(embedder=TABLE, max_skills=2).fit(COMPASS), "asked")
    assert list(short.skills) == ["b", "a"]


def test_below_the_floor_a_question_says_nothing():
    (some,) = annotate(Embedding(embedder=TABLE, floor=0.8).fit(COMPASS), "asked")
    assert [key for key, _ in some.nearest] == ["1", "2"] and "d" not in some.skills
    assert sum(some.skills[skill] for skill in "ac") == pytest.approx(1.0)
    (none,) = annotate(Embedding(embedder=TABLE, floor=0.5).fit(COMPASS), "west")
    assert (none.skills, none.category, none.nearest, none.novelty) == ({}, None, (), 1.0)


def test_a_question_seen_before_is_not_novel_and_a_strange_one_is():
    fitted = Embedding(embedder=EMBEDDER).fit(QUESTIONS)
    seen, strange = annotate(fitted, QUESTIONS[3].text, "zyx wvu")
    assert seen.novelty == 0.0 and seen.nearest[0] == ("q4", 1.0)
    assert strange.novelty > 0.7


def test_one_embedding_call_for_a_whole_batch():
    embedder = CountingEmbedder()
    fitted = Embedding(embedder=embedder).fit(QUESTIONS)
    embedder.batches.clear()
    asyncio.run(fitted.annotate(QUERIES, ask=ScriptedAsk(lambda query: None)))
    assert embedder.batches == [[query.text for query in QUERIES]]


def test_queries_embedded_already_are_annotated_alike():
    fitted = Embedding(embedder=EMBEDDER).fit(QUESTIONS)
    vectors = fitted.embed([query.text for query in QUERIES])
    assert fitted.annotations(QUERIES, vectors) == annotate_queries(fitted, QUERIES)


def test_questions_without_skills_still_give_neighbours_and_categories():
    bare = [replace(question, skills=()) for question in QUESTIONS]
    (annotation,) = annotate(Embedding(embedder=EMBEDDER).fit(bare), QUESTIONS[0].text)
    assert annotation.skills == {} and annotation.category == "math" and annotation.nearest[0][0] == "q1"


def test_a_skill_named_twice_by_one_question_counts_once():
    question = Question(id="1", text="east", skills=("a", "a"))
    (annotation,) = annotate(Embedding(embedder=TABLE).fit([question]), "asked")
    assert annotation.skills == {"a": 1.0}


@pytest.mark.parametrize(
    "options", [{"neighbours": 0}, {"temperature": 0.0}, {"floor": -1.1}, {"floor": 1.1}, {"max_skills": 0}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match="needed"):
        Embedding(embedder=EMBEDDER, **options)


@pytest.mark.slow
def test_real_questions_get_the_right_category_mostly():
    """Fourteen subjects, the largest about a tenth: guessing from recorded fit questions must do far better."""
    path = DATA / "mmlu_pro" / "questions.parquet"
    if not path.is_file():
        pytest.skip(f"NO RECORDED OUTCOMES at {path}: set ENLIST_DATA to their folder to run this test")
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["question_id", "question", "category", "skills", "split"]).to_pylist()
    fit = [
        Question(id=r["question_id"], text=r["question"], category=r["category"], skills=tuple(r["skills"] or ()))
        for r in rows
        if r["split"] == "fit"
    ]
    test = [r for r in rows if r["split"] == "test"][:200]
    found = annotate(Embedding().fit(fit), *(r["question"] for r in test))
    right = sum(a.category == r["category"] for a, r in zip(found, test, strict=True))
    assert right / len(test) > 0.6
