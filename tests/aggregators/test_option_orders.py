"""Finding the options a question shows, and showing them in another order."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.option_orders import find_options, other_orders

COLOURS = ("red", "green", "blue")
TAIL = "\n\nAnswer with the letter of the right option."


@pytest.mark.parametrize(
    ("text", "reordered"),
    [
        ("Which?\n\nA) red\nB) green\nC) blue" + TAIL, "Which?\n\nA) blue\nB) red\nC) green" + TAIL),
        ("Which?\n(A) red\n(B) green\n(C) blue", "Which?\n(A) blue\n(B) red\n(C) green"),
        ("A. red\n\nB. green\n\nC. blue\n\nThink.", "A. blue\n\nB. red\n\nC. green\n\nThink."),
        ("A: red\nB: green\nC: blue", "A: blue\nB: red\nC: green"),
        ("- **A)** red\n- **B)** green\n- **C)** blue", "- **A)** blue\n- **B)** red\n- **C)** green"),
        ("Option A: red\nOption B: green\nOption C: blue", "Option A: blue\nOption B: red\nOption C: green"),
        ("Which? (A) red (B) green (C) blue", "Which? (A) blue (B) red (C) green"),
        ("Is it A) red, B) green, or C) blue?", "Is it A) blue, B) red, or C) green?"),
        ("Options: A. red. B. green. C. blue.", "Options: A. blue. B. red. C. green."),
        (
            "Ex:\nA) x\nB) y\nThe answer is B.\n\nA) red\nB) green\nC) blue",
            "Ex:\nA) x\nB) y\nThe answer is B.\n\nA) blue\nB) red\nC) green",
        ),
    ],
)
def test_options_change_places_and_nothing_else_moves(text, reordered):
    shown = find_options(text, COLOURS)
    assert shown.options == COLOURS
    assert shown.reordered((2, 0, 1)) == reordered
    assert shown.reordered((0, 1, 2)) == text


@pytest.mark.parametrize("text", ["Q?\nA) red\nB) green", "Which? (A) red (B) green", "A: red\n\nB: green\n"])
def test_options_that_nobody_listed_are_found_where_there_is_one_list(text):
    shown = find_options(text)
    assert shown.options == ("red", "green")
    assert find_options(shown.reordered((1, 0))).options == ("green", "red")


def test_an_option_of_several_lines_moves_as_a_whole():
    shown = find_options("A) one\n   and more\nB) two\nC) three", ("one and more", "two", "three"))
    assert shown.reordered((1, 0, 2)) == "A) two\nB) one\n   and more\nC) three"


DOUBTFUL = {
    "no options": ("What is it?", ()),
    "others than told": ("A) red\nB) green\nC) pink", COLOURS),
    "too few": ("A) red\nB) green", COLOURS),
    "two lists": ("A) red\nB) green\n\nNow:\nA) one\nB) two", ()),
    "shown twice": ("A) red\nB) green\nC) blue\nAgain:\nA) red\nB) green\nC) blue", COLOURS),
    "both A and B": ("A) red\nB) green\nC) both A and B", ()),
    "A and B only": ("A) red\nB) green\nC) A and B only", ()),
    "either (A) or (B)": ("A) red\nB) green\nC) either (A) or (B)", ()),
    "above in the middle": ("A) red\nB) none of the above\nC) blue", ()),
    "the question names one": ("Why is option B wrong?\nA) red\nB) green", ()),
    "several lines each": ("A) red,\n   dark\nB) green,\n   light", ()),
    "the same twice": ("A) red\nB) red\nC) blue", ()),
    "very long": ("x" * 30_000 + "\nA) red\nB) green", ()),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_in_doubt_there_is_no_other_order(case):
    assert find_options(*DOUBTFUL[case]) is None


def test_an_option_that_speaks_of_all_above_stays_last():
    shown = find_options("A) red\nB) green\nC) All of the above")
    assert shown.is_last_fixed
    assert other_orders(shown, 9, seed=1) == ((1, 0, 2),)


@settings(deadline=None)
@given(count=st.integers(2, 10), how_many=st.integers(0, 30), seed=st.integers(0, 2**62))
def test_orders_are_different_none_is_the_one_shown_and_the_seed_draws_them(count, how_many, seed):
    shown = find_options("\n".join(f"{letter}) option {n}" for n, letter in enumerate(string.ascii_uppercase[:count])))
    orders = other_orders(shown, how_many, seed=seed)
    assert len(set(orders)) == len(orders) == min(how_many, math.factorial(count) - 1)
    assert tuple(range(count)) not in orders
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert orders == other_orders(shown, how_many, seed=seed)
    for order in orders[:3]:
        assert find_options(shown.reordered(order)).options == tuple(shown.options[place] for place in order)


@settings(deadline=None)
@given(st.text(max_size=200), st.lists(st.text(max_size=5), max_size=4))
def test_no_text_breaks_it(text, options):
    shown = find_options(text, options)
    assert shown is None or shown.reordered(range(len(shown.options))) == text
