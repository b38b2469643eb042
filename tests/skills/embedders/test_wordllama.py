"""The static embedder: the mean of token vectors, read from the package's files and from nowhere else."""

from __future__ import annotations

import socket
import subprocess
import sys

import numpy as np
import pytest

from router_service.errors import ConfigError
from skills.embedders.wordllama import DIMENSION, MAX_TOKENS, Wordllama, _folder

TEXTS = ["What is 17 times 24?", "Who ruled Rome after Augustus?", "Übergrößenträger ∑ 漢字"]


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r'pip install "enlist\[static\]"'):
        _folder("a_package_that_nobody_has")


def test_a_package_without_the_files_is_named() -> None:
    with pytest.raises(ConfigError, match="install wordllama"):
        _folder("skills")


@pytest.mark.slow
def test_vectors_are_those_of_the_packages_own_arithmetic() -> None:
    embedder = Wordllama()
    rows = embedder.embed(TEXTS)
    from wordllama.inference import WordLlamaInference

    tokeniser, table = embedder._loaded()
    assert np.abs(WordLlamaInference(table, tokeniser).embed(TEXTS, norm=True) - rows).max() < 1e-6


@pytest.mark.slow
def test_the_package_itself_is_not_imported() -> None:
    code = "import sys; from skills.embedders.wordllama import Wordllama; Wordllama().embed(['a text'])"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('wordllama' in sys.modules)"], check=True)


@pytest.mark.slow
def test_the_order_of_words_does_not_matter_and_words_do() -> None:
    same, turned, other = Wordllama().embed(["alpha beta gamma", "gamma alpha beta", "alpha beta delta"])
    assert same @ turned > 0.99 > same @ other


@pytest.mark.slow
def test_a_text_without_tokens_and_a_very_long_one_have_rows() -> None:
    empty, long, longer = Wordllama().embed(["", "word " * MAX_TOKENS, "word " * (MAX_TOKENS + 9)])
    assert empty.shape == (DIMENSION,) and np.isfinite(empty).all()
    assert long @ longer == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an embedder tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Wordllama().embed(["hello"]).shape == (1, DIMENSION)
