"""The backend's contract: one expert's batch in, a stream of completions (and token deltas) out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from router_service.plugins import Registry
from router_service.types import Completion, Expert, ExpertBatch, Query, TextScore, TokenDelta

__all__ = [
    "BACKENDS",
    "Backend",
    "Device",
    "DeviceLost",
    "Footprint",
    "ResidentBackend",
    "ScoringBackend",
]


class Backend(ABC):
    """One way to reach experts. One instance serves all experts of the pool that name it."""

    is_batched: ClassVar[bool] = False
    """True where a whole `ExpertBatch` belongs in one call (an embedded engine); False where each assignment is a call
    of its own (a server), so that the runner can limit, retry and cancel them one by one."""

    extracts_answers: ClassVar[bool] = False
    """True where `Completion.extracted` is already right, None included (recorded outcomes): nobody reads the text
    again."""

    @abstractmethod
    def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        """Completions as they finish: every sample of every assignment exactly once, in any order.

        Each has its text, usage (tokens; `cost_usd` only where the backend knows better than the price list, else
        None) and latency. Token deltas come only for assignments with `streams`. What fails one assignment is a
        `Completion` with `error`; what fails the call raises an `ExpertError`. Closing the iterator, or cancelling
        the task that reads it, ends the upstream work.
        """

    def check(self, expert: Expert) -> None:  # noqa: B027  (a backend without demands needs none)
        """Raise `ConfigError` where the expert's entry (address, adapter, weights, options) cannot work here."""

    async def aclose(self) -> None:  # noqa: B027  (most backends hold nothing)
        """Give back connections, processes and memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A place where models can be resident: a GPU (or a group of them), a node, this machine's processor.

    `memory_gib` is what models may take there in all, None where nobody says; `max_models` how many may be there.
    """

    name: str
    memory_gib: float | None = None
    max_models: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What it takes to have an expert's model on a device; experts of one `model` share it there.

    `load_s` and `wake_s` are estimates of reading it in and of waking it from sleep (None: it cannot sleep there);
    `tokens_per_s` of all requests together. `turn` says what may run at the same time on one resident model: works of
    one turn, at most `max_works` of them. `memory_gib` None is unknown, and then counts as all memory of a device.
    """

    model: str
    turn: str
    memory_gib: float | None = None
    load_s: float = 10.0
    wake_s: float | None = None
    tokens_per_s: float = 100.0
    max_works: int = 1


class DeviceLost(Exception):
    """A device is gone (its node died, its driver broke): what was not finished there is to be done elsewhere."""

    def __init__(self, device: str, message: str) -> None:
        super().__init__(message)
        self.device = device
        self.message = message


class ResidentBackend(Backend):
    """A backend whose models take memory on devices: the runner's scheduler says which is where, and when.

    `complete` gets an `ExpertBatch` whose `device` holds the expert's model by then. It raises `DeviceLost` where the
    device is gone; whatever else befalls a model (it crashed, it does not fit) is an `ExpertUnavailable` as usual, and
    its next `load` begins anew.
    """

    is_batched: ClassVar[bool] = True

    @abstractmethod
    def devices(self) -> tuple[Device, ...]:
        """Where this backend can hold models; asked when work comes, so that devices may come and go."""

    def resides(self, expert: Expert) -> bool:
        """Whether the expert's model needs a device; where it does not (a server that is there already holds it), its
        calls go out one by one, like those of any server, and their batches name no device."""
        return True

    @abstractmethod
    def footprint(self, expert: Expert) -> Footprint:
        """What the expert's model takes; better estimates may come with experience. Never blocks, loads nothing."""

    @abstractmethod
    async def load(self, expert: Expert, *, device: str) -> None:
        """Have the expert's model resident and awake on the device; nothing to do where it is.

        May run while another model works there (prefetch). Raises `ExpertUnavailable` where it cannot be loaded, and
        `DeviceLost`; cancelling it leaves nothing half-loaded.
        """

    @abstractmethod
    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        """Give the model's memory on the device back, keeping it asleep where `sleeps` and the platform can.

        Returns when the memory is free; nothing to do where the model is not there. Never raises for a model that
        crashed.
        """


@runtime_checkable
class ScoringBackend(Protocol):
    """A backend that can also read given texts: what a consensus of experts asks of each
    (recruiter `consensus_select`; github.com/Tinaliu0123/speculative-verdict, commit 44200842)."""

    async def score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """How likely the expert finds each text as the answer to its query, in the order given.

        The text is read as the assistant's turn, after the query with persona and chat template; the end of the turn
        is not counted. Raises an `ExpertError` where one of them cannot be read.
        """
        ...


BACKENDS: Registry[Backend] = Registry("backend", "router_service.backends")
