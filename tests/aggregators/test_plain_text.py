"""Which short answers in words are the same one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.equivalence import canonical, same_answer
from aggregators.plain_text import plain_text
from router_service.types import AnswerKind

FREE, LITERAL = AnswerKind.FREE, AnswerKind.LITERAL


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The Eiffel Tower.", "Eiffel tower"),
        ("A dog", "a dog"),
        ("dog!", "the dog"),
        ("“Paris”", "(Paris)"),
        ("**Paris**", "paris"),
        ("It’s Rome", "it's rome"),
        ("YES!", "Yes."),
        ("NO", "no"),
        ("USA", "Usa"),
        ("Ｐａｒｉｓ", "Paris"),
        ("Yes — it is", "yes - it is"),
        ("red, green and blue", "Red green and blue"),
        ("Hello\n world", "Hello world"),
        ("3 km", "3000 m"),
    ],
)
def test_the_same_words_have_the_same_key(a, b):
    assert same_answer(a, b, FREE)
    assert not same_answer(a, b, LITERAL) or a.lower().strip(".!") in ("yes", "no", "hello\n world")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("CO", "Co"),
        ("pH", "PH"),
        ("about 10 mW", "about 10 MW"),
        ("mHz", "MHz"),
        ("Vitamin A", "Vitamin"),
        ("A", "a"),
        ("A and B", "and B"),
        ("5", "-5"),
        ("5", "5!"),
        ("A+", "A"),
        ("C++", "C#"),
        ("10²", "102"),
        ("x² + 1", "x2 + 1"),
        ("print(X)", "print(x)."),
        ("f[i]", "F[i]"),
        ("0.5 or so", "05 or so"),
        ("the cat", "the cats"),
        ("yes", "no"),
    ],
)
def test_what_may_make_a_difference_stays(a, b):
    assert not same_answer(a, b, FREE)


def test_a_long_text_is_the_same_only_word_for_word():
    text = "The Cat sat. " * 40
    assert canonical(text, FREE) == " ".join(text.split())
    assert not same_answer(text, text.lower(), FREE)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_white_space_never_counts_and_nothing_is_lost(text):
    padded = f"  {text} \n"
    assert plain_text(padded) == plain_text(text)
    assert bool(plain_text(text)) == bool(text.split())


@pytest.mark.parametrize("text", ["...", "The", "?!", "the the", '"'])
def test_what_is_nothing_but_marks_or_articles_stays_as_it_is(text):
    assert plain_text(text) == (text.lower() if text == "The" else text)
