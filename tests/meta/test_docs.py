"""The docs say what the code does: tables come from the schemas, links lead somewhere, nothing private is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.meta.reference import PAGE, page
from tests.meta.source import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "experts_registry").rglob("*.md")])


def test_the_configuration_reference_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.meta.reference"


def test_every_key_is_explained() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert rows and not [row for row in rows if row.rstrip().endswith("|  |")]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_hold_no_placeholders(path: Path) -> None:
    assert not re.findall(r"@@\w+@@|TODO|FIXME|\bTBD\b", path.read_text(encoding="utf-8"))
