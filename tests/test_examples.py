"""The examples work as they are printed."""

from __future__ import annotations

import runpy

import pytest

from experts_registry.pool import load_pool
from tests.meta.source import ROOT


def test_the_example_pool_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CODER_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    pool = load_pool(ROOT / "examples" / "pool.yaml")
    assert [expert.id for expert in pool.enabled] == ["coder", "mathematician", "numerals"]
    assert (ROOT / "experts_registry" / "local" / "adapters" / "roman").samefile(pool.expert("numerals").adapter or "")


async def test_the_engine_runs_in_process(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "in_process.py"))
    assert await example["main"]() == "42"
    assert capsys.readouterr().out == "42, says a and b; 3 completions\n"
