"""Profiles: the golden ±1 sums, the laws of fitting, and the file they are kept in."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts_registry.profiles import (
    ProfileSet,
    fit_profiles,
    load_profiles,
    profiles_text,
)
from router_service.errors import ConfigError
from router_service.types import Outcome, Profile, Question, Tally
from tests.experts_registry.golden import golden


def question(question_id, *skills, category=None):
    return Question(id=question_id, text=f"text of {question_id}", skills=skills, category=category)


def outcome(question_id, expert_id, correct, sample=0):
    return Outcome(
        dataset="d", split="fit", question_id=question_id, expert_id=expert_id, sample=sample, correct=correct
    )


QUESTIONS = [question("q1", "s", "t", category="x"), question("q2", "s", category="y"), question("q3")]

rows = st.lists(
    st.builds(
        outcome,
        st.sampled_from(["q1", "q2", "q3"]),
        st.sampled_from(["a", "b"]),
        st.floats(0, 1),
        st.integers(0, 3),
    ),
    max_size=30,
)


def test_golden_profiles():
    case = golden("symbolic_moe")
    questions = [question(row["qid"], *row["skills"]) for row in case["validation"]]
    outcomes = [outcome(r["qid"], e, float(c)) for r in case["validation"] for e, c in r["correct"].items()]
    profiles = fit_profiles(outcomes, questions)
    assert {e: {s: t.net for s, t in p.skills.items()} for e, p in profiles.items()} == case["profiles"]
    assert {e: sum(t.net for t in p.skills.values()) for e, p in profiles.items()} == case["totals"]


def test_a_skill_listed_twice_counts_twice_and_every_sample_is_a_trial():
    profile = fit_profiles(
        [outcome("q", "a", 1.0), outcome("q", "a", 0.0, 1)], [question("q", "s", "s", "t", category="c")]
    )["a"]
    assert profile.overall == Tally(wins=1.0, trials=2) == profile.categories["c"] == profile.skills["t"]
    assert profile.skills["s"] == Tally(wins=2.0, trials=4)


def test_what_was_not_asked_is_neither_won_nor_lost():
    profile = fit_profiles([outcome("q1", "a", 1.0)], QUESTIONS)["a"]
    assert profile.support == 1 and profile.categories == {"x": Tally(wins=1.0, trials=1)}


def test_an_outcome_without_its_question_is_refused():
    with pytest.raises(ConfigError, match=r"1 graded question.*3 given.*'q9'"):
        fit_profiles([outcome("q9", "a", 1.0)], QUESTIONS)


@given(rows, st.randoms(use_true_random=False))
def test_row_order_is_irrelevant(outcomes, shuffler: random.Random):
    shuffled = outcomes[:]
    shuffler.shuffle(shuffled)
    assert fit_profiles(shuffled, QUESTIONS) == fit_profiles(outcomes, QUESTIONS)


@given(rows)
def test_adding_an_expert_changes_no_other_profile(outcomes):
    alone = [o for o in outcomes if o.expert_id == "a"]
    assert fit_profiles(alone, QUESTIONS).get("a") == fit_profiles(outcomes, QUESTIONS).get("a")


@given(rows)
def test_a_right_answer_never_lowers_a_total(outcomes):
    def total(data):
        return sum(t.net for t in fit_profiles(data, QUESTIONS)["a"].skills.values())

    base = [*outcomes, outcome("q3", "a", 0.0)]
    assert total([*base, outcome("q1", "a", 1.0)]) >= total(base)


@given(st.integers(1, 20), st.integers(0, 20))
def test_more_support_narrows(trials, wins):
    wins = min(wins, trials)
    few, many = Tally(wins=wins, trials=trials), Tally(wins=wins * 10, trials=trials * 10)
    assert abs(many.rate() - wins / trials) <= abs(few.rate() - wins / trials) + 1e-12


def test_right_everywhere_has_no_negative_entry():
    profile = fit_profiles([outcome(q.id, "a", 1.0) for q in QUESTIONS], QUESTIONS)["a"]
    assert all(tally.net >= 0 for tally in profile.skills.values())


@settings(max_examples=20)
@given(rows)
def test_files_keep_profiles_exactly(tmp_path_factory, outcomes):
    path = tmp_path_factory.mktemp("p") / "profiles.json"
    saved = ProfileSet(profiles=fit_profiles(outcomes, QUESTIONS), pool_name="p", created_at="now")
    path.write_text(profiles_text(saved))
    assert load_profiles(path) == saved


def test_half_a_surrogate_pair_in_a_name_comes_back(tmp_path):
    skills = {"half \ud800": Tally(wins=1, trials=1), "Größe": Tally(wins=0, trials=1)}
    saved = {"a": Profile(expert_id="a", overall=Tally(wins=1, trials=2), skills=skills)}
    (tmp_path / "profiles.json").write_text(profiles_text(ProfileSet(profiles=saved)))
    assert load_profiles(tmp_path / "profiles.json").profiles == saved


def test_other_versions_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "profiles.json"
    with pytest.raises(ConfigError, match="no profile file"):
        load_profiles(path)
    path.write_text(profiles_text(ProfileSet(profiles={"a": Profile(expert_id="a", overall=Tally(wins=1, trials=2))})))
    assert load_profiles(path).created_at
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(ConfigError, match=r"format 99.*reads 1"):
        load_profiles(path)
    path.write_text(json.dumps({**content, "profiles": {"a": {"overal": [1, 2]}}}))
    with pytest.raises(ConfigError, match="Did you mean 'overall'"):
        load_profiles(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"profiles\.json"):
        load_profiles(path)
