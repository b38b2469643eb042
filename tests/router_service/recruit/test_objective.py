"""The objective's arithmetic on Tryage's worked example, and the flags a query may hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.recruit.objective import (
    flag_weights,
    flags_of,
    least_within,
    pareto,
    scaled,
    switch_weight,
    weighed,
)
from tests.experts_registry.golden import golden


@pytest.fixture
def example():
    tryage = golden("tryage")
    ids = list(tryage["loss"])
    return tryage, ids, np.array([tryage["loss"][i] for i in ids]), np.array([tryage["size"][i] for i in ids])


def chosen(ids, losses, sizes, weight):
    return ids[int(weighed(losses, {"size": sizes}, {"size": weight}).argmin())]


def test_the_weights_at_which_the_choice_switches(example):
    tryage, ids, losses, sizes = example
    for pair, expected in tryage["switch_lambda"].items():
        larger, smaller = pair.split("->")
        at = switch_weight(
            tryage["loss"][larger],
            tryage["size"][larger],
            other_loss=tryage["loss"][smaller],
            other_amount=tryage["size"][smaller],
        )
        assert at == pytest.approx(expected)
        assert chosen(ids, losses, sizes, at - 1e-6) == larger and chosen(ids, losses, sizes, at + 1e-6) == smaller


def test_no_weight_ever_chooses_the_odd_one_and_a_limit_does(example):
    tryage, ids, losses, sizes = example
    assert {chosen(ids, losses, sizes, weight) for weight in np.linspace(0, 5, 2001)} == {"small", "mid", "big"}
    assert set(ids) - {"small", "mid", "big"} == set(tryage["never_chosen"])
    within = {ids[least_within(losses.tolist(), sizes.tolist(), limit)] for limit in (0.1, 0.4, 0.7, 1.0)}
    assert within == set(tryage["pareto"])
    assert least_within(losses.tolist(), sizes.tolist(), 0.05) is None


def test_the_pareto_front(example):
    tryage, ids, losses, sizes = example
    assert [ids[place] for place in pareto(losses.tolist(), sizes.tolist())] == tryage["pareto"]
    assert pareto([0.5, 0.5, 0.4], [1.0, 1.0, 2.0]) == [0, 2]


numbers = st.integers(0, 20).map(lambda n: n / 20)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8), numbers, numbers)
def test_a_larger_weight_never_chooses_more_of_the_amount(experts, first, second):
    losses, amounts = (np.array(column) for column in zip(*experts, strict=True))
    low, high = sorted([3 * first, 3 * second])
    places = [
        int(np.lexsort((amounts, np.round(weighed(losses, {"x": amounts}, {"x": w}), 9)))[0]) for w in (low, high)
    ]
    if low < high:
        assert amounts[places[1]] <= amounts[places[0]] + 1e-12
    assert weighed(losses, {}, {"x": 0.0}).argmin() == losses.argmin()


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_limits_reach_the_whole_front_and_nothing_else(experts):
    losses, amounts = (list(column) for column in zip(*experts, strict=True))
    reached = {least_within(losses, amounts, limit) for limit in amounts}
    assert reached == set(pareto(losses, amounts))


def test_amounts_are_shares_of_the_largest_known():
    assert scaled(np.array([1.0, 4.0, 2.0])).tolist() == [0.25, 1.0, 0.5]
    assert scaled(np.array([0.0, 0.0])).tolist() == [0.0, 0.0]
    assert np.isnan(scaled(np.array([np.nan, 2.0]))).tolist() == [True, False]
    assert scaled(np.array([[1.0, 2.0], [5.0, 0.0]])).tolist() == [[0.5, 1.0], [1.0, 0.0]]


def test_equal_amounts_have_no_weight_that_decides():
    with pytest.raises(ValueError, match="no weight decides"):
        switch_weight(0.1, 1.0, other_loss=0.2, other_amount=1.0)


@pytest.mark.parametrize(
    ("text", "metadata", "expected"),
    [
        ("plain", {}, []),
        ("Solve it. [Flag: smaller model]", {}, ["smaller model"]),
        ("[flags:  Smaller   Model , recent model] x[0] [Flag:]", {}, ["smaller model", "recent model"]),
        ("a[Flag: x]b [Flag: x]", {"flags": "y, X"}, ["x", "y"]),
        ("", {"flags": "cheaper model", "skills": "[]"}, ["cheaper model"]),
        ("[Flag: open", {}, []),
    ],
)
def test_flags_are_read_from_text_and_metadata(text, metadata, expected):
    assert flags_of(text, metadata) == expected


def test_flags_add_up_and_strange_ones_are_named():
    flags = {"small": {"parameters_b": 0.5}, "green": {"parameters_b": 0.25, "energy_j": 1.0}}
    assert flag_weights(["small", "green"], flags) == ({"parameters_b": 0.75, "energy_j": 1.0}, [])
    assert flag_weights(["tiny"], flags) == ({}, ["tiny"])
