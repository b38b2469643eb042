"""The experience store: what it takes, what it refuses, and that nothing is remembered for its own question."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError, NotFittedError, UnknownNameError
from router_service.recruit.base import FitData
from router_service.recruit.experience import Experience
from router_service.recruit.experience_store import ExperienceStore, Solved, text_key
from tests.router_service.recruit.pools import DIMENSION, recruiter, request, vector
from tests.router_service.recruit.waves import recorded_pool


def at(degrees: float) -> tuple[float, ...]:
    """A unit vector in the plane of the first two coordinates."""
    return (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0, 0.0)


def a_pool() -> FitData:
    """Eight questions around the circle: `east` solved the first four, `west` the others, nobody the last one."""
    answers = {"east": ["A"] * 4 + ["B"] * 4, "west": ["B"] * 4 + ["A"] * 3 + ["B"]}
    pool = recorded_pool(answers, ["A"] * 8, categories=["near"] * 4 + ["far"] * 4)
    places = [at(0), at(20), at(40), at(60), at(180), at(200), at(220), at(240)]
    annotations = {
        question_id: replace(annotation, embedding=place, skills={"compass": 1.0})
        for (question_id, annotation), place in zip(sorted(pool.annotations.items()), places, strict=True)
    }
    return replace(pool, annotations=annotations)


def solved(text: str = "A new one?", place: float = 120, **fields) -> Solved:
    return Solved(**{"text": text, "winners": ("west",), "is_verified": True, "embedding": at(place), **fields})


def chosen(fitted: Experience, place: float, text: str = "Which way?") -> list[str]:
    (decision,) = fitted.recruit([request(embedding=at(place), text=text)])
    return [r.expert_id for r in decision.recruits]


def test_the_store_holds_what_somebody_got_wholly_right():
    store = recruiter("experience", a_pool()).store_
    assert [text for text, _, _ in store.items] == [f"Question {n}?" for n in range(7)]
    assert {answer for _, answer, _ in store.items} == {"A"} and store.items[0][2] == ("compass",)
    assert store.has_won.tolist() == [[True, False]] * 4 + [[False, True]] * 3


def test_half_right_is_not_verified():
    pool = a_pool()
    half = replace(pool, outcomes=tuple(replace(o, correct=o.correct / 2) for o in pool.outcomes))
    assert len(recruiter("experience", half).store_) == 0
    (decision,) = recruiter("experience", half).recruit([request(embedding=at(0))])
    assert decision.is_fallback and "no stored experience" in decision.fallback_reason


def test_who_solved_the_nearest_is_asked_and_the_score_is_how_often():
    fitted = recruiter("experience", a_pool(), neighbours=2, near=1.0, prior_weight=0.5)
    assert (chosen(fitted, 10), chosen(fitted, 210)) == (["east"], ["west"])
    (decision,) = fitted.recruit([request(embedding=at(30))])
    near = 2 * math.cos(math.radians(10))
    east, west = fitted.base_
    assert decision.scores["east"] == pytest.approx((near + 0.5 * east) / (near + 0.5))
    assert decision.scores["west"] == pytest.approx(0.5 * west / (near + 0.5))
    stricter = recruiter("experience", a_pool(), neighbours=2, near=0.95, prior_weight=0.5)
    (other,) = stricter.recruit([request(embedding=at(30))])  # 10 degrees apart is too near now: both are left out
    further = 2 * math.cos(math.radians(30))
    assert other.scores["east"] == pytest.approx((further + 0.5 * east) / (further + 0.5))


def test_a_planted_duplicate_is_not_remembered_for_itself():
    """The query was a fit question that only `west` solved, amid those of `east`: its own record must not count."""
    pool = a_pool()
    planted = "Is this the planted one?"
    for text in (planted, "  is THIS the\nplanted one? "):
        fitted = recruiter("experience", pool, neighbours=1, near=1.0, prior_weight=0.1)
        assert fitted.remember(solved(planted, place=30)) is None
        assert chosen(fitted, 29, "Another one?") == ["west"]
        assert chosen(fitted, 29, text) == ["east"]


def test_a_near_duplicate_is_left_out_too():
    fitted = recruiter("experience", a_pool(), neighbours=1, near=0.999, prior_weight=0.1)
    assert fitted.remember(solved(place=30)) is None
    assert chosen(fitted, 27) == ["west"]
    assert chosen(fitted, 28.6) == ["east"]


@pytest.mark.parametrize(
    ("experience", "reason"),
    [
        (solved(is_verified=False), "not verified"),
        (solved(winners=()), "no expert solved it"),
        (solved("question   0?"), "the same question"),
        (solved(place=181), "all but the same: similarity 1.000"),
    ],
)
def test_what_is_refused(experience, reason):
    fitted = recruiter("experience", a_pool())
    before = fitted.store_
    assert reason in fitted.remember(experience)
    assert fitted.store_.items == before.items and len(fitted.store_.vectors) == len(before.vectors)


def test_what_is_remembered_counts_once_and_the_second_time_is_refused():
    fitted = recruiter("experience", a_pool(), neighbours=1)
    fresh = solved(place=120, winners=("east",), answer="C", skills=("new",))
    assert fitted.remember(fresh) is None
    assert fitted.store_.items[-1] == ("A new one?", "C", ("new",))
    assert chosen(fitted, 140) == ["east"]
    assert "same question" in fitted.remember(fresh)
    assert "all but the same" in fitted.remember(replace(fresh, text="A new one, put otherwise?"))


def test_recruiting_writes_nothing():
    fitted = recruiter("experience", a_pool())
    before = fitted.store_
    fitted.recruit([request(embedding=at(degrees)) for degrees in range(0, 360, 30)])
    assert fitted.store_ is before


def test_what_was_remembered_is_saved(tmp_path):
    pool = a_pool()
    fitted = recruiter("experience", pool, neighbours=1)
    fitted.remember(solved(place=120, winners=("east",)))
    fitted.save(tmp_path / "x.npz")
    loaded = Experience(neighbours=1).load(tmp_path / "x.npz", experts=pool.experts)
    assert loaded.store_.items == fitted.store_.items and loaded.store_.keys == fitted.store_.keys
    items = [request(embedding=at(degrees)) for degrees in range(0, 360, 15)]
    assert loaded.recruit(items) == fitted.recruit(items)
    assert "same question" in loaded.remember(solved(place=120))


def test_strangers_and_other_embeddings_are_errors():
    fitted = recruiter("experience", a_pool())
    with pytest.raises(UnknownNameError, match="Did you mean 'west'"):
        fitted.remember(solved(winners=("weast",)))
    for embedding in ((), (1.0, 0.0), (1.0, 1.0, 0.0, 0.0), (math.nan,) * 4):
        with pytest.raises(ConfigError, match="unit vector of 4 numbers"):
            fitted.remember(solved(embedding=embedding))
    with pytest.raises(NotFittedError, match="experience"):
        Experience().remember(solved())


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"prior_weight": 0.0}, {"near": 0.0}, {"near": 1.5}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        recruiter("experience", a_pool(), **options)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([f"text {i}" for i in range(8)]), max_size=12), st.integers(0, 12))
def test_adding_at_once_is_adding_one_by_one(texts, cut):
    found = [solved(text, embedding=vector(text)) for text in texts]
    empty = ExperienceStore.empty(("east", "west"), dimension=DIMENSION, near=0.95)
    together, refusals = empty.adding(found)
    halfway, first = empty.adding(found[:cut])
    parts, second = halfway.adding(found[cut:])
    assert (parts.items, parts.keys, first + second) == (together.items, together.keys, refusals)
    assert (parts.vectors == together.vectors).all() and (parts.has_won == together.has_won).all()
    assert len(together) == sum(refusal is None for refusal in refusals) == len(together.vectors)


def test_texts_are_the_same_but_for_case_and_space():
    assert text_key("  A b\nC ") == text_key("a B c") != text_key("a b d")
    assert text_key(" \n") == ""
