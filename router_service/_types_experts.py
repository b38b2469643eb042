"""Who can answer: experts, their prices and limits, their profiles. Import it from `router_service.types`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router_service._types_asked import Sampling, Secret

__all__ = [
    "Expert",
    "ExpertLimits",
    "Prices",
    "Profile",
    "Tally",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices in USD per million tokens; a call without a price field costs 'unknown', not nothing."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLimits:
    """How hard an expert may be worked: calls at once, tries per call, seconds per call."""

    max_concurrency: int = 8
    max_attempts: int = 3
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One recruitable entry of a pool: a model behind a backend, with its price, limits and persona.

    `parameters_b` is in billions, `memory_gib` in GiB, `lora_base` the model folder or id that `adapter` sits on.
    `energy_j` and `latency_s` are what one completion typically takes, `released` is the model's date (ISO 8601).
    `options` holds what only its backend understands, checked by that backend when the pool is loaded.
    `address` stays out of the repr, since it may hold a password.
    """

    id: str
    model: str
    backend: str
    address: str | None = field(default=None, repr=False)
    api_key: Secret | None = None
    prices: Prices | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    modalities: frozenset[str] = frozenset({"text"})
    parameters_b: float | None = None
    memory_gib: float | None = None
    energy_j: float | None = None
    latency_s: float | None = None
    licence: str | None = None
    released: str | None = None
    lora_base: str | None = None
    adapter: str | None = None
    persona: str | None = None
    description: str | None = None
    sampling: Sampling = Sampling()
    limits: ExpertLimits = ExpertLimits()
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    is_enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Graded trials: `wins` is the sum of grades (0..1 each), `trials` their number."""

    wins: float = 0.0
    trials: int = 0

    @property
    def net(self) -> float:
        """Wins minus losses: the ±1 sum of Symbolic-MoE (section 3.1; released code, profile building)."""
        return 2.0 * self.wins - self.trials

    def rate(self, prior: float = 0.5, weight: float = 2.0) -> float:
        """The smoothed success rate `(wins + prior*weight) / (trials + weight)`: Beta posterior mean."""
        return (self.wins + prior * weight) / (self.trials + weight)

    def __add__(self, other: Tally) -> Tally:
        return Tally(wins=self.wins + other.wins, trials=self.trials + other.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one expert was seen to be good at: a tally overall, per skill and per category."""

    expert_id: str
    overall: Tally = Tally()
    skills: Mapping[str, Tally] = field(default_factory=dict)
    categories: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def support(self) -> int:
        """The number of graded questions behind this profile."""
        return self.overall.trials
