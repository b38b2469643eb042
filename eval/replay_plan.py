"""What a replay judges, and how: pools, recruiters, aggregators, sizes, seeds and splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from aggregators.base import AGGREGATORS
from eval.datasets import Dataset
from router_service.errors import ConfigError, UnknownNameError
from router_service.recruit.base import RECRUITERS
from router_service.types import MAX_K

__all__ = ["FREE", "FREE_NAME", "ReplayPlan", "Strategy", "parse_k"]

FREE = None
"""In place of a number of completions: each recruiter sizes its panel itself."""

FREE_NAME = "free"

_FAST_EMBEDDER = "minilm_onnx"
_NOT_JUDGED = "named"
"""Obeys the query; there is nothing to judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """Who recruits, what aggregates, how many completions (None: the recruiter's own choice, up to `MAX_K`).

    `is_shuffled` marks the control that learns from grades shuffled over the questions.
    """

    recruiter: str
    aggregator: str
    k: int | None
    is_shuffled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """Which strategies to judge: every pool with every recruiter, aggregator and k.

    Raises `ConfigError` for a k that is out of bounds, too few seeds, or a split that is both fitted and judged.
    """

    pools: tuple[str, ...] = ()
    """Named pools; empty is every pool of the dataset."""
    recruiters: tuple[str, ...] = ()
    """Registered names; empty is every recruiter, those that cannot be fitted on a pool being left out there."""
    aggregators: tuple[str, ...] = ("majority",)
    ks: tuple[int | None, ...] = (3,)
    """Completions per question; `FREE` leaves it to each recruiter (who does not size panels takes its default)."""
    embedder: str = _FAST_EMBEDDER
    seed: int = 0
    n_seeds: int = 1
    """Seeds `seed`, `seed` + 1 and so on; a strategy whose first two seeds decide and answer alike needs no more."""
    fit_on: tuple[str, ...] = ("fit",)
    """Splits to learn from; a dataset that lacks one of several is fitted on the others."""
    split: str = "test"
    """The split that is judged."""
    uses_responses: bool = False
    """Whether experts are replayed with their full texts, where these are recorded: for aggregators that read them."""
    has_shuffled_control: bool = False
    """Whether every strategy is also fitted on shuffled grades, which must cost it all but the knowledge of who is
    strong."""
    cache_dir: Path | None = None
    """Where embeddings are kept; unset is the user's cache."""
    results_dir: Path | None = None
    """Where finished strategies are kept, so that an interrupted replay goes on; unset keeps none."""

    def __post_init__(self) -> None:
        for k in self.ks:
            _check_k(k)
        if not self.ks or not self.aggregators:
            raise ConfigError("a replay needs at least one aggregator and one k")
        if self.n_seeds < 1:
            raise ConfigError(f"{self.n_seeds} seeds; a replay needs 1 or more")
        if not self.fit_on or self.split in self.fit_on:
            raise ConfigError(
                f"fitted on {' + '.join(self.fit_on) or 'nothing'} and judged on {self.split!r}: "
                "fit on at least one split, and judge on another"
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed, in order."""
        return tuple(range(self.seed, self.seed + self.n_seeds))

    @property
    def names_recruiters(self) -> bool:
        """True where the recruiters were chosen by name: one that cannot be fitted is then an error."""
        return bool(self.recruiters)

    def recruiter_names(self) -> tuple[str, ...]:
        """The recruiters to judge; raises `UnknownNameError`."""
        every = tuple(name for name in RECRUITERS.names() if name != _NOT_JUDGED) if self._needs_every() else ()
        names = self.recruiters or every
        for name in names:
            if name == _NOT_JUDGED:
                raise UnknownNameError("recruiter", name, every)
            RECRUITERS.factory(name)
        for name in self.aggregators:
            AGGREGATORS.factory(name)
        return names

    def _needs_every(self) -> bool:
        """Listing every recruiter imports all of them, which takes its time."""
        return not self.recruiters or _NOT_JUDGED in self.recruiters

    def strategies(self, *, is_shuffled: bool = False) -> Iterator[Strategy]:
        """Each strategy in the order asked for: by recruiter, aggregator, k."""
        for recruiter, aggregator, k in product(self.recruiter_names(), self.aggregators, self.ks):
            yield Strategy(recruiter=recruiter, aggregator=aggregator, k=k, is_shuffled=is_shuffled)

    def pools_of(self, dataset: Dataset) -> tuple[str, ...]:
        """The pools to judge there: the named ones that it has, or all."""
        return tuple(name for name in self.pools if name in dataset.pools) if self.pools else tuple(dataset.pools)

    def fitted_splits(self, dataset: Dataset) -> tuple[str, ...]:
        """The splits to fit on that the dataset has, each once: named twice, its outcomes would count twice."""
        present = {question.split for question in dataset.questions}
        return tuple(split for split in dict.fromkeys(self.fit_on) if split in present)

    def require(self, datasets: Sequence[Dataset]) -> None:
        """Raise `UnknownNameError` for a pool or split that none of the datasets has, and `ConfigError` for a dataset
        of which nothing would be judged or fitted."""
        names = " and ".join(dataset.name for dataset in datasets)
        splits = {question.split for dataset in datasets for question in dataset.questions}
        _require(self.pools, {pool for dataset in datasets for pool in dataset.pools}, f"pool of {names}")
        _require((*self.fit_on, self.split), splits, f"split of {names}")
        for dataset in datasets:
            dataset.split(self.split)
            if not self.pools_of(dataset) or not self.fitted_splits(dataset):
                raise ConfigError(
                    f"dataset {dataset.name} has none of the pools ({', '.join(self.pools) or 'any'}), or none of the "
                    f"splits to fit on ({', '.join(self.fit_on)}); leave it out, or name others"
                )


def parse_k(text: str) -> int | None:
    """A number of completions as written on a command line: 1 to `MAX_K`, or "free"; raises `ConfigError`."""
    if text.strip().casefold() == FREE_NAME:
        return FREE
    try:
        k = int(text)
    except ValueError:
        raise ConfigError(f"k is {text!r}; give a number from 1 to {MAX_K}, or {FREE_NAME!r}") from None
    _check_k(k)
    return k


def _check_k(k: int | None) -> None:
    if k is not None and not 1 <= k <= MAX_K:
        raise ConfigError(
            f"k is {k}; it is the number of completions per question, 1 to {MAX_K}, or {FREE_NAME!r} to leave it to "
            "the recruiter"
        )


def _require(names: Iterable[str], allowed: set[str], kind: str) -> None:
    for name in names:
        if name not in allowed:
            raise UnknownNameError(kind, name, allowed)
