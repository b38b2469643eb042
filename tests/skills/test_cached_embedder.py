"""The embedder's memory: bounded, least recently used first out, shared between threads, never changing a vector."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from router_service.errors import ConfigError, UnknownNameError
from skills.cached_embedder import CachedEmbedder, open_embedder
from skills.embedders.hashing import Hashing
from tests.skills.fakes import CountingEmbedder


def test_asks_for_what_is_new_only():
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner)
    cached.embed(["a", "b", "a"])
    cached.embed(["b", "c"])
    assert inner.batches == [["a", "b"], ["c"]]
    assert len(cached) == 3


def test_rows_are_those_of_the_embedder_inside():
    texts = ["a", "b", "a", "", "c"]
    cached = CachedEmbedder(Hashing(64))
    for _ in range(2):
        assert np.array_equal(cached.embed(texts), Hashing(64).embed(texts))
    assert cached.embed([]).shape == (0, 64)
    assert (cached.dimension, cached.fingerprint) == (64, Hashing(64).fingerprint)


def test_the_least_recently_used_leaves_first():
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner, capacity=2)
    cached.embed(["a"])
    cached.embed(["b"])
    cached.embed(["a"])
    cached.embed(["c"])
    inner.batches.clear()
    cached.embed(["a"])
    cached.embed(["b"])
    assert inner.batches == [["b"]]
    assert len(cached) == 2


def test_a_batch_larger_than_the_memory_still_comes_out_whole():
    cached = CachedEmbedder(Hashing(64), capacity=2)
    texts = [f"text {i}" for i in range(9)]
    assert np.array_equal(cached.embed(texts), Hashing(64).embed(texts))
    assert len(cached) == 2


def test_changing_a_row_does_not_change_the_memory():
    cached = CachedEmbedder(Hashing(64))
    cached.embed(["a"])[:] = 0.0
    assert np.array_equal(cached.embed(["a"]), Hashing(64).embed(["a"]))


def test_threads_share_it():
    cached, wrong = CachedEmbedder(Hashing(32), capacity=5), []
    expected = {text: Hashing(32).embed([text])[0] for text in map(str, range(12))}

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        for _ in range(150):
            texts = [str(number) for number in order.integers(0, 12, size=4)]
            rows = cached.embed(texts)
            wrong.extend(t for t, row in zip(texts, rows, strict=True) if not np.array_equal(row, expected[t]))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert len(cached) == 5


def test_capacity_must_be_positive():
    with pytest.raises(ConfigError, match="1 or more"):
        CachedEmbedder(Hashing(8), capacity=0)


def test_a_name_opens_one_shared_embedder_and_an_embedder_is_taken_as_it_is():
    own = Hashing(16)
    assert open_embedder(own) is own
    assert open_embedder("hashing") is open_embedder("hashing")
    with pytest.raises(UnknownNameError, match="Did you mean 'hashing'"):
        open_embedder("hashin")
