"""What a judge's reply picks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators.picks import TIE, read_pick


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ("Best: 2", 2),
        ("**Best: 2**", 2),
        ("2", 2),
        ("2.", 2),
        ("Draft 3", 3),
        ("Draft #3 is the best.", 3),
        ("Draft 1 is wrong, draft 2 is better.", 2),
        ("I looked at 1, 2 and 3.\nBest: 1", 1),
        ("Best: 1, no, on second thoughts\nBest: 3", 3),
        ("The best draft is number 2, since 40 + 2 = 42.", 2),
        ("<think>Best: 1</think>Best: 2", 2),
        ("The winner is draft 3", 3),
        ("I choose `2`", 2),
        ("Better: tie", TIE),
        ("It is a tie.", TIE),
        ("Neither is better.", TIE),
        ("Best: 7", None),
        ("1 or 2", None),
        ("42", None),
        ("1.5", None),
        ("The judge has spoken.", None),
        ("", None),
        ("<think>Best: 1", None),
    ],
)
def test_a_reply_is_read(text, pick):
    assert read_pick(text, 3) == pick


@given(st.text(max_size=80), st.integers(2, 9))
def test_whatever_is_said_the_pick_is_in_range(text, n):
    assert read_pick(text, n) in {None, TIE, *range(1, n + 1)}


@given(st.integers(2, 99).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_every_number_can_be_picked(drawn):
    n, number = drawn
    assert read_pick(f"Best: {number}", n) == read_pick(str(number), n) == number
