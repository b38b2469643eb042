"""What of a query is embedded: the question without its options."""

from __future__ import annotations

import pytest

from router_service.types import AnswerKind, TaskFormat, user_query
from skills.texts import question_text

OPTIONS = TaskFormat(kind=AnswerKind.CHOICE, options=("a red  hen", "an ox"))


@pytest.mark.parametrize(
    "listed",
    [
        "A) a red hen\nB) an ox",
        "(1) a red hen\n(2) an ox",
        "a. a red  hen\nb. an ox",
        "a red hen\nan ox",
        " A: a red hen\n B: an ox",
    ],
)
def test_options_and_what_follows_them_are_left_out(listed):
    query = user_query("q", f"Which flies?\n\n{listed}\n\nAnswer with a letter.", task_format=OPTIONS)
    assert question_text(query) == "Which flies?"


@pytest.mark.parametrize(
    "text", ["Which flies?", "Which?\nA) a red hen", "A) a red hen\nB) an ox", "Which?\nB) an ox\nA) a red hen"]
)
def test_without_all_options_after_a_question_the_whole_text_counts(text):
    assert question_text(user_query("q", text, task_format=OPTIONS)) == text


def test_a_format_without_options_leaves_the_text_alone():
    assert question_text(user_query("q", "Which?\nA) a hen\nB) an ox")) == "Which?\nA) a hen\nB) an ox"
