"""How experts are worked: quorum, back-off, concurrency and the deadline of queries that bring none."""

from __future__ import annotations

from dataclasses import dataclass

from router_service.errors import ConfigError

__all__ = ["DispatchSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """Settings of the runner; raises `ConfigError` for a value out of range."""

    quorum: int | None = None
    """Successful completions after which a panel may end early; None waits for every member."""
    straggler_grace_s: float = 0.0
    """Seconds the rest of a panel still gets once the quorum is reached; then it is cancelled."""
    backoff_initial_s: float = 0.25
    """Longest pause before the first retry; doubles with every further one."""
    backoff_max_s: float = 8.0
    """Longest pause between two tries, unless the expert itself asks for more."""
    retry_after_max_s: float = 60.0
    """An expert that asks to be left alone for longer than this is given up at once."""
    jitter: float = 0.5
    """Share of each pause that is drawn at random, in [0, 1]: 0 pauses in full, 1 anywhere between 0 and the full."""
    jitter_seed: int = 0
    """Seed of that draw."""
    max_parallel_batched: int = 1
    """Batches of embedded engines that run at once; 1 means one model in memory at a time."""
    default_deadline_s: float | None = None
    """Deadline in seconds of a query whose budget has none; None is no limit."""

    def __post_init__(self) -> None:
        for name in ("quorum", "max_parallel_batched"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"dispatch {name} is {value}; it must be 1 or more")
        for name in ("straggler_grace_s", "backoff_initial_s", "backoff_max_s", "retry_after_max_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"dispatch {name} is {getattr(self, name)}; it must be 0 or more seconds")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"dispatch jitter is {self.jitter}; it must lie between 0 and 1")
        if self.default_deadline_s is not None and not self.default_deadline_s > 0:
            raise ConfigError(
                f"dispatch default_deadline_s is {self.default_deadline_s}; it must be above 0, or None for no limit"
            )
