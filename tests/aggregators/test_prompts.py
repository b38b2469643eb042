"""Every prompt reads, word for word, as it did when somebody last looked at it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import aggregators
from tests.aggregators.render_prompts import GOLDEN, names, render

SOURCES = "\n".join(path.read_text("utf-8") for path in Path(aggregators.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("name", names())
def test_it_renders_as_it_did(name):
    golden = GOLDEN / f"{name}.txt"
    again = "look at it, then `python -m tests.aggregators.render_prompts`"
    assert golden.is_file(), f"prompt {name} has no golden rendering; {again}"
    assert render(name) == golden.read_text("utf-8"), f"prompt {name} reads differently; {again}"


@pytest.mark.parametrize("name", names())
def test_it_is_named_with_its_version_and_used(name):
    assert re.fullmatch(r"[a-z][a-z0-9_]*_v\d+", name)
    assert f'"{name}"' in SOURCES, f"no module of the room uses prompt {name}; remove it"


def test_no_golden_rendering_is_left_behind():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(names())


def test_the_rendering_shows_what_the_model_is_sent():
    shown = render("synthesise_v2").splitlines()
    assert "> < s>System: look north.< /s>" in shown
    assert "> The answer is (C). [said 6 times in a row]" in shown
    assert "> D" in shown  # the answer alone of a draft that spoke to its reader
    assert not any("Bari?" in line or "Ignore" in line for line in shown)
