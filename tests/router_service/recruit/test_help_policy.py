"""Self-regulation's dynamic program: the worked example, and the laws of usage and success in the penalty."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.recruit.help_policy import HelpState, Prospect, solve, within_budget
from router_service.recruit.help_states import ANY, Stage, agreement, likelihood, state_key, state_model
from tests.experts_registry.golden import golden

law = settings(max_examples=100, deadline=None)


def worked_example():
    fixture = golden("intervention")
    p0, states = fixture["p0"], {}
    for name in ("good", "bad"):
        alone, helped = fixture[name]["none"], fixture[name]["help"]
        states[name] = HelpState(alone=Prospect(success=alone), helped=Prospect(success=helped))
    states["start"] = HelpState(
        alone=Prospect(goes_on={"good": p0["none"], "bad": 1 - p0["none"]}),
        helped=Prospect(goes_on={"good": p0["help"], "bad": 1 - p0["help"]}),
    )
    return fixture, states, {"start": 1.0}


def test_the_worked_examples_curve():
    fixture, states, start = worked_example()
    for penalty, (usage, success) in fixture["by_r"].items():
        policy = solve(states, start, float(penalty))
        assert (policy.usage, policy.success) == (pytest.approx(usage), pytest.approx(success))


def test_the_worked_examples_switches():
    fixture, states, start = worked_example()
    for name, penalty in fixture["switch_r"].items():
        assert name in solve(states, start, penalty - 1e-5).helps
        assert name not in solve(states, start, penalty + 1e-5).helps


@pytest.mark.parametrize(
    ("budget", "penalty", "usage", "over"),
    [(2.0, 0.0, 2.0, None), (1.0, 2 / 15, 0.5, 1.1), (1.1, 0.05, 1.1, 2.0), (0.4, 0.5, 0.0, 0.5), (0.0, 0.5, 0.0, 0.5)],
)
def test_the_worked_examples_budgets(budget, penalty, usage, over):
    """A budget of 1 cannot be met exactly: 0.5 or 1.1."""
    _, states, start = worked_example()
    within, more = within_budget(states, start, budget)
    assert (within.penalty, within.usage) == (pytest.approx(penalty), pytest.approx(usage))
    assert (more.usage if more is not None else None) == (over if over is None else pytest.approx(over))


def test_a_gain_of_exactly_the_penalty_is_none():
    states = {"s": HelpState(alone=Prospect(success=0.5), helped=Prospect(success=0.75))}
    assert solve(states, {"s": 1.0}, 0.25).usage == 0.0
    assert solve(states, {"s": 1.0}, 0.2).helps == {"s"}


chances = st.integers(0, 20).map(lambda n: n / 20)


@st.composite
def stories(draw):
    """Two layers of states: the first goes on in the second, which ends."""
    ends = {f"end{i}": HelpState(alone=end(draw), helped=end(draw)) for i in range(draw(st.integers(1, 4)))}
    firsts = {
        f"first{i}": HelpState(alone=on(draw, ends), helped=on(draw, ends)) for i in range(draw(st.integers(1, 4)))
    }
    return {**ends, **firsts}, shares(draw, list(firsts))


def end(draw):
    return Prospect(success=draw(chances))


def on(draw, states):
    return Prospect(goes_on=shares(draw, list(states)))


def shares(draw, names):
    weights = [draw(st.integers(0, 5)) for _ in names]
    total = sum(weights) or 1
    return (
        {name: weight / total for name, weight in zip(names, weights, strict=True)} if sum(weights) else {names[0]: 1.0}
    )


@law
@given(stories(), st.lists(st.floats(0, 1.2), min_size=2, max_size=6))
def test_usage_and_success_never_grow_with_the_penalty(story, penalties):
    policies = [solve(*story, penalty) for penalty in sorted(penalties)]
    for cheaper, dearer in pairwise(policies):
        assert dearer.usage <= cheaper.usage + 1e-9
        assert dearer.success <= cheaper.success + 1e-9


@law
@given(stories(), st.floats(0, 2.5))
def test_the_budget_is_kept_by_the_smallest_penalty_that_keeps_it(story, budget):
    within, over = within_budget(*story, budget)
    assert within.usage <= budget + 1e-9
    again = solve(*story, within.penalty + 1e-9)
    assert again.usage == pytest.approx(within.usage) and again.success == pytest.approx(within.success)
    if over is None:
        assert within.penalty == 0.0
    else:
        assert over.usage > budget and over.success >= within.success - 1e-9
        if within.penalty > 1e-6:
            assert solve(*story, within.penalty - 1e-7).usage > budget


@law
@given(stories(), st.floats(0, 1))
def test_a_policy_is_the_best_there_is(story, penalty):
    """Against every choice of states to ask in, tried out one by one."""
    states, start = story
    best = max(value_of(states, start, penalty, set(chosen)) for chosen in subsets(list(states)))
    policy = solve(states, start, penalty)
    assert policy.success - penalty * policy.usage == pytest.approx(best)
    assert value_of(states, start, penalty, policy.helps) == pytest.approx(best)


def subsets(names):
    return [[n for i, n in enumerate(names) if mask >> i & 1] for mask in range(1 << len(names))]


def value_of(states, start, penalty, helps):
    def worth(prospect):
        return prospect.success + sum(share * of(name) for name, share in prospect.goes_on.items())

    def of(name):
        state = states[name]
        return worth(state.helped) - penalty if name in helps else worth(state.alone)

    return sum(share * of(name) for name, share in start.items())


# --- what the states are --------------------------------------------------------------------------------------------


def test_looks_are_told_by_agreement_and_likelihood():
    assert [agreement(n) for n in ([0, 0, 1], [-1, -1], [0], [])] == ["2/3", "0/2", "1/1", "0/0"]
    nan = float("nan")
    assert [likelihood(values, [-2.0, -1.0]) for values in ([-3.0], [-1.5, nan], [0.0, -1.0], [nan], [])] == list(
        "012??"
    )
    assert likelihood([-3.0], []) == "?"


def test_estimates_lie_between_what_was_seen_and_what_holds_elsewhere():
    """By hand, with 20 questions' worth of the wider estimate: stage, then look, then category."""
    before = Stage(looks=["x"] * 40, rights=[1.0] * 10 + [0.0] * 30, prior=0.5)
    after = Stage(looks=["y"] * 40, rights=[1.0] * 20 + [0.0] * 20, prior=0.7)
    states, start = state_model([before, after], ["maths"] * 10 + ["arts"] * 30)
    overall = (10 + 20 * 0.5) / 60
    same_look = (10 + 20 * overall) / 60
    assert states[state_key(0, "x", None)].alone.success == pytest.approx(same_look)
    assert states[state_key(0, "x", "maths")].alone.success == pytest.approx((10 + 20 * same_look) / 30)
    assert states[state_key(0, "x", "arts")].alone.success == pytest.approx((0 + 20 * same_look) / 50)
    assert states[state_key(0, "x", "maths")].helped.goes_on == {state_key(1, "y", "maths"): 1.0}
    assert states[state_key(1, "y", "maths")].helped == states[state_key(1, "y", "maths")].alone
    assert start == {state_key(0, "x", "maths"): 0.25, state_key(0, "x", "arts"): 0.75}


def test_what_comes_next_is_counted_and_shrunk():
    before = Stage(looks=["x"] * 20 + ["z"] * 20, rights=[0.0] * 40, prior=0.5)
    after = Stage(looks=["u"] * 20 + ["v"] * 20, rights=[0.0] * 40, prior=0.5)
    states, _ = state_model([before, after], [None] * 40)
    goes_on = states[state_key(0, "x", None)].helped.goes_on
    assert goes_on == {state_key(1, "u", None): pytest.approx(0.75), state_key(1, "v", None): pytest.approx(0.25)}
    assert states[state_key(0, ANY, None)].helped.goes_on[state_key(1, "u", None)] == pytest.approx(0.5)


def test_without_questions_the_priors_hold():
    empty = [Stage(looks=[], rights=[], prior=0.4), Stage(looks=[], rights=[], prior=0.8)]
    states, start = state_model(empty, [])
    assert start == {state_key(0, ANY, None): 1.0}
    policy = solve(states, start, 0.0)
    assert (policy.success, policy.usage) == (pytest.approx(0.8), 1.0)
