"""What holds of every recruiter that goes by embeddings, on a pool large enough for several clusters and leaves."""

from __future__ import annotations

from array import array
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.embedded import BLOCK, EmbeddingRecruiter, base_rates, graded_lesson, similarities
from router_service.recruit.roster import Roster
from router_service.recruit.scoring import NO_EMBEDDING
from router_service.types import Outcome, stable_seed
from tests.router_service.recruit.graded import graded, random_units, unit
from tests.router_service.recruit.pools import expert, recruiter, request

NAMES = [name for name in RECRUITERS.names() if issubclass(RECRUITERS.factory(name), EmbeddingRecruiter)]
KINDS = ("arts", "law", "maths")
NUMBER = 300


def stretched(number, *, seed):
    return [unit(3 * first, *rest) for first, *rest in random_units(number, 12, seed=seed)]


@cache
def pool() -> FitData:
    """Five experts: two specialists by the first axis, one by category, one even, one that was asked a few."""
    rng = np.random.default_rng(3)
    vectors = stretched(NUMBER, seed=1)
    kinds = [KINDS[number % 3] for number in range(NUMBER)]
    is_first = np.array([vector[0] > 0 for vector in vectors])
    rates = {
        "plus": np.where(is_first, 0.9, 0.2),
        "minus": np.where(is_first, 0.2, 0.9),
        "maths": np.where(np.array(kinds) == "maths", 0.95, 0.3),
        "even": np.full(NUMBER, 0.55),
    }
    grades = {name: (rng.random(NUMBER) < rate).astype(float).tolist() for name, rate in rates.items()}
    grades["new"] = [float(rng.random() < 0.7) if number % 9 == 0 else None for number in range(NUMBER)]
    texts = [f"What of case {number}?" for number in range(NUMBER)]
    return replace(graded(vectors, grades, categories=kinds, texts=texts), embed=embed)


def embed(texts):
    return [random_units(1, 12, seed=stable_seed(text))[0] for text in texts]


def asked(number=40, **controls):
    """Requests with embeddings of 32 bits, as annotators give them; every tenth has none."""
    return [
        request(seed=n, category=KINDS[n % 3], embedding=None if n % 10 == 9 else array("f", vector), **controls)
        for n, vector in enumerate(stretched(number, seed=2))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_does_not_matter_across_blocks(name):
    fitted = recruiter(name, pool())
    items = asked(BLOCK + 20, k=2)
    together = fitted.recruit(items)
    assert together == [fitted.recruit([item])[0] for item in items]
    assert fitted.recruit(items[7:]) == together[7:]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_decides_alike(name, tmp_path):
    fitted = recruiter(name, pool(), k=2)
    fitted.save(tmp_path / "fitted.npz")
    loaded = RECRUITERS.create(name).load(tmp_path / "fitted.npz", experts=pool().experts)
    loaded.k = 2
    assert loaded.recruit(asked()) == fitted.recruit(asked())


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_what_is_learned_does_not_matter(name):
    data = pool()
    turned = replace(
        data,
        outcomes=data.outcomes[::-1],
        annotations=dict(reversed(data.annotations.items())),
        questions=dict(reversed(data.questions.items())),
    )
    assert recruiter(name, turned).recruit(asked(k=3)) == recruiter(name, data).recruit(asked(k=3))


@pytest.mark.parametrize("name", NAMES)
def test_outcomes_of_strangers_do_not_matter(name):
    data = pool()
    ghost = Outcome(dataset="d", split="fit", question_id="q0000", expert_id="ghost", correct=1.0)
    more = replace(data, outcomes=(*data.outcomes, ghost))
    assert recruiter(name, more).recruit(asked()) == recruiter(name, data).recruit(asked())


@pytest.mark.parametrize("name", NAMES)
def test_only_queries_without_an_embedding_fall_back(name):
    for item, decision in zip(asked(k=3), recruiter(name, pool()).recruit(asked(k=3)), strict=True):
        assert decision.fallback_reason == (None if item.annotation.embedding is not None else NO_EMBEDDING)
        assert len(decision.recruits) == 3 and all(0 < recruit.p_correct < 1 for recruit in decision.recruits)


@pytest.mark.parametrize("name", ["cluster_rank", "knn", "tree", "pilot_mean", "pilot_max"])
def test_specialists_get_their_questions(name):
    decisions = recruiter(name, pool()).recruit(asked(200))
    right = [
        decision.recruits[0].expert_id == ("plus" if item.annotation.embedding[0] > 0 else "minus")
        for item, decision in zip(asked(200), decisions, strict=True)
        if item.annotation.embedding is not None and abs(item.annotation.embedding[0]) > 0.5 and item.seed % 3 != 2
    ]
    assert len(right) > 50 and np.mean(right) > 0.7


@pytest.mark.parametrize("name", ["cluster_rank", "cluster_balance", "knn", "tree"])
def test_their_own_p_correct_is_honest(name):
    """Of the queries an expert is recruited for, as many are answered right as P(correct) says, near enough."""
    chances, truths = [], []
    for item, decision in zip(asked(400), recruiter(name, pool()).recruit(asked(400)), strict=True):
        if item.annotation.embedding is not None:
            is_first, (chosen,) = item.annotation.embedding[0] > 0, decision.recruits
            truth = {"plus": 0.9 if is_first else 0.2, "minus": 0.2 if is_first else 0.9, "even": 0.55, "new": 0.7}
            truths.append(truth.get(chosen.expert_id, 0.95 if item.seed % 3 == 2 else 0.3))
            chances.append(chosen.p_correct)
    assert -0.05 < np.mean(truths) - np.mean(chances) < 0.2  # what is shrunk is careful where experts are specialists
    assert np.mean(truths) > 0.7


# --- the parts -------------------------------------------------------------------------------------------------------


def test_similarities_do_not_depend_on_the_batch():
    known, vectors = (np.array(random_units(n, 384, seed=n), dtype=np.float32) for n in (70, 9))
    together = similarities(known, vectors)
    np.testing.assert_allclose(together, vectors @ known.T, atol=1e-6)
    for row, vector in zip(together, vectors, strict=True):
        assert similarities(known, vector[None])[0].tolist() == row.tolist()


def test_a_lesson_has_every_embedded_question_and_every_grade():
    data = graded([unit(1, 0), unit(0, 1)], {"a": [1, None], "b": [0.5, None]})
    lesson = graded_lesson(data, name="knn")
    assert lesson.ids == ("q0000", "q0001") and lesson.vectors.dtype == np.float32
    np.testing.assert_array_equal(lesson.grades, [[1, 0.5], [np.nan, np.nan]])
    bare = replace(data, annotations={i: replace(a, embedding=None) for i, a in data.annotations.items()})
    with pytest.raises(ConfigError, match=r"'knn' learns from graded fit questions with embeddings"):
        graded_lesson(bare, name="knn")


def test_base_rates_are_of_the_profile_then_of_the_grades():
    data = graded([unit(1, 0)] * 2, {"a": [1, 1], "b": [0, 1]})
    pool_of_three = replace(data, experts=(*data.experts, expert("c")), profiles={"a": data.profiles["a"]})
    grades = np.array([[np.nan, 0, np.nan], [np.nan, 1, np.nan]])
    np.testing.assert_allclose(base_rates(Roster(pool_of_three), grades), [0.75, 0.5, np.nan])
