"""Prices and estimates: unknown is never free, and the estimate is on the careful side."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts_registry.estimate import ASSUMED_OUTPUT_TOKENS, estimate_usage, max_output_tokens
from experts_registry.prices import cost_usd
from router_service.prompt_tokens import estimate_tokens
from router_service.types import (
    AnswerKind,
    AudioPart,
    Budget,
    Expert,
    ImagePart,
    Message,
    Prices,
    Sampling,
    TaskFormat,
    TextPart,
    user_query,
)
from tests.experts_registry.token_counts import REAL_TOKENS, SCHEMA, TEXTS

PRICES = Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=10.0)


def expert(**fields):
    return Expert(id="a", model="m", backend="echo", **fields)


def test_cost():
    assert cost_usd(PRICES, prompt_tokens=1000, completion_tokens=200) == pytest.approx(0.003)
    assert cost_usd(None, prompt_tokens=1000, completion_tokens=200) is None
    assert cost_usd(Prices(input_usd_per_mtok=0, output_usd_per_mtok=0), prompt_tokens=9, completion_tokens=9) == 0.0


@pytest.mark.parametrize(
    ("text", "real_tokens"),
    [
        ("What is the capital of France, and since when has it been?", 13),  # about one token a word
        ("12345678901234567890", 20),  # a vocabulary with single digits
        ("一二三四五六七八九十", 10),  # at least one a character
        ("", 0),
    ],
)
def test_tokens_are_not_underestimated(text, real_tokens):
    assert real_tokens <= estimate_tokens(user_query("q", text)) <= 2 * real_tokens + 20


def text_tokens(text):
    return estimate_tokens(user_query("q", text)) - estimate_tokens(user_query("q", ""))


AT_LEAST = {"German": 0.85, "Korean": 0.9}
"""Languages that this vocabulary, made for English, splits finer than most."""


@pytest.mark.parametrize("kind", TEXTS)
def test_no_kind_of_text_is_underestimated_or_taken_for_twice_as_long(kind):
    assert AT_LEAST.get(kind, 0.95) * REAL_TOKENS[kind] <= text_tokens(TEXTS[kind]) <= 1.75 * REAL_TOKENS[kind]


def test_prose_is_not_made_dear_by_what_else_there_is():
    assert text_tokens(TEXTS["prose"]) <= 1.5 * REAL_TOKENS["prose"]


@pytest.mark.slow
def test_the_counts_are_the_tokenizers():
    from transformers import AutoTokenizer

    from experts_registry.local.weights import base_model_dir

    tokenizer = AutoTokenizer.from_pretrained(base_model_dir())
    counts = {kind: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for kind, text in TEXTS.items()}
    assert counts == REAL_TOKENS


def test_the_schema_of_the_answer_and_names_count():
    plain = user_query("q", "Give me a record.")
    formed = replace(plain, task_format=TaskFormat(kind=AnswerKind.JSON, json_schema=SCHEMA))
    assert estimate_tokens(formed) - estimate_tokens(plain) >= REAL_TOKENS["JSON"]
    named = replace(plain, messages=(replace(plain.messages[0], name="the_one_who_asks"),))
    assert estimate_tokens(named) >= estimate_tokens(plain) + 4


LETTERS_AND_MORE = st.text(st.sampled_from("abcXYZ 1.é漢\n"), max_size=30)


@given(st.text() | LETTERS_AND_MORE, st.text() | LETTERS_AND_MORE)
def test_more_text_never_means_fewer_tokens(text, more):
    assert estimate_tokens(user_query("q", text)) <= estimate_tokens(user_query("q", text + more))


def test_images_audio_and_tools_count():
    parts = (TextPart(text="Look."), ImagePart(url="http://x/y.png"), AudioPart(data="A" * 40_000, format="mp3"))
    plain = user_query("q", "Look.")
    rich = replace(plain, messages=(Message(role="user", content=parts),), tools=('{"name": "weather"}',))
    assert estimate_tokens(rich) > estimate_tokens(plain) + 1600 + 100


def test_the_longest_completion_is_the_tightest_limit():
    query = user_query("q", "Hello there")
    asked = replace(query, sampling=Sampling(max_tokens=50))
    assert max_output_tokens(expert(), query) == ASSUMED_OUTPUT_TOKENS
    assert max_output_tokens(expert(max_output_tokens=300), query) == 300
    assert max_output_tokens(expert(sampling=Sampling(max_tokens=20)), query) == 20
    assert max_output_tokens(expert(sampling=Sampling(max_tokens=20)), asked) == 50
    assert max_output_tokens(expert(max_output_tokens=30), asked) == 30
    assert max_output_tokens(expert(context_window=estimate_tokens(query) + 7), query) == 7
    assert max_output_tokens(expert(context_window=1), query) == 1
    assert max_output_tokens(expert(), replace(asked, budget=Budget(max_output_tokens=11))) == 11


def test_usage_is_per_sample_and_counts_the_persona():
    query = replace(user_query("q", "Hello there"), sampling=Sampling(max_tokens=100))
    one = estimate_usage(expert(prices=PRICES), query)
    three = estimate_usage(expert(prices=PRICES), query, samples=3)
    assert (three.completions, three.completion_tokens, three.prompt_tokens) == (3, 300, 3 * one.prompt_tokens)
    assert math.isclose(three.cost_usd, 3 * one.cost_usd)
    assert one.cost_usd == pytest.approx((one.prompt_tokens + 1000) / 1e6)
    assert estimate_usage(expert(persona="You are terse."), query).prompt_tokens > one.prompt_tokens
    assert estimate_usage(expert(), query).cost_usd is None
