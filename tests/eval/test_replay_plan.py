"""A plan says what is wrong with it before anything runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.datasets import load_dataset
from eval.replay_plan import FREE, ReplayPlan, Strategy, parse_k
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import MAX_K
from tests.eval.recorded_dataset import write_dataset


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ks": (0,)}, "k is 0; .* 1 to 64"),
        ({"ks": (MAX_K + 1,)}, "k is 65"),
        ({"ks": ()}, "at least one aggregator and one k"),
        ({"aggregators": ()}, "at least one aggregator"),
        ({"n_seeds": 0}, "0 seeds"),
        ({"fit_on": ("fit", "test")}, "fitted on fit \\+ test and judged on 'test'"),
        ({"fit_on": ()}, "fitted on nothing"),
    ],
)
def test_what_cannot_be_replayed_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        ReplayPlan(**changes)


@pytest.mark.parametrize(("text", "k"), [("1", 1), ("64", 64), ("free", FREE), (" Free ", FREE)])
def test_a_size_is_a_number_or_free(text, k):
    assert parse_k(text) == k


@pytest.mark.parametrize("text", ["", "three", "1.5", "0", "65", "-1"])
def test_another_size_is_refused_with_the_bounds(text):
    with pytest.raises(ConfigError, match="1 to 64"):
        parse_k(text)


def test_strategies_are_every_combination_in_the_order_asked_for():
    plan = ReplayPlan(recruiters=("all", "fixed"), aggregators=("majority", "weighted"), ks=(1, FREE))
    listed = [(s.recruiter, s.aggregator, s.k) for s in plan.strategies()]
    assert listed == [
        (recruiter, aggregator, k)
        for recruiter in ("all", "fixed")
        for aggregator in ("majority", "weighted")
        for k in (1, None)
    ]
    assert next(plan.strategies(is_shuffled=True)) == Strategy(
        recruiter="all", aggregator="majority", k=1, is_shuffled=True
    )


def test_naming_no_recruiter_means_every_one_that_decides_by_itself():
    names = ReplayPlan().recruiter_names()
    assert {"all", "best_single", "fixed", "random", "symbolic"} <= set(names)
    assert "named" not in names
    with pytest.raises(UnknownNameError, match="unknown recruiter 'named'"):
        ReplayPlan(recruiters=("named",)).recruiter_names()


def test_pools_and_splits_are_those_that_a_dataset_has(tmp_path):
    tiny = load_dataset(write_dataset(tmp_path / "tiny"))
    other = replace(tiny, name="other", pools={"solo": ("counter",)})
    plan = ReplayPlan(pools=("solo", "trio"), fit_on=("fit",))
    plan.require([tiny, other])
    assert (plan.pools_of(tiny), plan.pools_of(other)) == (("trio",), ("solo",))
    assert ReplayPlan().pools_of(tiny) == ("trio", "duo")
    assert plan.fitted_splits(tiny) == ("fit",)
    assert replace(plan, fit_on=("fit", "fit")).fitted_splits(tiny) == ("fit",)
    with pytest.raises(UnknownNameError, match="Did you mean 'trio'"):
        ReplayPlan(pools=("tri",)).require([tiny, other])
    with pytest.raises(UnknownNameError, match="Did you mean 'fit'"):
        ReplayPlan(fit_on=("fitt",)).require([tiny])
    with pytest.raises(ConfigError, match="dataset other has none of the pools"):
        ReplayPlan(pools=("duo",)).require([tiny, other])
