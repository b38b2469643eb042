"""In which order one device serves its models, and when it is done: loads and runs as two machines of a flow shop."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from router_service.backends.base import Device, Footprint

__all__ = ["Piece", "Seat", "finish_s", "ordered"]


@dataclass(slots=True, eq=False)
class Piece:
    """What one device does for one model: its load (0 where it is there already) and a share of its runs, seconds."""

    model: str
    load_s: float
    run_s: float
    gib: float
    grain_s: float
    """The longest indivisible part of the runs."""


class Seat:
    """A device as the plan sees it: what it can hold, and when it is free."""

    __slots__ = ("capacity_gib", "device", "load_free_s", "overlaps", "places", "run_free_s")

    def __init__(self, device: Device, *, overlaps: bool, load_free_s: float = 0.0, run_free_s: float = 0.0) -> None:
        self.device = device
        self.overlaps = overlaps
        self.load_free_s = load_free_s
        self.run_free_s = run_free_s
        self.capacity_gib = float("inf") if device.memory_gib is None else device.memory_gib + 1e-9
        limits = device.max_models, (1 if device.memory_gib is None else None)
        self.places = next((limit for limit in limits if limit is not None), 1 << 30)

    def gib(self, footprint: Footprint) -> float:
        """Memory that the model takes here; an unknown size takes all."""
        if footprint.memory_gib is not None:
            return footprint.memory_gib
        return 1e300 if self.device.memory_gib is None else self.device.memory_gib


def finish_s(seat: Seat, pieces: Sequence[Piece]) -> float:
    """When the device is done with the pieces in this order.

    A load begins once the one before is done and the models before, oldest first, have left it enough memory; without
    overlap, once nothing runs. A run begins once its load and the run before are done.
    """
    load_free, run_free, used, first = seat.load_free_s, seat.run_free_s, 0.0, 0
    ends: list[float] = []
    for number, piece in enumerate(pieces):
        if piece.load_s > 0:
            while first < number and (used + piece.gib > seat.capacity_gib or number - first >= seat.places):
                load_free = max(load_free, ends[first])
                used -= pieces[first].gib
                first += 1
            load_free = (load_free if seat.overlaps else max(load_free, run_free)) + piece.load_s
            run_free = max(run_free, load_free)
        used += piece.gib
        run_free += piece.run_s
        ends.append(run_free)
    return run_free


def ordered(seat: Seat, pieces: Sequence[Piece], *, steps: int) -> tuple[float, list[Piece], int]:
    """The best order found, when the device is done by it, and the steps left of those it may spend looking.

    Johnson's order (Johnson 1954: optimal for two machines in a row and any number of pieces in between) and one that
    fits each load under the run before it (memory for two models); then the better one with single pieces moved, while
    that helps and steps are left.
    """
    candidates = [_johnson(pieces)]
    if seat.overlaps and len(pieces) > 2:
        candidates.append(_fitted(pieces))
    best_s, best = min(((finish_s(seat, order), order) for order in candidates), key=lambda found: found[0])
    floor = _floor_s(seat, pieces)
    is_better = True
    while is_better and best_s > floor + 1e-9 and steps > 0:
        is_better = False
        for order in _with_one_moved(best):
            steps -= len(order)
            order_s = finish_s(seat, order)
            if order_s < best_s - 1e-9:
                best_s, best, is_better = order_s, order, True
                break
            if steps <= 0:
                break
    return best_s, best, steps


def _with_one_moved(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """The order with one piece at another place."""
    for taken, piece in enumerate(pieces):
        rest = [*pieces[:taken], *pieces[taken + 1 :]]
        for place in range(len(pieces)):
            if place != taken:
                yield [*rest[:place], piece, *rest[place:]]


def _floor_s(seat: Seat, pieces: Sequence[Piece]) -> float:
    """No order is done sooner."""
    if not pieces:
        return 0.0
    loads, runs = sum(p.load_s for p in pieces), sum(p.run_s for p in pieces)
    return max(
        seat.load_free_s + loads + min(p.run_s for p in pieces),
        max(seat.run_free_s, seat.load_free_s + min(p.load_s for p in pieces)) + runs,
    )


def _johnson(pieces: Sequence[Piece]) -> list[Piece]:
    """Those that load faster than they run by rising load, then the others by falling run."""
    early = sorted((p for p in pieces if p.load_s <= p.run_s), key=lambda p: p.load_s)
    late = sorted((p for p in pieces if p.load_s > p.run_s), key=lambda p: -p.run_s)
    return early + late


def _fitted(pieces: Sequence[Piece]) -> list[Piece]:
    """The shortest load first, then always the longest load that fits under the run before it."""
    left = sorted(pieces, key=lambda p: p.load_s)
    found = [left.pop(0)]
    while left:
        fitting = bisect_right(left, found[-1].run_s, key=lambda p: p.load_s)
        found.append(left.pop(max(0, fitting - 1)))
    return found
