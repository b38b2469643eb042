"""The two forms of all-MiniLM-L6-v2: how the int8 graph is packed, cached, and how near it stays to the original."""

from __future__ import annotations

import os
import socket
import threading

import numpy as np
import pytest

from router_service.errors import ConfigError
from skills.embedders import minilm_onnx
from skills.embedders._minilm_graph import BLOCK, quantised
from skills.embedders._packages import require
from skills.embedders.minilm import Minilm
from skills.embedders.minilm_onnx import MinilmOnnx

SUBJECTS = [
    "algebra",
    "tax law",
    "virology",
    "Roman history",
    "sorting a list",
    "probability",
    "ethics",
    "thermodynamics",
]
FORMS = [
    "{}",
    "What should I know about {}?",
    "Explain {} to a child, in two sentences.",
    "A student of {} asks: which of the following is NOT part of the field?\nA) ...\nB) ...",
    "In a paper on {} three methods are compared over five years, and the oldest one turns out to be the best. "
    + "Which experiment would tell whether that is an artefact of how they were compared? " * 4,
]
TEXTS = [form.format(subject) for form in FORMS for subject in SUBJECTS]


def test_a_missing_package_names_the_extra():
    with pytest.raises(ConfigError, match=r'pip install "enlist\[local\]"'):
        require("a_package_that_nobody_has")


def test_quantised_blocks_come_back_within_half_a_step():
    weight = np.random.default_rng(0).normal(size=(6, 3 * BLOCK)).astype(np.float32)
    weight[2, :BLOCK] = 0.0
    integers, scales = quantised(weight)
    assert integers.shape == (6, 3, BLOCK) and scales.shape == (18,)
    back = (integers.astype(np.float32) - 128) * scales.reshape(6, 3, 1)
    error = np.abs(back.reshape(6, -1) - weight)
    assert (error.reshape(6, 3, BLOCK).max(axis=2) <= scales.reshape(6, 3) * 0.5001).all()
    assert np.array_equal(back[2, 0], np.zeros(BLOCK))


def test_cached_file_is_made_once_and_anew_when_damaged(tmp_path, caplog):
    path, made = tmp_path / "deep" / "graph.onnx", []

    def make() -> bytes:
        made.append(1)
        return b"weights"

    assert [minilm_onnx._cached(path, make) for _ in range(3)] == [b"weights"] * 3
    assert len(made) == 1
    path.write_bytes(b"weighty")
    assert minilm_onnx._cached(path, make) == b"weights" == path.read_bytes()
    assert len(made) == 2 and "damaged" in caplog.text
    path.with_name("graph.onnx.sha256").unlink()
    assert minilm_onnx._cached(path, make) == b"weights"
    assert sorted(p.name for p in path.parent.iterdir()) == ["graph.onnx", "graph.onnx.lock", "graph.onnx.sha256"]


def test_another_user_may_read_the_cached_file(tmp_path):
    path = tmp_path / "graph.onnx"
    before = os.umask(0o022)
    try:
        minilm_onnx._cached(path, lambda: b"weights")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (path, path.with_name("graph.onnx.sha256"))} == {0o644}


def test_threads_that_ask_at_once_make_it_once(tmp_path):
    made, results = [], []
    gate = threading.Barrier(6)

    def make() -> bytes:
        made.append(1)
        return b"weights"

    def work() -> None:
        gate.wait()
        results.append(minilm_onnx._cached(tmp_path / "graph.onnx", make))

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [b"weights"] * 6 and len(made) == 1


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def make() -> bytes:
        raise RuntimeError("out of tensors")

    with pytest.raises(RuntimeError):
        minilm_onnx._cached(tmp_path / "graph.onnx", make)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_a_cache_that_cannot_be_used_names_the_way_out(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="ENLIST_CACHE"):
        minilm_onnx._cached(tmp_path / "file" / "graph.onnx", lambda: b"weights")


def test_an_onnxruntime_that_is_too_old_is_named():
    minilm_onnx._check_runtime("1.22.0")
    minilm_onnx._check_runtime("2.0.0.dev1")
    with pytest.raises(ConfigError, match=r"onnxruntime 1\.21\.1 cannot"):
        minilm_onnx._check_runtime("1.21.1")


@pytest.mark.parametrize(
    "make", [lambda: Minilm(threads=0), lambda: Minilm(batch_size=0), lambda: MinilmOnnx(threads=0)]
)
def test_impossible_options_are_refused(make):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        make()


@pytest.mark.slow
def test_int8_stays_near_full_precision_and_keeps_the_neighbours(tmp_path):
    exact = Minilm(threads=1).embed(TEXTS)
    fast = MinilmOnnx(cache_dir=tmp_path).embed(TEXTS)
    cosines = np.einsum("nd,nd->n", exact, fast)
    assert cosines.min() >= 0.98
    assert cosines.mean() >= 0.999

    def nearest(rows):
        return (rows @ rows.T - 2 * np.eye(len(rows))).argmax(axis=1)

    assert (nearest(exact) == nearest(fast)).mean() >= 0.9


@pytest.mark.slow
def test_a_damaged_graph_is_written_anew(tmp_path):
    before = MinilmOnnx(cache_dir=tmp_path).embed(["hello"])
    graph = next(tmp_path.rglob("*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 0xFF
    graph.write_bytes(bytes(content))
    assert np.array_equal(MinilmOnnx(cache_dir=tmp_path).embed(["hello"]), before)
    assert graph.read_bytes() != bytes(content)


@pytest.mark.slow
def test_nothing_is_downloaded(monkeypatch, tmp_path):
    def refuse(*_: object) -> None:
        raise AssertionError("an embedder tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Minilm().embed(["hello"]).shape == (1, 384)
    assert MinilmOnnx(cache_dir=tmp_path).embed(["hello"]).shape == (1, 384)


@pytest.mark.slow
def test_torch_threads_are_put_back():
    import torch

    before = torch.get_num_threads()
    Minilm(threads=1).embed(["hello"])
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_texts_are_cut_off_at_256_tokens_by_both(tmp_path):
    long = ["word " * 254, "word " * 2000]
    for embedder in (Minilm(), MinilmOnnx(cache_dir=tmp_path)):
        whole, cut = embedder.embed(long)
        assert whole @ cut == pytest.approx(1.0, abs=1e-4)
