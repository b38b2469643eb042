"""The skills an LLM names over several runs: how a reply is read, and which names are kept (Symbolic-MoE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from router_service.errors import ConfigError

__all__ = ["SkillVote", "parse_skills"]

MARK = "Keywords:"


def parse_skills(reply: str) -> tuple[str, ...]:
    """The names after the last `Keywords:`, split at commas, stripped, in lower case, without full stops or blanks.

    A reply without the mark is read whole, as the released code of Symbolic-MoE does; the vote drops what is no name.
    """
    listed = reply.rpartition(MARK)[2]
    names = (part.lower().replace(".", "").strip() for part in listed.split(","))
    return tuple(name for name in names if name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillVote:
    """Which names of all runs are kept: short enough and named often enough (Symbolic-MoE, released code)."""

    max_characters: int = 20
    """Longer names are dropped, however often they come."""
    min_votes: int = 2
    """Occurrences needed; the paper's "more than once"."""
    count_once_per_run: bool = False
    """False counts the flat list of all runs, as released: a name printed twice in one run passes. True counts runs."""

    def __post_init__(self) -> None:
        if self.max_characters < 1 or self.min_votes < 1:
            raise ConfigError(
                f"skill vote: max_characters={self.max_characters}, min_votes={self.min_votes}; both must be 1 or more"
            )

    def kept(self, runs: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """The names that pass, each once, in order of first appearance."""
        counted = (dict.fromkeys(run) if self.count_once_per_run else run for run in runs)
        votes = Counter(name for run in counted for name in run)
        return tuple(
            name for name, count in votes.items() if count >= self.min_votes and len(name) <= self.max_characters
        )
