"""Rights that are passed in: to ask an expert, to have it read texts, to run programs, to keep completions.

Import it from `router_service.types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from router_service._types_asked import Query
from router_service._types_results import Completion

__all__ = ["Ask", "CompletionMemo", "ExecutingAsk", "Execution", "Program", "ScoringAsk", "TextScore"]


@runtime_checkable
class Ask(Protocol):
    """The right to call an expert, passed in: budgeted, and coalesced with other calls to the same expert."""

    async def __call__(self, expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
        """One completion of `query` by `expert_id`.

        A failed call is a `Completion` with `error` set. With `is_visible` the text becomes the answer, so its tokens
        are streamed to the caller as they come. Raises `BudgetExceeded` where the query's budget does not cover it,
        `UnknownNameError` for an expert that is not registered, and
        `NoExpertAvailable` for one that is switched off or that the query rules out.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """How likely a model finds a text as the answer to a query: the sum of its tokens' log-probabilities (nats,
    temperature 1), and how many tokens it has."""

    logprob_sum: float
    tokens: int

    @property
    def mean_logprob(self) -> float:
        """Nats per token; minus this is the mean negative log-likelihood. 0 for an empty text."""
        return self.logprob_sum / self.tokens if self.tokens else 0.0


@runtime_checkable
class ScoringAsk(Ask, Protocol):
    """An `Ask` that can also have an expert read given texts."""

    def can_score(self, expert_id: str) -> bool:
        """Whether the expert's backend reads texts at all."""
        ...

    async def score(self, expert_id: str, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """How likely the expert finds each text as the answer to its query, in order; the first query's budget pays
        one completion a text. Raises `BudgetExceeded`, or an `ExpertError` where the expert cannot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program nobody trusts, to be run in a sandbox: Python source, and what it reads from standard input."""

    source: str
    stdin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a program ended. `stopped_by` names the limit that ended it (`time`, `cpu`, `memory`, `output`, `processes`),
    None where it ended by itself; texts are cut at the sandbox's output limit."""

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    stopped_by: str | None = None
    wall_s: float = 0.0

    @property
    def passed(self) -> bool:
        """True where it ended by itself, without an error."""
        return self.exit_code == 0 and self.stopped_by is None


@runtime_checkable
class ExecutingAsk(Ask, Protocol):
    """An `Ask` that can also run programs in a sandbox."""

    async def execute(self, query: Query, programs: Sequence[Program]) -> list[Execution]:
        """How each program ended, in order; the time counts against the query's deadline. Raises `ConfigError` where
        this machine has no sandbox, or it is switched off."""
        ...


@runtime_checkable
class CompletionMemo(Protocol):
    """Completions that outlive a process, so that no finished one is paid for twice; keys are opaque texts."""

    async def recall(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Those of the keys that are kept, each with its completion."""
        ...

    async def keep(self, key: str, completion: Completion) -> None:
        """Keep a completion; returns when it would survive a kill. Keeping a key twice leaves the first."""
        ...
