"""Small pools, profiles and requests for the recruiters' tests, as values and as hypothesis strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import strategies as st

from router_service.recruit.base import RECRUITERS, FitData, Recruiter, RecruitRequest
from router_service.types import (
    Budget,
    Expert,
    Outcome,
    Prices,
    Profile,
    Question,
    RouteControls,
    SkillAnnotation,
    Tally,
    stable_seed,
    user_query,
)

SKILLS = ("algebra", "biology", "chess", "drama")
CATEGORIES = ("arts", "maths")
DIMENSION = 4
"""Numbers in an embedding here."""
COSTLY = frozenset({"auto"})
"""Recruiters whose fit runs those of several others, which the default tests hold to the same laws."""
LONGEST = 100
"""Tokens of the longest completion of every expert here."""


def each(names: Sequence[str]) -> list:
    """The names as parameters of a test; of costly ones, of a slow test."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in COSTLY else name for name in names]


def expert(expert_id: str, *, usd_per_mtok: float | None = 1.0, **fields) -> Expert:
    prices = None if usd_per_mtok is None else Prices(input_usd_per_mtok=0.0, output_usd_per_mtok=usd_per_mtok)
    return Expert(id=expert_id, model="m", backend="echo", prices=prices, **{"max_output_tokens": LONGEST, **fields})


def profile(expert_id: str, nets: Mapping[str, float], *, overall: Tally | None = None, **categories: Tally) -> Profile:
    """A profile with these wins minus losses per skill, each from as many trials (or one drawn trial pair for 0)."""
    skills = {skill: tally_of(net) for skill, net in nets.items()}
    return Profile(
        expert_id=expert_id, skills=skills, categories=categories, overall=overall or Tally(wins=5.0, trials=10)
    )


def tally_of(net: float) -> Tally:
    trials = max(2, abs(int(net)))
    return Tally(wins=(trials + net) / 2, trials=trials)


def request(
    skills: Mapping[str, float] | Sequence[str] = (),
    *,
    seed: int = 0,
    text: str = "What is it?",
    category: str | None = None,
    budget: Budget | None = None,
    embedding: Sequence[float] | None = None,
    **controls,
) -> RecruitRequest:
    weights = dict(skills) if isinstance(skills, Mapping) else dict.fromkeys(skills, 1.0)
    query = replace(
        user_query(f"q{seed}", text), budget=budget or Budget(), controls=RouteControls(**controls), seed=seed
    )
    annotation = SkillAnnotation(query_id=query.id, skills=weights, category=category, embedding=embedding)
    return RecruitRequest(query=query, annotation=annotation, seed=seed)


def fit_data(experts: Sequence[Expert], profiles: Mapping[str, Profile]) -> FitData:
    """What an engine hands over, with a graded outcome per trial of the overall tally for recruiters that want it."""
    outcomes = []
    annotations = {}
    questions = {}
    for item in experts:
        known = profiles.get(item.id)
        for number in range(known.overall.trials if known else 0):
            question_id = f"fit{number}"
            correct = float(number < known.overall.wins)
            outcomes.append(
                Outcome(dataset="d", split="fit", question_id=question_id, expert_id=item.id, correct=correct)
            )
            skill = SKILLS[number % len(SKILLS)]
            category = CATEGORIES[number % len(CATEGORIES)]
            annotations[question_id] = SkillAnnotation(
                query_id=question_id, skills={skill: 1.0}, category=category, embedding=vector(question_id)
            )
            questions[question_id] = Question(
                id=question_id, text=f"What of {skill}, case {number}?", category=category, answer="A", skills=(skill,)
            )
    return FitData(
        experts=tuple(experts),
        profiles=dict(profiles),
        outcomes=tuple(outcomes),
        annotations=annotations,
        questions=questions,
        embed=lambda texts: [vector(text) for text in texts],
    )


def vector(text: str) -> tuple[float, ...]:
    """A unit vector that depends on the text alone."""
    raw = [(stable_seed(text, place) % 2001 - 1000.5) / 1000 for place in range(DIMENSION)]
    length = math.sqrt(math.fsum(value * value for value in raw))
    return tuple(value / length for value in raw)


def recruiter(name: str, data: FitData, **options) -> Recruiter:
    return RECRUITERS.create(name, options).fit(data)


@st.composite
def pools(draw) -> FitData:
    """Two to six experts, some without a price, a profile or a switch."""
    number = draw(st.integers(2, 6))
    experts = [
        expert(
            f"e{i}",
            usd_per_mtok=draw(st.sampled_from([1.0, 2.0, 10.0, 1000.0, 0.0, None])),
            is_enabled=draw(st.integers(0, 5)) > 0,
            context_window=draw(st.sampled_from([None, 40, 8192])),
        )
        for i in range(number)
    ]
    nets = st.dictionaries(st.sampled_from(SKILLS), st.integers(-5, 5), max_size=4)
    profiles = {}
    for i in range(number):
        if i == 0 or draw(st.integers(0, 4)) > 0:
            trials = draw(st.integers(1, 20))
            overall = Tally(wins=float(draw(st.integers(0, trials))), trials=trials)
            profiles[f"e{i}"] = profile(f"e{i}", draw(nets), overall=overall, maths=tally_of(draw(st.integers(-2, 2))))
    return fit_data(experts, profiles)


@st.composite
def requests(draw, data: FitData) -> RecruitRequest:
    """A request with skills (known and unknown), controls and a budget that may rule everything out."""
    ids = [item.id for item in data.experts]
    skills = st.dictionaries(st.sampled_from([*SKILLS, "unseen"]), st.sampled_from([1.0, 2.0, 0.5, 0.1]), max_size=4)
    budget = Budget(
        max_completions=draw(st.none() | st.integers(0, 5)),
        max_cost_usd=draw(st.none() | st.sampled_from([0.0, 1e-4, 2.5e-4, 1e-3, 1e-2, 1.0])),
        max_output_tokens=draw(st.none() | st.sampled_from([0, 50, 100, 250, 1000])),
    )
    return request(
        draw(skills),
        seed=draw(st.integers(0, 2**63 - 1)),
        text="word " * draw(st.sampled_from([1, 200])),
        category=draw(st.sampled_from([None, *CATEGORIES])),
        budget=budget,
        embedding=draw(st.none() | st.sampled_from(["one", "two", "three", "four"]).map(vector)),
        k=draw(st.none() | st.integers(1, 8)),
        expert=draw(st.sampled_from(ids)),
        experts_allowed=tuple(draw(st.lists(st.sampled_from(ids), max_size=3))),
        experts_denied=tuple(draw(st.lists(st.sampled_from(ids), max_size=2))),
    )
