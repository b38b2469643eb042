"""What every registered annotator must do; a new file in the room is covered by itself."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError, NotFittedError
from router_service.types import user_query
from skills.base import ANNOTATORS, Annotator
from skills.embedders.hashing import Hashing
from skills.embedders.minilm_onnx import MinilmOnnx
from tests.skills.fakes import QUERIES, QUESTIONS, ScriptedAsk, name_known_skills

METADATA = [
    {"skills": '["algebra", "equation", "algebra"]'},
    {"skills": "not json"},
    {},
    {"skills": '["genetics"]'},
    {"skills": '{"a": 1}'},
]
TAGGED = tuple(replace(query, metadata=data) for query, data in zip(QUERIES, METADATA, strict=True))
SHARED = {"embedder": Hashing(256), "expert": "scribe"}


def make(name: str, **options) -> Annotator:
    """The annotator with the options that need a value here; all others stay as they are."""
    accepted = inspect.signature(ANNOTATORS.factory(name)).parameters
    given = {**SHARED, **options}
    return ANNOTATORS.create(name, {key: value for key, value in given.items() if key in accepted})


def learns(name: str) -> bool:
    return hasattr(ANNOTATORS.factory(name), "save")


def run(annotator, queries):
    return asyncio.run(annotator.annotate(queries, ask=ScriptedAsk(name_known_skills)))


every = pytest.mark.parametrize("name", ANNOTATORS.names())
learned = pytest.mark.parametrize("name", [name for name in ANNOTATORS.names() if learns(name)])


@every
def test_one_annotation_per_query_in_order(name):
    found = run(make(name).fit(QUESTIONS), TAGGED)
    assert [a.query_id for a in found] == [q.id for q in TAGGED]
    assert {a.annotator for a in found} == {name}


@every
def test_values_lie_where_they_must(name):
    known = {skill for question in QUESTIONS for skill in question.skills}
    for annotation in run(make(name).fit(QUESTIONS), TAGGED):
        assert set(annotation.skills) <= known
        assert all(weight > 0 and math.isfinite(weight) for weight in annotation.skills.values())
        assert annotation.novelty is None or 0.0 <= annotation.novelty <= 1.0
        assert annotation.category in {None, "math", "biology", "history"}
        if annotation.embedding is not None:
            assert math.hypot(*annotation.embedding) == pytest.approx(1.0, abs=1e-5)


@every
def test_no_queries_no_annotations(name):
    assert run(make(name).fit(QUESTIONS), []) == []


@every
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.sampled_from(range(len(TAGGED))), max_size=7))
def test_a_batch_equals_singles(name, order):
    annotator = make(name).fit(QUESTIONS)
    queries = [replace(TAGGED[i], id=f"{place}") for place, i in enumerate(order)]
    batch = run(annotator, queries)
    singles = [run(annotator, [query])[0] for query in queries]
    assert batch == singles
    assert [a.embedding for a in batch] == [a.embedding for a in singles]


@every
@pytest.mark.slow
def test_a_batch_equals_singles_with_the_default_embedder_too(name):
    """Many of these texts have one length, which is when an engine may put them into one matrix; nothing is cached."""
    texts = [
        f"Is {a} {b} than {c}?" for a in ("gold", "ice", "tea") for b in ("older", "colder") for c in ("tin", "air")
    ]
    recorded = {"skills": json.dumps(texts[:3])}
    queries = [replace(user_query(str(i), text, seed=i), metadata=recorded) for i, text in enumerate(texts)]
    annotator = make(name, embedder=MinilmOnnx()).fit(QUESTIONS)
    batch = run(annotator, queries)
    singles = [run(annotator, [query])[0] for query in queries]
    assert batch == singles
    assert [a.embedding for a in batch] == [a.embedding for a in singles]


@every
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=st.permutations(QUESTIONS))
def test_order_of_the_fitted_questions_does_not_matter(name, questions):
    assert run(make(name).fit(questions), TAGGED) == run(make(name).fit(QUESTIONS), TAGGED)


@every
def test_fit_gives_itself_and_can_be_repeated(name):
    annotator = make(name)
    assert annotator.fit(QUESTIONS[:2]) is annotator
    assert run(annotator.fit(QUESTIONS), TAGGED) == run(make(name).fit(QUESTIONS), TAGGED)


@learned
def test_before_fit_it_says_so(name, tmp_path):
    with pytest.raises(NotFittedError, match="fit"):
        run(make(name), TAGGED)
    with pytest.raises(NotFittedError, match="fit"):
        make(name).save(tmp_path / "state")


@learned
def test_saved_and_loaded_it_annotates_the_same(name, tmp_path):
    fitted = make(name).fit(QUESTIONS)
    fitted.save(tmp_path / "state")
    loaded = make(name).load(tmp_path / "state")
    assert run(loaded, TAGGED) == run(fitted, TAGGED)


@learned
def test_a_foreign_state_is_refused(name, tmp_path):
    (tmp_path / "state").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="fit"):
        make(name).load(tmp_path / "state")


@learned
def test_nothing_to_fit_on_is_an_error_that_says_so(name):
    with pytest.raises(ConfigError, match="question"):
        make(name).fit([])


def test_naming_every_annotator_and_embedder_loads_nothing_heavy():
    heavy = {"torch", "transformers", "sentence_transformers", "faiss", "onnx", "onnxruntime"}
    code = (
        "import sys; from skills.base import ANNOTATORS, EMBEDDERS; ANNOTATORS.names(); EMBEDDERS.names(); "
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
