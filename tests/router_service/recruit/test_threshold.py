"""The gate that sizes a panel, and how evenly experts are used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.threshold import gate
from router_service.recruit.usage_balance import expert_usage, usage_cv2
from router_service.types import Budget, Tally
from tests.router_service.recruit.pools import LONGEST, expert, fit_data, profile, recruiter, request


def pool(*wins, **prices):
    """Experts a, b, c, ... with so many wins of 100."""
    ids = [chr(ord("a") + n) for n in range(len(wins))]
    experts = [expert(i, usd_per_mtok=prices.get(i, 1.0)) for i in ids]
    known = {i: profile(i, {}, overall=Tally(wins=w, trials=100)) for i, w in zip(ids, wins, strict=True)}
    return fit_data(experts, known)


def panel(data, item=None, **options):
    (decision,) = recruiter("threshold", data, **options).recruit([item or request()])
    return [r.expert_id for r in decision.recruits]


def test_the_gate_by_hand():
    shares = gate(np.array([[0.6, 0.5, np.nan]]), temperature=0.1)[0]
    assert shares == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e), 0.0])
    assert (gate(np.full((1, 3), np.nan), temperature=0.1) == 0).all()


chances = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8)


@given(chances, st.data())
def test_a_gate_of_separate_scores_is_the_same_among_fewer_experts(row, data):
    """Restriction is renormalisation (MoE², claim 1): nothing has to be trained again for a subset."""
    kept = sorted(data.draw(st.sets(st.integers(0, len(row) - 1), min_size=1)))
    whole = gate(np.array([row]), temperature=0.3)[0]
    alone = gate(np.array([row])[:, kept], temperature=0.3)[0]
    assert alone == pytest.approx(whole[kept] / whole[kept].sum())


def test_the_query_sizes_its_panel():
    assert panel(pool(90, 30, 30)) == ["a"]
    assert panel(pool(60, 60, 60, 20)) == ["a", "b", "c"]
    assert panel(pool(60, 60, 60, 20), request(k=2)) == ["a", "b"]
    assert panel(pool(60, 60, 60, 20), k=1) == ["a"]
    assert panel(pool(*[50] * 10)) == ["a"]  # a tenth each: nobody is above the threshold, so the best alone
    assert panel(pool(*[50] * 10), threshold=0.05) == list("abcdefghij")


def test_the_category_moves_the_gate():
    experts = [expert("reader"), expert("counter")]
    good, bad = Tally(wins=36, trials=40), Tally(wins=4, trials=40)
    data = fit_data(
        experts,
        {
            "reader": profile("reader", {}, overall=Tally(wins=40, trials=80), arts=good, maths=bad),
            "counter": profile("counter", {}, overall=Tally(wins=40, trials=80), arts=bad, maths=good),
        },
    )
    assert panel(data, request(category="arts")) == ["reader"]
    assert panel(data, request(category="maths")) == ["counter"]
    assert panel(data) == ["reader", "counter"]


def test_who_is_too_dear_still_counts_in_the_gate():
    data = pool(60, 60, 60, 60, 60, c=9.0, d=9.0, e=9.0)
    affordable = request(budget=Budget(max_cost_usd=2 * LONGEST / 1e6))
    assert panel(data) == list("abcde")
    assert panel(data, affordable, threshold=0.3) == ["a"]  # a fifth each, not a half


def test_experts_that_are_denied_leave_their_share_to_the_others():
    assert panel(pool(*[60] * 10), request(experts_denied=tuple("defghij"))) == ["a", "b", "c"]


def test_without_profiles_the_first_is_asked_and_the_reason_given():
    data = fit_data([expert("a"), expert("new")], {"a": profile("a", {})})
    (decision,) = recruiter("threshold", data).recruit([request(experts_denied=("a",))])
    assert [r.expert_id for r in decision.recruits] == ["new"] and "has a profile" in decision.fallback_reason


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"threshold": -0.1}, {"temperature": 0.0}])
def test_wrong_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        recruiter("threshold", pool(1), **options)


def test_usage_is_even_at_zero_and_worst_where_one_does_everything():
    assert usage_cv2([4, 4, 4]) == 0.0
    assert usage_cv2([9, 0, 0]) == pytest.approx(2.0)
    assert usage_cv2([3, 1]) == pytest.approx(0.25)
    assert usage_cv2([]) == usage_cv2([0, 0]) == 0.0


def test_usage_is_counted_from_decisions():
    fitted = recruiter("threshold", pool(60, 60, 10))
    decisions = fitted.recruit([request(), request(experts_denied=("b",))])
    usage = expert_usage(decisions, ["a", "b", "c"])
    assert usage == [2, 1, 0] and usage_cv2(usage) == pytest.approx(2 / 3)
