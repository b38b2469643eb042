"""What the page says of the rows: better only where the whole interval says so, and the doubts that belong to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report.verdict import UNROUTED, Judgement, headline, judge, pool_verdicts
from eval.report.wording import dollars, interval, number, percent, points
from eval.results import PairedDifference
from router_service.recruit.base import RECRUITERS
from tests.eval.report.sample import difference, report, row


def verdicts_of(*rows):
    return pool_verdicts(report().model_copy(update={"rows": rows}))


@pytest.mark.parametrize(
    ("low", "high", "judgement"),
    [
        (0.001, 0.2, Judgement.BETTER),
        (-0.2, -0.001, Judgement.WORSE),
        (-0.1, 0.1, Judgement.UNDECIDED),
        (0.0, 0.1, Judgement.UNDECIDED),
        (-0.1, 0.0, Judgement.UNDECIDED),
    ],
)
def test_only_a_whole_interval_on_one_side_decides(low, high, judgement):
    assert judge(PairedDifference(mean=(low + high) / 2, low=low, high=high)) is judgement


def test_what_was_not_compared_is_unknown():
    assert judge(None) is Judgement.UNKNOWN


def test_the_recruiters_that_look_at_no_question_are_registered():
    assert set(RECRUITERS.names()) >= UNROUTED


def test_of_two_equal_strategies_the_one_with_fewer_calls_is_ahead():
    (verdict,) = verdicts_of(row("knn", 0.6, calls_per_query=5.0), row("tree", 0.6, calls_per_query=2.0))
    assert verdict.winner.recruiter == "tree"


def test_a_control_never_wins():
    (verdict,) = verdicts_of(row("knn", 0.6), row("tree", 0.9, is_shuffled=True))
    assert verdict.winner.recruiter == "knn"
    assert verdict.n_routed == 1


def test_a_fixed_panel_that_is_ahead_is_said_to_be():
    verdicts = verdicts_of(row("fixed", 0.6), row("knn", 0.58, vs_fixed=difference(-0.02, half=0.01)))
    said = " ".join(verdicts[0].sentences)
    assert verdicts[0].winner.recruiter == "fixed"
    assert "No strategy that chooses by the question does better" in said
    assert "it is worse" in said
    assert any("looks at no question at all is ahead" in sentence for sentence in headline(verdicts))


def test_the_verdict_names_both_comparisons_with_their_intervals():
    (verdict,) = verdicts_of(row("fixed", 0.55), row("knn", 0.6))
    said = " ".join(verdict.sentences)
    assert "+10.0 (+8.0 to +12.0) points, so it is better" in said
    assert "The best fixed panel of any size is fixed + majority, k = 3 with 55.0 % right" in said


def test_without_routing_nothing_is_claimed():
    verdicts = verdicts_of(row("fixed", 0.6), row("best_single", 0.5))
    assert verdicts[0].routed is None
    assert headline(verdicts) == (
        "No strategy that chooses experts by the question was judged, so nothing can be said of routing.",
    )


def test_the_headline_counts_pools_and_warns_of_the_choice():
    rows = [
        row("knn", 0.6, pool="a", vs_best_single=difference(0.1), vs_fixed=difference(0.0)),
        row("knn", 0.6, pool="b", vs_best_single=difference(-0.1), vs_fixed=None),
        *(row(f"tree{n}", 0.5, pool="b") for n in range(80)),
    ]
    first, *others = headline(verdicts_of(*rows))
    assert "beats the best single expert on 1 (loses to it on 1)" in first
    assert (
        "beats the vote of a fixed panel of as many calls on none (cannot be told from it on 1, "
        "was not compared with it on 1)"
    ) in first
    assert "picked among 82 judged strategies" in others[-1]
    assert "about 2 would still show an interval above 0" in others[-1]


def test_one_pool_is_told_without_counting():
    first, *_ = headline(verdicts_of(row("knn", 0.6, vs_best_single=difference(0.1), vs_fixed=difference(0.0))))
    assert "beats the best single expert, and cannot be told from the vote of a fixed panel" in first


@given(st.lists(st.tuples(st.sampled_from(["knn", "fixed", "tree"]), st.floats(0, 1)), min_size=1, max_size=8))
def test_nothing_judged_is_better_than_the_winner(strategies):
    (verdict,) = verdicts_of(*(row(recruiter, accuracy, ci95=(0.0, 1.0)) for recruiter, accuracy in strategies))
    assert verdict.winner.accuracy == max(accuracy for _, accuracy in strategies)
    assert (verdict.routed is None) == all(recruiter == "fixed" for recruiter, _ in strategies)


# --- how figures are written -----------------------------------------------------------------------------------------


def test_unknown_is_said_and_nothing_is_not_a_minus():
    assert (percent(None), dollars(None), dollars(0.0), number(None)) == ("unknown", "unknown", "0.00", "")
    assert points(difference(-0.0001, half=0.0)) == "+0.0 (+0.0 to +0.0)"
    assert points(difference(-0.031)) == "−3.1 (−5.1 to −1.1)"
    assert points(None) == ""
    assert (interval(None), interval((0.1, 0.25))) == ("", "10.0 to 25.0")


@pytest.mark.parametrize(("cost", "written"), [(12.345, "12.35"), (0.21149, "0.211"), (0.000123, "0.000123")])
def test_dollars_keep_their_figures(cost, written):
    assert dollars(cost) == written
