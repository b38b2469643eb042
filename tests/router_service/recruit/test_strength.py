"""Strengths: the arrays say what the formula says, and evidence moves P(correct) the right way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.recruit.strength import (
    CATEGORY_WEIGHT,
    OVERALL_WEIGHT,
    SKILL_WEIGHT,
    SOFTMIN_NET,
    StrengthTable,
    shrunk_rate,
)
from router_service.types import Profile, SkillAnnotation, Tally
from tests.router_service.recruit.pools import SKILLS, expert, pools, profile, requests


def annotation(category=None, **skills):
    return SkillAnnotation(query_id="q", skills=skills, category=category)


def p_correct(known, asked):
    """The chance of one expert with one annotation, formula by formula: what the arrays are checked against."""
    rate = shrunk_rate(known.overall.wins, known.overall.trials, prior=0.5, weight=OVERALL_WEIGHT)
    category = known.categories.get(asked.category)
    if category is not None:
        rate = shrunk_rate(category.wins, category.trials, prior=rate, weight=CATEGORY_WEIGHT)
    heaviest = max(asked.skills.values(), default=0.0)
    if heaviest <= 0:
        return rate
    parts = [(known.skills[s], w / heaviest) for s, w in asked.skills.items() if s in known.skills and w > 0]
    wins = sum(tally.wins * weight for tally, weight in parts)
    trials = sum(tally.trials * weight for tally, weight in parts)
    return shrunk_rate(wins, trials, prior=rate, weight=SKILL_WEIGHT)


def chance(known, asked):
    """P(correct) of an expert with that profile."""
    _, chances = StrengthTable([expert("a")], {"a": known}).strengths([asked])
    return float(chances[0, 0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_arrays_and_formula_agree(data):
    pool = data.draw(pools())
    annotations = [item.annotation for item in data.draw(st.lists(requests(pool), min_size=1, max_size=4))]
    scores, chances = StrengthTable(pool.experts, pool.profiles).strengths(annotations)
    for row, asked in enumerate(annotations):
        for column, member in enumerate(pool.experts):
            known = pool.profiles.get(member.id)
            if known is None:
                assert scores[row, column] == 0 and math.isnan(chances[row, column])
                continue
            net = sum(w * known.skills[s].net for s, w in asked.skills.items() if s in known.skills)
            assert scores[row, column] == pytest.approx(net, abs=1e-8)
            assert chances[row, column] == pytest.approx(p_correct(known, asked), abs=1e-12)


def test_the_formula_by_hand():
    known = Profile(
        expert_id="a",
        overall=Tally(wins=30, trials=58),
        categories={"maths": Tally(wins=10, trials=20)},
        skills={"algebra": Tally(wins=4, trials=4), "chess": Tally(wins=0, trials=2)},
    )
    overall = 31 / 60
    maths = (10 + CATEGORY_WEIGHT * overall) / (20 + CATEGORY_WEIGHT)
    assert chance(known, annotation()) == pytest.approx(overall)
    assert chance(known, annotation("arts", unseen=1.0)) == pytest.approx(overall)
    assert chance(known, annotation("maths")) == pytest.approx(maths)
    expected = (4 + SKILL_WEIGHT * maths) / (4 + 0.5 * 2 + SKILL_WEIGHT)
    assert chance(known, annotation("maths", algebra=1.0, chess=0.5)) == pytest.approx(expected)


def test_the_scale_of_weights_does_not_matter_to_p_correct():
    known = profile("a", {"algebra": 3, "chess": -2})
    assert chance(known, annotation(algebra=1.0, chess=0.5)) == pytest.approx(
        chance(known, annotation(algebra=10.0, chess=5.0))
    )


@given(st.integers(1, 30), st.integers(1, 30))
def test_winning_raises_and_losing_lowers(wins, losses):
    base = chance(profile("a", {}), annotation(algebra=1.0))
    better = profile("a", {"algebra": wins})
    worse = profile("a", {"algebra": -losses})
    assert chance(worse, annotation(algebra=1.0)) < base < chance(better, annotation(algebra=1.0))


def test_more_evidence_moves_further():
    chances = [
        chance(
            Profile(expert_id="a", overall=Tally(wins=5, trials=10), skills={"s": Tally(wins=n, trials=n)}),
            annotation(s=1.0),
        )
        for n in (1, 10, 100, 1000)
    ]
    assert chances == sorted(chances) and chances[0] < 0.53 and chances[-1] > 0.98


def test_strengths_of_a_query_do_not_depend_on_its_neighbours():
    """Bit for bit, with weights that no float holds exactly."""
    rng = np.random.default_rng(0)
    profiles = {f"e{i}": profile(f"e{i}", {s: float(rng.integers(-9, 9)) for s in SKILLS}) for i in range(7)}
    table = StrengthTable([expert(i) for i in profiles], profiles)
    annotations = [annotation(**{s: float(w) for s, w in zip(SKILLS, rng.random(4), strict=True)}) for _ in range(300)]
    together = table.strengths(annotations)
    for row, asked in enumerate(annotations):
        alone = table.strengths([asked])
        assert alone[0][0].tolist() == together[0][row].tolist()
        assert alone[1][0].tolist() == together[1][row].tolist()


# --- several skills, one score ---------------------------------------------------------------------------------------


def combined(combine, asked, **nets):
    """The local score of one expert with these wins minus losses."""
    scores, _ = StrengthTable([expert("a")], {"a": profile("a", nets)}).strengths([asked], combine=combine)
    return float(scores[0, 0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_combinations_agree_with_their_formulas(data):
    pool = data.draw(pools())
    annotations = [item.annotation for item in data.draw(st.lists(requests(pool), min_size=1, max_size=4))]
    table = StrengthTable(pool.experts, pool.profiles)
    known = {skill for p in pool.profiles.values() for skill in p.skills}
    rows = {name: table.strengths(annotations, combine=name)[0] for name in ("sum", "mean", "min", "softmin")}
    assert rows["sum"].tolist() == table.strengths(annotations)[0].tolist()
    for row, asked in enumerate(annotations):
        weights = {s: w for s, w in asked.skills.items() if w > 0 and s in known}
        total = sum(weights.values())
        for column, member in enumerate(pool.experts):
            own = pool.profiles.get(member.id)
            nets = {s: own.skills[s].net if own and s in own.skills else 0.0 for s in weights}
            mean = sum(w * nets[s] for s, w in weights.items()) / (total or 1.0)
            least = min(nets.values(), default=0.0)
            mass = sum(w * math.exp(-nets[s] / SOFTMIN_NET) for s, w in weights.items())
            soft = -SOFTMIN_NET * math.log(mass / total) if weights else 0.0
            found = [float(rows[name][row, column]) for name in ("mean", "min", "softmin")]
            assert found == pytest.approx([mean, least, soft], abs=1e-8)
            assert least - 1e-8 <= found[2] <= mean + 1e-8


def test_weights_bend_a_mean_and_not_a_minimum():
    heavy, even = annotation(algebra=3.0, chess=1.0), annotation(algebra=1.0, chess=1.0)
    nets = {"algebra": 4, "chess": -4}
    assert [combined(c, even, **nets) for c in ("mean", "min")] == [0.0, -4.0]
    assert [combined(c, heavy, **nets) for c in ("mean", "min")] == [2.0, -4.0]
    assert combined("softmin", even, **nets) < combined("softmin", heavy, **nets) < -2.0


def test_one_skill_is_itself_however_combined():
    for combine in ("sum", "mean", "min", "softmin"):
        assert combined(combine, annotation(algebra=1.0), algebra=-3) == -3.0
        assert combined(combine, annotation(unseen=1.0), algebra=-3) == 0.0


def test_the_way_of_combining_leaves_p_correct_alone():
    pool = {"a": profile("a", {"algebra": 3, "chess": -2})}
    table, asked = StrengthTable([expert("a")], pool), [annotation(algebra=1.0, chess=0.5)]
    assert len({table.strengths(asked, combine=name)[1].item() for name in ("sum", "mean", "min", "softmin")}) == 1
