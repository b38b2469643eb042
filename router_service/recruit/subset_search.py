"""The best set of experts to keep within limits on sums such as energy and memory: MoE²'s coarse choice, searched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from router_service.recruit.strength import Floats

__all__ = ["KeptSubset", "SubsetProblem", "best_subset", "largest_subsets", "subset_value"]

_TIE = 1e-9
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetProblem:
    """P(correct) as `scores` (categories, experts), the `weights` of the categories, and `shares` (resources, experts):
    the part of each limit that an expert takes. A set fits where no resource's shares add up to more than 1; an expert
    that fits in no set, for being too slow say, has an infinite share."""

    scores: Floats
    weights: Floats
    shares: Floats

    def fits(self, members: Sequence[int]) -> bool:
        """Whether the set keeps to every limit, rounding allowed for."""
        return all(math.fsum(row) <= 1 + _ROUNDING for row in self.shares[:, list(members)].tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSubset:
    """The experts kept, in order, and what the best of them for each category reach on average."""

    members: tuple[int, ...]
    value: float


def subset_value(problem: SubsetProblem, members: Sequence[int]) -> float:
    """f(S): the weighted mean over the categories of the best member's score; -inf without members.

    This is the value under the best gate, which only grows with the set and is submodular. A fixed soft mixture of the
    members is neither: a bad expert more can lower it.
    """
    if not len(members):
        return -math.inf
    return math.fsum((problem.weights * problem.scores[:, list(members)].max(axis=1)).tolist())


def best_subset(problem: SubsetProblem) -> KeptSubset:
    """The set of the highest value that fits; of equals the one of fewest members, then of the least shares, then the
    earliest. No members where no expert fits.

    Branch and bound: an expert is taken or left, the one that gains most first. What can still come is bounded by
    taking all of the rest, and, the value being submodular, by filling each limit with the largest gains for it.
    """
    return _Search(problem).best()


def largest_subsets(problem: SubsetProblem) -> list[tuple[int, ...]]:
    """Every set that fits and that no expert can be added to: the only ones that can be best, as values only grow.
    Looks at every set, so for few experts."""
    fitting = [members for members in _all_sets(problem.shares.shape[1]) if problem.fits(members)]
    known = set(fitting)
    experts = range(problem.shares.shape[1])
    return [
        members
        for members in fitting
        if not any(tuple(sorted((*members, e))) in known for e in experts if e not in members)
    ]


def _all_sets(count: int) -> Iterator[tuple[int, ...]]:
    for number in range(1, 2**count):
        yield tuple(expert for expert in range(count) if number >> expert & 1)


@dataclass(frozen=True, slots=True)
class _Node:
    """A set on the way: its members, their best score in each category, their value and the shares they take."""

    members: tuple[int, ...]
    reached: Floats
    value: float
    used: Floats


class _Search:
    """One search, with the best set so far."""

    def __init__(self, problem: SubsetProblem) -> None:
        self._problem = problem
        self._found = KeptSubset(members=(), value=-math.inf)
        self._load = math.inf

    def best(self) -> KeptSubset:
        """Search the sets of all experts."""
        resources, experts = self._problem.shares.shape
        nobody = np.full(len(self._problem.weights), -np.inf)
        root = _Node(members=(), reached=nobody, value=-math.inf, used=np.zeros(resources))
        self._branch(root, range(experts))
        return self._found

    def _branch(self, node: _Node, rest: Sequence[int]) -> None:
        """Look at the set, and at those with some of the rest."""
        self._consider(node)
        rest = [e for e in rest if bool((node.used + self._problem.shares[:, e] <= 1 + _ROUNDING).all())]
        if not rest:
            return
        gains = self._gains(node, rest)
        order = np.argsort(-gains, kind="stable")
        rest, gains = [rest[place] for place in order.tolist()], gains[order]
        if self._can_win(node, rest, gains):
            self._branch(self._with(node, rest[0]), sorted(rest[1:]))
            self._branch(node, sorted(rest[1:]))

    def _with(self, node: _Node, expert: int) -> _Node:
        reached = np.maximum(node.reached, self._problem.scores[:, expert])
        return _Node(
            members=tuple(sorted((*node.members, expert))),
            reached=reached,
            value=self._value(reached),
            used=node.used + self._problem.shares[:, expert],
        )

    def _value(self, reached: Floats) -> float:
        return math.fsum((self._problem.weights * reached).tolist())

    def _gains(self, node: _Node, rest: Sequence[int]) -> Floats:
        """What each of the rest alone would add; its own value where nobody is in yet."""
        together = np.maximum(node.reached[:, None], self._problem.scores[:, rest])
        values = (self._problem.weights[:, None] * together).sum(axis=0)
        return np.asarray(values - node.value if node.members else values)

    def _can_win(self, node: _Node, rest: Sequence[int], gains: Floats) -> bool:
        """Whether a set with some of the rest can be better than the best found, or equal to it and no larger."""
        bound = self._value(np.maximum(node.reached, self._problem.scores[:, rest].max(axis=1)))
        start = node.value if node.members else 0.0
        for shares, spent in zip(self._problem.shares[:, rest], node.used.tolist(), strict=True):
            bound = min(bound, start + _filled(gains, shares, 1 + _ROUNDING - spent))
        if bound > self._found.value + _TIE:
            return True
        return bound >= self._found.value - _TIE and len(node.members) < len(self._found.members)

    def _consider(self, node: _Node) -> None:
        found = self._found
        if not node.members or node.value < found.value - _TIE:
            return
        load = round(math.fsum(node.used.tolist()), 9)
        is_better = node.value > found.value + _TIE
        if is_better or (len(node.members), load, node.members) < (len(found.members), self._load, found.members):
            self._found, self._load = KeptSubset(members=node.members, value=node.value), load


def _filled(gains: Floats, shares: Floats, room: float) -> float:
    """The most gain that fits into the room where parts of experts could be taken (fractional knapsack)."""
    total = 0.0
    gains, shares = gains[gains > 0], shares[gains > 0]
    ratio = np.divide(gains, shares, out=np.full(len(gains), np.inf), where=shares > 0)
    for place in np.argsort(-ratio, kind="stable").tolist():
        share = float(shares[place])
        if share <= room:
            total, room = total + float(gains[place]), room - share
        else:
            return total + float(gains[place]) * room / share
    return total
