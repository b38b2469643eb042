"""Vectors kept on disk are the inner embedder's own, asked for once, whatever happens to the file."""

from __future__ import annotations

import numpy as np
import pytest

from eval.kept_embedder import KeptEmbedder


class Counting:
    """Letters counted, as unit vectors; notes what it is asked."""

    dimension = 3

    def __init__(self, fingerprint="counting-1"):
        self.fingerprint = fingerprint
        self.asked = []

    def embed(self, texts):
        self.asked += texts
        rows = np.array([[len(text), text.count("a"), 1.0] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def kept(folder, inner):
    return KeptEmbedder(inner, name="tiny", folder=folder)


def test_a_text_is_embedded_once_per_machine(tmp_path):
    first, second = Counting(), Counting()
    vectors = kept(tmp_path, first).embed(["a", "bb", "a"])
    again = kept(tmp_path, second)
    assert np.array_equal(again.embed(["bb", "a", "new"])[:2], vectors[[1, 0]])
    assert first.asked == ["a", "bb"]
    assert second.asked == ["new"]
    assert again.embed([]).shape == (0, 3)


def test_another_embedder_has_a_file_of_its_own(tmp_path):
    kept(tmp_path, Counting()).embed(["a"])
    other = Counting("counting-2")
    kept(tmp_path, other).embed(["a"])
    assert other.asked == ["a"]


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_anew(tmp_path, content):
    kept(tmp_path, Counting()).embed(["a", "b"])
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    inner = Counting()
    kept(tmp_path, inner).embed(["a", "b"])
    assert inner.asked == ["a", "b"]
    kept(tmp_path, other := Counting()).embed(["a", "b"])
    assert other.asked == []


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("in the way")
    embedder = kept(tmp_path / "file", Counting())
    assert embedder.embed(["a"]).shape == (1, 3)
