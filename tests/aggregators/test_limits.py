"""An answer inside a longer reply keeps to the caller's `max_tokens`."""

from __future__ import annotations

from dataclasses import replace

from aggregators.limits import within_limit
from router_service.prompt_tokens import text_tokens
from router_service.types import Completion, Sampling, Usage, user_query

TEXT = "It is Rome, because the government and the president have their seats there."


def written(tokens):
    return Completion(
        query_id="q",
        expert_id="a",
        text=TEXT,
        finish_reason="stop",
        usage=Usage(completions=1, completion_tokens=tokens),
    )


def limited_to(limit):
    return replace(user_query("q", "Which?"), sampling=Sampling(max_tokens=limit))


def test_what_was_written_under_the_limit_is_left_to_its_own_backends_count():
    assert within_limit(written(5), limited_to(5)) == written(5)
    assert within_limit(written(6), limited_to(5)) == written(6), "it counts the end of the text"
    assert within_limit(written(500), limited_to(None)) == written(500)
    assert within_limit(written(500), limited_to(text_tokens(TEXT))) == written(500)


def test_the_end_of_a_longer_reply_is_cut_and_says_so():
    cut = within_limit(written(500), limited_to(6))
    assert TEXT.startswith(cut.text) and cut.text
    assert text_tokens(cut.text) <= 6 < text_tokens(TEXT[: len(cut.text) + 8])
    assert cut.finish_reason == "length"
    assert within_limit(cut, limited_to(6)) == cut
