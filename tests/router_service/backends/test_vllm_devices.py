"""Where engines can be: what is given, what is found, and what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from router_service.backends._vllm_devices import EngineDevice, find_devices, given_devices, visible_gpus
from router_service.backends.base import BACKENDS, Device
from router_service.errors import ConfigError


def test_devices_are_given_by_name() -> None:
    found = given_devices(
        [{"name": "pair", "gpus": "0, 1", "memory_gib": 48}, {"name": "one", "gpus": 2}, {"name": "here"}]
    )
    assert found == (
        EngineDevice(name="pair", memory_gib=48.0, gpus=("0", "1")),
        EngineDevice(name="one", gpus=("2",)),
        EngineDevice(name="here"),
    )
    assert [device.is_processor for device in found] == [False, False, True]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "give at least one"),
        ([{"name": "a"}, {"name": "a"}], "each once"),
        ([{"gpus": "0"}], "needs a name"),
        ([{"name": "a", "gpu": "0"}], r"no key 'gpu'. Did you mean 'gpus'\? Allowed: gpus, memory_gib, name"),
        ([{"name": "a", "memory_gib": 0}], "memory_gib is 0; give a number above 0"),
        ([{"name": "a", "memory_gib": True}], "memory_gib is True"),
    ],
)
def test_devices_that_make_no_sense(entries: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        given_devices(entries)


def test_options_come_through_the_registry() -> None:
    backend = BACKENDS.create("vllm", {"devices": [{"name": "gpu", "gpus": "0", "memory_gib": 80}], "threads": "2"})
    assert backend.devices() == (Device(name="gpu", memory_gib=80.0),)
    with pytest.raises(ConfigError, match=r"'pyhton'.*'python'"):
        BACKENDS.create("vllm", {"pyhton": "x"})
    with pytest.raises(ConfigError, match="option 'devices'"):
        BACKENDS.create("vllm", {"devices": "cpu"})


def environment_with(folder: Path, *rows: str, **more: str) -> dict[str, str]:
    program = folder / "nvidia-smi"
    lines = "\n".join(rows)
    program.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{lines}\nEND\n")
    program.chmod(0o755)
    return {"PATH": str(folder), **more}


ROWS = ("0, GPU-aa, 24576", "1, GPU-bb, 81920", "2, GPU-cc, 81920")


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, {"0": 24.0, "1": 80.0, "2": 80.0}),
        ("1,0", {"0": 24.0, "1": 80.0}),
        ("GPU-c", {"2": 80.0}),
        ("", {}),
        ("-1", {}),
    ],
)
def test_visible_gpus(
    tmp_path: Path, visible: str | None, found: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    environment = environment_with(tmp_path, *ROWS, **more)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus(environment) == found


def test_without_gpus_it_is_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({"PATH": str(tmp_path)}) == {}
    [device] = find_devices({"PATH": str(tmp_path)})
    assert device.name == "cpu" and device.is_processor and 0.5 < (device.memory_gib or 0) < 100_000
    broken = environment_with(tmp_path, "No devices were found")
    assert visible_gpus(broken) == {}
