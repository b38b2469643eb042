"""FrugalFoE: the worked example, both rules, and what asking one at a time must and must not go by."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.frugal_rules import best_stop, frugal_objective, released_stop
from router_service.recruit.recorded_answers import Ballots, RecordedAnswers, answer_numbers
from router_service.types import AnswerKind
from tests.experts_registry.golden import golden
from tests.router_service.recruit.pools import recruiter, request, vector
from tests.router_service.recruit.waves import FAILS, play, recorded_pool, said

law = settings(max_examples=50, deadline=None)


def test_the_worked_example():
    """Panels that hold the first expert, at unit costs: where is `error + penalty * cost` least?"""
    fixture = golden("foe_frugal")
    panels = list(fixture["err"])
    errors, costs = [fixture["err"][p] for p in panels], [float(len(p)) for p in panels]
    for case, (stop, objective) in fixture["stop"].items():
        penalty = float(case.removeprefix("lambda="))
        best = best_stop(errors, costs, penalty)
        assert (panels[best], frugal_objective(errors[best], costs[best], penalty)) == (stop, pytest.approx(objective))


def test_the_released_codes_rule():
    fixture = golden("foe_frugal")["released_code_rule"]
    path = fixture["path"]
    stop = released_stop([points / 100 for _, points in path], delta=fixture["delta_points"] / 100)
    assert path[stop][0] == fixture["stop_at"]


def test_the_released_rule_takes_two_and_a_gain_of_just_two_points():
    assert released_stop([0.99]) == 0
    assert released_stop([0.3, 0.28, 0.27, 0.1]) == 1
    assert released_stop([0.3, 0.2, 0.1]) == 2


@law
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 2))
def test_no_penalty_means_no_early_stop_unless_the_error_rises(errors, penalty):
    costs = [float(number) for number in range(len(errors))]
    stop = best_stop(errors, costs, 0.0)
    assert all(error > errors[stop] for error in errors[stop + 1 :]) and errors[stop] == min(errors)
    assert best_stop(errors, costs, penalty) <= stop
    assert best_stop(errors, costs, 1e9) == 0


# --- what was said ----------------------------------------------------------------------------------------------------


@law
@given(st.data())
def test_a_ballot_is_the_vote_it_stands_for(data):
    """Checked against a vote counted by hand, for the panel and for every panel one larger."""
    size = data.draw(st.integers(2, 5))
    rows = data.draw(st.lists(st.tuples(*[st.sampled_from(["A", "B", "C", None])] * size), min_size=1, max_size=6))
    pool = recorded_pool({f"e{i}": [row[i] for row in rows] for i in range(size)}, ["A"] * len(rows))
    answers = RecordedAnswers.of(pool, sorted(pool.questions))
    members = data.draw(st.lists(st.sampled_from(range(size)), unique=True, max_size=size - 1))
    ballots = Ballots(answers, np.arange(len(rows)), np.ones(len(rows)))
    for place, member in enumerate(members):
        ballots.add(member, 1 + 0.5 ** (place + 2))
    assert ballots.error() == pytest.approx(1 - sum(plurality(row, members) for row in rows) / len(rows))
    errors = ballots.errors_with(1 + 0.5 ** (len(members) + 2))
    for other in set(range(size)) - set(members):
        assert errors[other] == pytest.approx(1 - sum(plurality(row, [*members, other]) for row in rows) / len(rows))


def plurality(row, members) -> float:
    votes = [row[member] for member in members if row[member] is not None]
    return float(bool(votes) and max(votes, key=votes.count) == "A")


def test_who_was_not_asked_is_not_counted():
    pool = recorded_pool({"a": ["A", "B"], "b": ["A", "A"]}, ["A", "A"])
    fewer = [o for o in pool.outcomes if (o.expert_id, o.question_id) != ("b", "fit001")]
    answers = RecordedAnswers.of(type(pool)(experts=pool.experts, outcomes=tuple(fewer)), ["fit000", "fit001"])
    ballots = Ballots(answers, np.arange(2), np.array([1.0, 3.0]))
    assert ballots.errors_with(1.0).tolist() == [0.75, 0.0]
    ballots.add(1, 1.0)
    assert ballots.error() == 0.0
    assert Ballots(answers, np.array([1]), np.ones(1)).errors_with(1.0).tolist() == [1.0, 1.0]
    assert answers.pattern_distances([1], [0]).tolist() == [0.0, 1.0]


def test_graded_answers_that_were_not_recorded_still_vote():
    """Right ones are alike; wrong ones are different where nothing was recorded, and silent where others were."""
    pool = recorded_pool({"a": [None, "A"], "b": [None, None], "c": [None, None]}, ["A", "A"])
    right = {("a", "fit000"): 1.0, ("b", "fit000"): 0.0, ("c", "fit000"): 0.0, ("b", "fit001"): 1.0}
    outcomes = tuple(
        type(o)(**{**fields_of(o), "correct": right.get((o.expert_id, o.question_id), o.correct)})
        for o in pool.outcomes
    )
    answers = RecordedAnswers.of(
        type(pool)(experts=pool.experts, outcomes=outcomes, questions=pool.questions), sorted(pool.questions)
    )
    assert answers.votes.tolist() == [[0, 1, 2], [0, 0, -1]]
    assert answers.heard.tolist() == [[-1, -1, -1], [0, -1, -1]]
    assert answers.grades[0].tolist() == [1.0, 0.0, 0.0]


def fields_of(outcome):
    return {name: getattr(outcome, name) for name in outcome.__slots__}


def test_patterns_are_told_by_agreement_and_silence():
    pool = recorded_pool({"a": ["A", "A", "C"], "b": ["A", "B", None]}, ["A", "A", "A"])
    answers = RecordedAnswers.of(pool, sorted(pool.questions))
    assert answers.pattern_distances([0, 1], [0, 0]).tolist() == [0.0, 1 / 3, 2 / 3]
    assert answers.pattern_distances([0, 1], [0, -1]).tolist() == [2 / 3, 1 / 3, 0.0]
    assert answers.pattern_distances([], []).tolist() == [0.0, 0.0, 0.0]


def test_answers_are_numbered_by_what_they_mean():
    completions = [said("q", "e", text) for text in ("1,000", "1000.0", None, "7", FAILS)]
    assert answer_numbers(completions, AnswerKind.NUMBER) == [0, 0, -1, 1, -1]


# --- the recruiter ----------------------------------------------------------------------------------------------------

RIGHT = ["A"] * 60
FIRST = ["B"] * 10 + ["A"] * 50
SECOND = ["A"] * 20 + ["C"] * 12 + ["A"] * 28
THIRD = ["A"] * 40 + ["D"] * 14 + ["A"] * 6
"""Right on 50, 48 and 46 of 60, never two wrong at once: two that agree are right, and the third settles the rest."""


def a_pool(**options):
    return recorded_pool({"first": FIRST, "second": SECOND, "third": THIRD}, RIGHT, **options)


def path(fitted, world, **controls) -> list[str]:
    return [
        r.expert_id for wave in play(fitted, request(**controls), world, fitted.roster_.experts) for r in wave.recruits
    ]


def test_it_goes_on_where_the_first_ones_disagree_and_stops_where_they_agree():
    fitted = recruiter("frugal_sequential", a_pool(), neighbours=20)
    assert path(fitted, {"first": "A", "second": "B", "third": "B"}) == ["first", "second", "third"]
    assert path(fitted, dict.fromkeys(("first", "second", "third"), "A")) == ["first", "second"]
    free = recruiter("frugal_sequential", a_pool(), penalty=0.0)
    assert path(free, dict.fromkeys(("first", "second", "third"), "A")) == ["first", "second", "third"]


def test_a_high_penalty_asks_one_expert_and_a_dollar_penalty_the_cheapest():
    world = dict.fromkeys(("first", "second", "third"), "A")
    assert len(path(recruiter("frugal_sequential", a_pool(), penalty=1e9), world)) == 1
    costly = a_pool(costs={"first": 0.02, "second": 0.01, "third": 0.5})
    assert path(recruiter("frugal_sequential", costly, penalty=1e9, cost="usd"), world) == ["second"]


def test_the_expected_error_is_what_the_near_questions_show():
    """By hand: all 60 questions are near; the experts are right on 50, 48 and 46."""
    (decision,) = recruiter("frugal_sequential", a_pool(), neighbours=60).recruit([request()])
    assert decision.scores == pytest.approx({"first": 50 / 60, "second": 48 / 60, "third": 46 / 60})
    assert [r.expert_id for r in decision.recruits] == ["first"]


def test_each_call_is_one_revealed_expert_and_a_failed_one_is_replaced():
    fitted = recruiter("frugal_sequential", a_pool())
    waves = play(fitted, request(), {"first": FAILS, "second": "A", "third": "A"}, fitted.roster_.experts)
    assert [len(wave.recruits) for wave in waves] == [1] * len(waves)
    assert [r.samples for wave in waves for r in wave.recruits] == [1] * len(waves)
    assert [wave.recruits[0].expert_id for wave in waves] == ["first", "second"]


def test_the_released_rule_asks_two_at_least_and_ignores_costs():
    """Three experts that never differ: the second cannot help, and is asked all the same."""
    alike = recorded_pool(dict.fromkeys(("first", "second", "third"), FIRST), RIGHT)
    world = dict.fromkeys(("first", "second", "third"), "A")
    assert path(recruiter("frugal_sequential", alike, rule="released", penalty=1e9), world) == ["first", "second"]
    assert path(recruiter("frugal_sequential", alike), world) == ["first"]


def test_with_nothing_heard_the_released_rule_still_scores_whom_it_asks():
    pool = a_pool()
    fitted = recruiter("frugal_sequential", pool, rule="released")
    waves = play(fitted, request(), dict.fromkeys([e.id for e in pool.experts], FAILS), pool.experts)
    assert len(waves) > 1 and all(0 <= r.score <= 1 for wave in waves for r in wave.recruits)


def test_the_released_rules_path_follows_the_errors_of_the_nearest():
    """Each step's neighbours are those of the outputs known then; checked against a plain recount."""
    fitted = recruiter("frugal_sequential", a_pool(), rule="released", neighbours=10)
    world = {"first": "A", "second": "B", "third": "C"}
    asked = path(fitted, world)
    names = ["first", "second", "third"]
    rows = list(zip(FIRST, SECOND, THIRD, strict=True))
    errors = []
    for size in range(1, len(asked)):
        known = [names.index(n) for n in asked[:size]]
        here = pattern([world[n] for n in asked[:size]])
        distances = [mismatch(pattern([row[i] for i in known]), here) for row in rows]
        last = sorted(distances)[9]
        nearer, tied = distances_below(distances, last), distances.count(last)
        shares = [1.0 if d < last else (10 - nearer) / tied if d == last else 0.0 for d in distances]
        wider = [*known, names.index(asked[size])]
        errors.append(1 - sum(s * plurality(row, wider) for s, row in zip(shares, rows, strict=True)) / 10)
    assert len(errors) == 2 and all(before - after >= 0.02 - 1e-12 for before, after in pairwise(errors))


def distances_below(distances, last):
    return sum(distance < last for distance in distances)


def pattern(given):
    return [answer is None for answer in given] + [x == y for x, y in combinations(given, 2)]


def mismatch(a, b):
    return sum(x != y for x, y in zip(a, b, strict=True)) / len(a)


def test_embeddings_count_where_asked_to():
    """Two kinds of questions, told apart by nothing but where they lie: each has an expert that is right on it."""
    kinds = ["one", "two"] * 20
    pool = recorded_pool(
        {kind: ["A" if there == kind else "B" for there in kinds] for kind in ("one", "two")}, ["A"] * 40
    )
    placed = {
        question_id: type(annotation)(query_id=question_id, embedding=vector(kind))
        for (question_id, annotation), kind in zip(sorted(pool.annotations.items()), kinds, strict=True)
    }
    pool = type(pool)(
        experts=pool.experts,
        profiles=pool.profiles,
        outcomes=pool.outcomes,
        annotations=placed,
        questions=pool.questions,
    )
    fitted = recruiter("frugal_sequential", pool, embedding_weight=1.0, neighbours=5)
    assert fitted.needs_embeddings and fitted.needs_annotation
    for kind in ("one", "two"):
        (decision,) = fitted.recruit([request(embedding=vector(kind))])
        assert [r.expert_id for r in decision.recruits] == [kind]
    plain = recruiter("frugal_sequential", pool, neighbours=5)
    assert not plain.needs_embeddings and not plain.needs_annotation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": -0.1}, "penalty is -0.1"),
        ({"penalty": math.inf}, "penalty.* is inf"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"embedding_weight": -1.0}, "embedding_weight is -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        recruiter("frugal_sequential", a_pool(), **options)


def test_costs_in_dollars_must_be_known():
    pool = a_pool()
    unpriced = tuple(type(e)(id=e.id, model=e.model, backend=e.backend) for e in pool.experts)
    pool = type(pool)(experts=unpriced, profiles=pool.profiles, outcomes=pool.outcomes, questions=pool.questions)
    with pytest.raises(ConfigError, match=r"cost is 'usd'.*first, second, third"):
        recruiter("frugal_sequential", pool, cost="usd")
