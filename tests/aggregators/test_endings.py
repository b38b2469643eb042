"""Steps and endings are found however loosely a model kept to the form."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.endings import after_last, steps

MARK = re.compile(r"final\s+answer\s*:", re.IGNORECASE)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Step 7: fine.\nFinal answer: 42", "42"),
        ("final  ANSWER :\n\n The answer is (B).", "The answer is (B)."),
        ("Final answer: 1\nNo, wait.\nFinal answer: 2", "2"),
        ("Final answer: 1\nI repeat.\nFinal answer:", "1\nI repeat."),
        ("Final answer: 1\nFinal answer: **", "1"),
        ("<think>Final answer: 1</think>Nothing to add.", None),
        ("<think>Final answer: 1", None),
        ("Final answer: ]) >", "]) >"),
        ("Final answer:", None),
        ("", None),
    ],
)
def test_what_stands_after_the_last_mark(text, rest):
    assert after_last(text, MARK) == rest


def test_steps_are_read_by_number_whatever_is_missing():
    text = "# Step 1: both say so\n**Step 2:** none\n- Step 4\nonly one\nand more\nstep 6. It is B.\nStep 7:\n"
    assert steps(text) == {1: "both say so", 2: "none", 4: "only one\nand more", 6: "It is B."}
    assert steps("no steps here, only step by step talk") == {}
    assert steps("Step 1: old\nStep 1: new") == {1: "new"}


FRAGMENTS = st.sampled_from(["Step ", "1", "7: ", "\n", "**", "Final answer:", " x ", "<think>", "</think>", "#", ">"])


@settings(deadline=None)
@given(st.lists(FRAGMENTS, max_size=60).map("".join))
def test_any_text_can_be_read(text):
    rest = after_last(text, MARK)
    assert rest is None or (rest in text and rest.strip())
    assert all(step.strip() and step in text for step in steps(text).values())
