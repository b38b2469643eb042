"""Whether this machine has a sandbox, for the tests that run programs in one; without it they are skipped loudly."""

from __future__ import annotations

import asyncio
import functools

import pytest

from router_service.dispatch.sandbox import Sandbox
from router_service.errors import ConfigError
from router_service.types import Program

__all__ = ["needs_sandbox"]


@functools.cache
def problem() -> str | None:
    """Why there is no sandbox here; None where there is."""
    try:
        asyncio.run(Sandbox().run(Program(source="pass")))
    except ConfigError as missing:
        return missing.message
    return None


needs_sandbox = pytest.mark.skipif(problem() is not None, reason=f"SANDBOX NOT CHECKED: {problem()}")
