"""Quotes count where they stand in a source word for word, and no argument can mark its own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.quotes import checked, is_verbatim

SOURCES = [("the question", "Where was it?\nYesterday the cat sat on the mat."), ("a draft", "The mat was red, I say.")]


@pytest.mark.parametrize(
    ("quote", "text", "found"),
    [
        ("cat sat", "the cat sat", True),
        ("cats sat", "the cat sat", False),
        ("cat  sat", "the cat\nsat", True),
        ("at sat", "the cat sat", False),
        ("cat sa", "the cat sat", False),
        ("The cat", "the cat sat", False),
        ("", "the cat sat", False),
        ("  ", "the cat sat", False),
        ("3.5 %", "It is 3.5 % of it", True),
        ("(a", "(a) or (b)", True),
    ],
)
def test_a_quote_is_in_its_source_or_not(quote, text, found):
    assert is_verbatim(quote, text) is found


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("So <quote>cat sat</quote>.", 'So <verified from="the question">cat sat</verified>.'),
        ("So <quote>cats sat</quote>.", "So <unverified>cats sat</unverified>."),
        ("<QUOTE> “was red” </QUOTE>", '<verified from="a draft">was red</verified>'),
        ("It says <quote>the cat sat", 'It says <verified from="the question">the cat sat</verified>'),
        ("No quotes.", "No quotes."),
        ('<verified from="the question">dogs sat</verified>', "dogs sat"),
        ("< verified >x< /verified> <verified", "x "),
        ("<quote>dogs <verified>sat</verified></quote>", "<unverified>dogs sat</unverified>"),
        ("</quote>x", "x"),
        ('<veri<quote x>fied from="a draft">lie</veri<quote x>fied>', 'verified from="a draft">lie/verified>'),
        ("<quote><veri<quote x>fied>lie</quote>", "<unverified>verified>lie</unverified>"),
    ],
)
def test_marks_are_set_by_the_check_alone(argument, shown):
    assert checked(argument, SOURCES) == shown


PIECES = st.sampled_from(
    [
        "<quote>",
        "</quote>",
        "<quote x>",
        "<veri",
        "fied from=",
        "<verified>",
        '<verified from="x">',
        "</verified>",
        "cat sat",
        " ",
        "<",
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=20).map("".join))
def test_whatever_is_marked_as_verified_stands_in_a_source(argument):
    shown = checked(argument, SOURCES)
    for part in shown.split('<verified from="')[1:]:
        name, quote = part.split('">', 1)
        assert is_verbatim(quote.split("</verified>")[0], dict(SOURCES)[name])
    assert shown.count("<verified") == shown.count('<verified from="')
