"""Whether the service is alive, and whether it is ready for work."""

from __future__ import annotations

from router_service.http.base import EngineLike

__all__ = ["Health"]


class Health:
    """Alive from the first moment; ready once started, until told to stop, while some expert is enabled."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine
        self.is_started = False
        self.is_stopping = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the service is not ready; empty where it is."""
        has_expert = any(expert.is_enabled for expert in self._engine.pool.experts)
        checks = {
            "starting": not self.is_started,
            "shutting_down": self.is_stopping,
            "no_expert_enabled": not has_expert,
        }
        return tuple(reason for reason, holds in checks.items() if holds)
