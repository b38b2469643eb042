"""The name under which `router_service.files` was imported before; import it from there."""

from __future__ import annotations

from router_service.files import write_atomically

__all__ = ["write_atomically"]
