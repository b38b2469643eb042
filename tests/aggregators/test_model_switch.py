"""The first expert alone where its samples agree; else more of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aggregators.model_switch import ModelSwitch
from router_service.errors import ConfigError
from tests.aggregators.panels import FakeAsk, failed, panel, said
from tests.aggregators.test_self_consistency import samples


async def vote(members, **options):
    return await ModelSwitch(**options).aggregate(panel(members), ask=FakeAsk())


async def test_the_first_expert_stands_alone_from_the_threshold_on():
    others = samples("ben", "BBBBBBBBBB")
    got = await vote([*samples("ann", "AAAAAAAABC"), *others])
    assert (got.extracted, got.confidence) == ("A", pytest.approx(0.8))
    assert got.agreement == pytest.approx(8 / 20)
    got = await vote([*samples("ann", "AAAAAAABCC"), *others])
    assert (got.extracted, got.confidence) == ("B", pytest.approx(11 / 20))
    assert (await vote([*samples("ann", "AAAAAAABCC"), *others], threshold=0.7)).extracted == "A"


async def test_only_the_first_two_are_pooled_unless_told_otherwise():
    members = [*samples("ann", "AAB"), *samples("ben", "ACC"), *samples("cyd", "CCC")]
    assert (await vote(members)).extracted == "A"
    assert (await vote(members, pooled=None)).extracted == "C"
    assert (await vote(members, pooled=3)).extracted == "C"


async def test_one_sample_agrees_with_itself_which_says_nothing():
    members = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]
    assert (await vote(members, pooled=None)).extracted == "B"
    assert (await vote(members)).extracted == "A"


async def test_who_failed_or_has_no_answer_is_not_the_first():
    members = [failed("zoe"), *samples("ann", [None, None]), *samples("ben", "BB"), *samples("cyd", "CCC")]
    assert (await vote(members)).extracted == "B"


def test_it_is_settled_where_the_first_agrees_whatever_the_rest_say():
    one = panel([*samples("ann", "AAAAA"), *samples("ben", "BB"), *samples("cyd", "CC")])

    def settled(seen, pending, **options):
        completions = tuple(one.completions[place] for place in seen)
        return ModelSwitch(**options).is_settled(replace(one, completions=completions), pending)

    assert settled(range(4), ["ann", "ben", "ben", "cyd", "cyd"])
    assert not settled(range(3), ["ann", "ann", "ben", "ben", "cyd", "cyd"])
    assert not settled(range(5, 9), ["ann"] * 5)
    assert not settled([0, 5, 6], ["ann"] * 4 + ["cyd"] * 2)
    assert settled([0, 5, 6], ["cyd"] * 2)
    assert not settled([0, 5, 6], ["cyd"] * 2, pooled=None)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.5}, {"pooled": 1}])
def test_options_outside_their_range_are_refused(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
        ModelSwitch(**options)
