"""Artefact files: whole or absent, and never read as something they are not."""

from __future__ import annotations

import numpy as np
import pytest

from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError

KIND = ArtefactKind("skill_index", 3)


def test_fields_and_arrays_come_back(tmp_path):
    path = tmp_path / "new" / "folder" / "state.bin"
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    KIND.save(path, {"skills": ["día", "\ud800"], "n": 2, "none": None}, {"rows": rows})
    loaded = KIND.load(path)
    assert loaded.fields == {"skills": ["día", "\ud800"], "n": 2, "none": None}
    assert np.array_equal(loaded.arrays["rows"], rows)
    assert [p.name for p in path.parent.iterdir()] == ["state.bin"]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "state"
    KIND.save(path, {"n": 1}, {})
    with pytest.raises(ValueError, match="allow_pickle"):
        KIND.save(path, {"n": 2}, {"bad": np.array([object()])})
    assert KIND.load(path).fields == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_missing_damaged_and_foreign_files_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"no saved skill_index .*fit the skill_index again"):
        KIND.load(tmp_path / "absent")
    whole = tmp_path / "whole"
    KIND.save(whole, {"n": 1}, {"rows": np.zeros(2000)})
    for damaged in (b"", b"no zip at all", whole.read_bytes()[:500]):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ConfigError, match="not a readable skill_index"):
            KIND.load(tmp_path / "damaged")
    np.savez(tmp_path / "foreign.npz", rows=np.zeros(2))
    with pytest.raises(ConfigError, match="not a readable"):
        KIND.load(tmp_path / "foreign.npz")


@pytest.mark.parametrize("other", [ArtefactKind("skill_index", 2), ArtefactKind("skill_families", 3)])
def test_another_kind_or_version_is_refused(tmp_path, other):
    other.save(tmp_path / "state", {}, {})
    with pytest.raises(
        ConfigError, match=f"holds a {other.name} of format {other.version}, needed is a skill_index of"
    ):
        KIND.load(tmp_path / "state")


def test_another_embedder_is_refused(tmp_path):
    KIND.save(tmp_path / "state", {"embedder": "a"}, {})
    KIND.load(tmp_path / "state").check_embedder("a")
    with pytest.raises(ConfigError, match=r"fitted with the embedder 'a', this one is 'b'"):
        KIND.load(tmp_path / "state").check_embedder("b")
