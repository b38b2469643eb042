"""The golden fixtures of the seeds, where this checkout has them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "golden" / "seeds_golden.json"


def golden(section: str) -> Any:
    """One section of the golden file; skips the test, loudly, where the file is missing."""
    path = Path(os.environ.get("ENLIST_GOLDEN", _DEFAULT))
    if not path.is_file():
        pytest.skip(f"NO GOLDEN FIXTURES: {path} is missing; set ENLIST_GOLDEN to the golden file to run this test")
    return json.loads(path.read_text(encoding="utf-8"))[section]
