"""The hashing embedder: same vectors everywhere, options checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.errors import ConfigError
from skills.embedders.hashing import Hashing

PINNED = [0.223607, -0.447214, -0.447214, -0.67082, 0.0, 0.0, -0.223607, -0.223607]


def test_one_word_by_hand():
    """With one bucket every feature adds ±weight there; the unit row can only be ±1."""
    assert abs(Hashing(1).embed(["word"])[0, 0]) == 1.0


def test_vectors_are_pinned():
    """The recipe is part of saved artefacts: who changes a vector must raise the version in the fingerprint."""
    embedder = Hashing(8)
    assert embedder.fingerprint == "hashing/v1/d8/n3-4/w2"
    assert embedder.embed(["roman numerals"])[0] == pytest.approx(PINNED, abs=1e-5)


def test_counts_grow_sublinearly():
    once, often = Hashing(512).embed(["algebra geometry", "algebra " * 50 + "geometry"])
    assert once @ often > 0.5


@given(st.text(max_size=60))
def test_every_text_has_a_unit_row_and_case_does_not_matter(text):
    row = Hashing(64).embed([text])[0]
    assert np.isfinite(row).all()
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5)


def test_case_does_not_matter():
    lower, upper = Hashing().embed(["Bayes theorem", "BAYES THEOREM"])
    assert np.array_equal(lower, upper)


@pytest.mark.parametrize("options", [{"dimension": 0}, {"shortest": 0}, {"shortest": 5}, {"word_weight": -1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match="needed: dimension >= 1"):
        Hashing(**options)
