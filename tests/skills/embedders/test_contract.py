"""What every registered embedder must do; a new file in the room is covered by itself."""

from __future__ import annotations

import numpy as np
import pytest

from router_service.errors import ConfigError
from skills.base import EMBEDDERS, Embedder

TEXTS = [
    "What is 17 times 24?",
    "",
    "   ",
    "?!",
    "What is 17 times 24?",
    "Übergrößenträger ∑ 漢字 🙂",
    "a lone surrogate \ud800 in the middle",
    "word " * 2000,
    "null \x00 byte",
]
LIGHT = {"hashing"}
"""Embedders without a model: everything else is taken to be heavy."""
NOISE = {"minilm": 1e-5}
"""Embedders that pad texts to a common length, and how far a row may move by it: every other one's must not move."""
OF_ONE_LENGTH = [
    f"What is {a} {sign} {b}?" for a in ("six", "ten") for sign in ("plus", "minus") for b in ("one", "two")
]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in LIGHT else pytest.mark.slow) for name in EMBEDDERS.names()],
)
def embedder(request) -> Embedder:
    return EMBEDDERS.create(request.param)


def test_rows_are_unit_float32_of_the_promised_shape(embedder):
    rows = embedder.embed(TEXTS)
    assert rows.shape == (len(TEXTS), embedder.dimension)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_no_texts_give_no_rows(embedder):
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_a_row_depends_on_its_text_alone(embedder):
    noise = next((NOISE[n] for n in NOISE if EMBEDDERS.factory(n) is type(embedder)), 0.0)
    texts = TEXTS + OF_ONE_LENGTH
    batch = embedder.embed(texts)
    singles = np.vstack([embedder.embed([text]) for text in texts])
    assert np.abs(batch - singles).max() <= noise
    assert np.abs(batch - embedder.embed(texts[::-1])[::-1]).max() <= noise


def test_same_text_same_row_from_a_second_instance(embedder):
    name = next(n for n in EMBEDDERS.names() if EMBEDDERS.factory(n) is type(embedder))
    other = EMBEDDERS.create(name)
    assert other.fingerprint == embedder.fingerprint
    assert np.array_equal(other.embed(TEXTS[:3]), embedder.embed(TEXTS[:3]))


def test_alike_texts_lie_nearer_than_strange_ones(embedder):
    near, base, far = embedder.embed(
        ["solve the linear equation for x", "solve this linear equation", "who ruled Rome after Augustus"]
    )
    assert near @ base > far @ base + 0.2


def test_fingerprints_differ_between_embedders():
    prints = [EMBEDDERS.create(name).fingerprint for name in EMBEDDERS.names()]
    assert len(set(prints)) == len(prints)


def test_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'dimension'"):
        EMBEDDERS.create("hashing", {"dimensions": 64})
