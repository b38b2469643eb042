"""Who is chosen for which cell: equal calls, significance over all cells and candidates, backing off, the veto."""

from __future__ import annotations

import random

import pytest

from aggregators.choices import MAJORITY, OVERALL, Choice
from eval._selection_tries import Attempt, Attempts
from eval._selection_verdicts import ALPHA, MIN_TRIALS, decide, sign_test, wilson_interval

WRITER = Choice(aggregator="synthesise", expert="writer")
WEIGHTED = Choice(aggregator="weighted")


def tried(choice, grades, *, majority, weighted=None, calls=1, short=0):
    """A candidate with these grades, beside what the votes reach over as many calls."""
    return Attempts(
        choice=choice,
        attempts=tuple(Attempt(grade=grade, calls=calls) for grade in grades),
        equal={"majority": tuple(majority), "weighted": tuple(majority if weighted is None else weighted)},
        is_short=tuple(place < short for place in range(len(grades))),
    )


def cells_of(cells, *attempts):
    found = decide(cells, [True] * len(cells), attempts)
    return {cell.key: cell for cell in found}


def test_who_beats_both_votes_at_equal_calls_is_chosen():
    n = 40
    cell = cells_of([("law", "choice")] * n, tried(WRITER, [1.0] * n, majority=[0.0] * n, short=3))[OVERALL]
    assert (cell.chosen, cell.is_own, cell.n, cell.n_disputed) == (WRITER, True, n, n)
    [evidence] = cell.candidates
    assert (evidence.accuracy, evidence.own_calls, evidence.n_short) == (1.0, 1.0, 3)
    assert evidence.equal == {"majority": 0.0, "weighted": 0.0}
    assert evidence.p_value == pytest.approx(2.0**-n)
    assert "synthesise:writer is right on 1.000 of 40 panels, at equal calls majority 0.000" in cell.reason


def test_beating_one_of_the_votes_is_not_enough():
    n = 40
    cell = cells_of([(None, "choice")] * n, tried(WRITER, [1.0] * n, majority=[0.0] * n, weighted=[1.0] * n))[OVERALL]
    assert cell.chosen == MAJORITY
    assert "nobody beats the votes at equal calls on 40 panels" in cell.reason


def test_a_vote_is_compared_with_the_other_one_alone():
    n = 40
    found = cells_of(
        [(None, "choice")] * n, tried(WEIGHTED, [1.0] * n, majority=[0.0] * n, weighted=[1.0] * n, calls=0)
    )
    assert found[OVERALL].chosen == WEIGHTED
    assert list(found[OVERALL].candidates[0].equal) == ["majority"]


def test_thin_evidence_leaves_the_vote():
    n = MIN_TRIALS - 1
    cell = cells_of([(None, "choice")] * n, tried(WRITER, [1.0] * n, majority=[0.0] * n))[OVERALL]
    assert (cell.chosen, cell.reason) == (MAJORITY, f"only {n} panels, {MIN_TRIALS} are needed")


def test_of_several_the_most_accurate_and_then_the_cheapest_is_chosen():
    n = 60
    dear = Choice(aggregator="debate")
    good = tried(WRITER, [1.0] * n, majority=[0.0] * n)
    assert cells_of([(None, "choice")] * n, tried(dear, [1.0] * n, majority=[0.0] * n, calls=4), good)[
        OVERALL
    ].chosen == (WRITER)
    better = tried(dear, [1.0] * n, majority=[0.0] * n, calls=4)
    worse = tried(WRITER, [1.0] * (n - 5) + [0.0] * 5, majority=[0.0] * n)
    assert cells_of([(None, "choice")] * n, better, worse)[OVERALL].chosen == dear


def test_more_candidates_and_more_cells_need_clearer_evidence():
    """5 of 5 different trials give p = 1/32: enough for one candidate in one cell at 0.05, not for two."""
    grades, majority = [1.0] * 5 + [0.0] * 20, [0.0] * 25
    one = tried(WRITER, grades, majority=majority)
    assert cells_of([(None, "choice")] * 25, one)[OVERALL].chosen == WRITER
    other = tried(Choice(aggregator="debate"), majority, majority=majority)
    assert cells_of([(None, "choice")] * 25, one, other)[OVERALL].chosen == MAJORITY
    more = tried(WRITER, grades + [0.0] * 20, majority=[0.0] * 45)
    mixed = [(None, "choice")] * 25 + [(None, "number")] * 20
    assert cells_of(mixed, more)[OVERALL].chosen == MAJORITY


def test_a_cell_without_evidence_of_its_own_goes_by_the_wider_one():
    """`art` is thin, `law` has trials of its own that decide, and `tax` has trials in which the choice does no harm."""
    counts = {"law": 40, "tax": 30, "art": 5}
    cells = [(name, "choice") for name, count in counts.items() for _ in range(count)]
    grades = [1.0] * 40 + [1.0, 1.0, 1.0] + [0.0] * 27 + [1.0] * 5
    found = cells_of(cells, tried(WRITER, grades, majority=[0.0] * 75))
    assert {key: (cell.chosen, cell.is_own) for key, cell in found.items()} == {
        OVERALL: (WRITER, True),
        ("law", "choice"): (WRITER, True),
        ("tax", "choice"): (WRITER, False),
        ("art", "choice"): (WRITER, False),
    }
    assert found["art", "choice"].reason.endswith("as in the wider cell")


def test_a_cell_in_which_the_wider_choice_does_harm_keeps_the_vote():
    cells = [("law", "choice")] * 60 + [("art", "choice")] * 20 + [("tax", "choice")] * 19
    grades = [1.0] * 60 + [0.0] * 20 + [0.0] * 19
    found = cells_of(cells, tried(WRITER, grades, majority=[0.0] * 60 + [1.0] + [0.0] * 19 + [1.0] * 19))
    assert found[OVERALL].chosen == WRITER
    assert found["art", "choice"].chosen == MAJORITY
    assert "synthesise:writer loses 0.050 here" in found["art", "choice"].reason
    assert found["tax", "choice"].chosen == WRITER, "19 trials are too few to overrule"


def test_kinds_of_answers_stand_between_categories_and_the_whole():
    cells = [("law", "choice")] * 30 + [("law", "number")] * 30 + [("art", "number")] * 5
    found = cells_of(cells, tried(WRITER, [0.0] * 30 + [1.0] * 35, majority=[1.0] * 30 + [0.0] * 35))
    assert found[OVERALL].chosen == MAJORITY
    assert found[None, "choice"].chosen == MAJORITY
    assert found[None, "number"].chosen == WRITER
    assert found["art", "number"].chosen == WRITER
    assert ("law", "choice") not in found, "it would only repeat its kind"


def test_no_trial_leaves_the_vote():
    assert cells_of([], tried(WRITER, [], majority=[]))[OVERALL].chosen == MAJORITY
    assert cells_of([])[OVERALL].candidates == ()


def test_candidates_no_better_than_the_vote_are_seldom_chosen():
    """Fair coins against a fair coin, three candidates, four cells: one is chosen in at most 5 % of 200 draws."""
    chosen = 0
    for seed in range(200):
        rng = random.Random(seed)
        cells = [(rng.choice("abc"), "choice") for _ in range(120)]
        majority = [float(rng.random() < 0.5) for _ in cells]
        candidates = [
            tried(Choice(aggregator=name), [float(rng.random() < 0.5) for _ in cells], majority=majority)
            for name in ("synthesise", "debate", "verdict")
        ]
        chosen += any(cell.chosen != MAJORITY for cell in cells_of(cells, *candidates).values())
    assert chosen <= 200 * ALPHA


@pytest.mark.parametrize(
    ("wins", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_by_the_book(wins, trials, low, high):
    """The last case is the worked example of Newcombe (1998), table I."""
    assert wilson_interval(wins, trials) == pytest.approx((low, high), abs=2e-4)


def test_the_sign_test_by_hand():
    assert sign_test([1, 0], [1, 0]) == 1.0
    assert sign_test([1, 1, 1, 0], [0, 0, 0, 1]) == pytest.approx(5 / 16)
