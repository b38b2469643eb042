"""Where each waiting model goes: longest first onto the device that is done soonest, then moved, split and swapped
while the last device gets done sooner."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from router_service.dispatch._schedule_order import Piece, Seat, finish_s, ordered

__all__ = ["Job", "Plan", "placed"]

_NEARLY = 0.02
"""Devices whose end differs by less than this share are equal, and whom the models answer for decides."""
_MARGIN = 1e-6
_GOOD_ENOUGH = 1.02
_MOST_SHAKES = 20_000


@dataclass(slots=True, eq=False)
class Job:
    """A model with waiting works: runs in all, the longest work, the queries it answers for."""

    model: str
    run_s: float
    grain_s: float
    loads_s: Mapping[int, float]
    """Per seat that can hold it, the load it would take there."""
    gibs: Mapping[int, float]
    queries: Counter[str] = field(default_factory=Counter)

    def piece(self, seat: int, run_s: float) -> Piece:
        """That much of the job on a seat."""
        return Piece(self.model, self.loads_s[seat], run_s, self.gibs[seat], self.grain_s)


_Exchanges = Callable[["Plan", int, int], Iterator[tuple[list[Piece], list[Piece]]]]


class Plan:
    """Pieces per seat, and when each seat is done."""

    def __init__(self, seats: Sequence[Seat], jobs: Sequence[Job], *, steps: int, splits: bool) -> None:
        self.seats = seats
        self.jobs = {job.model: job for job in jobs}
        self.steps = steps
        self.splits = splits
        self.pieces: list[list[Piece]] = [[] for _ in seats]
        self.ends = [finish_s(seat, []) for seat in seats]

    def put(self, number: int, pieces: Sequence[Piece]) -> None:
        """Give a seat these pieces, in the best order found."""
        self.ends[number], self.pieces[number] = self.tried(number, pieces)

    def kept(self) -> tuple[list[list[Piece]], list[float]]:
        """The plan as it is, to be restored."""
        return list(self.pieces), list(self.ends)

    def restore(self, kept: tuple[list[list[Piece]], list[float]]) -> None:
        """The plan as it was."""
        self.pieces, self.ends = list(kept[0]), list(kept[1])

    def tried(self, number: int, pieces: Sequence[Piece]) -> tuple[float, list[Piece]]:
        """When the seat would be done with these pieces, and in which order."""
        self.steps -= len(pieces) * 3
        return ordered(self.seats[number], pieces, steps=0)[:2]

    def may_go(self, piece: Piece, seat: int) -> bool:
        """Whether the piece is to be placed, and that seat can hold it."""
        return piece.model in self.jobs and seat in self.jobs[piece.model].loads_s

    def joined(self, seat: int, piece: Piece, *, run_s: float, without: Piece | None = None) -> list[Piece]:
        """The seat's pieces and so much of another's, in one piece where a part of it is there already."""
        pieces = self.pieces[seat]
        rest = [p for p in pieces if p.model != piece.model and p is not without]
        there_s = sum(p.run_s for p in pieces if p.model == piece.model)
        return [*rest, self.jobs[piece.model].piece(seat, there_s + run_s)]


def placed(
    seats: Sequence[Seat], jobs: Sequence[Job], *, fixed: Sequence[Sequence[Piece]], steps: int, splits: bool
) -> Plan:
    """A plan of all jobs beside the pieces that are `fixed` per seat; `steps` bounds the effort, `splits` allows a
    model on several devices."""
    plan = Plan(seats, jobs, steps=steps, splits=splits)
    started = []
    for key in _LONGEST_FIRST:
        _deal(plan, sorted(jobs, key=key), fixed)
        while plan.steps > steps * 3 // 4 and _improve(plan):
            pass
        started.append(plan.kept())
    plan.restore(min(started, key=lambda kept: max(kept[1])))
    _search(plan, least_steps=steps // 4)
    for number in range(len(seats)):
        share = max(0, plan.steps) // (len(seats) - number)
        plan.ends[number], plan.pieces[number], left = ordered(seats[number], plan.pieces[number], steps=share)
        plan.steps -= share - left
    return plan


_LONGEST_FIRST: tuple[Callable[[Job], float], ...] = (
    lambda job: -(job.run_s + min(job.loads_s.values())),
    lambda job: -max(job.run_s, *job.loads_s.values()),
    lambda job: -min(job.loads_s.values()),
)
"""Orders in which the jobs are dealt out; the first one is the usual, and wins ties."""


def _deal(plan: Plan, jobs: Sequence[Job], fixed: Sequence[Sequence[Piece]]) -> None:
    """Give each seat what is fixed, and then each job whole to the seat that suits it best by then."""
    queries: list[Counter[str]] = [Counter() for _ in plan.seats]
    for number, pieces in enumerate(fixed):
        plan.put(number, pieces)
    for job in jobs:
        number, pieces = _choice(plan, job, queries)
        plan.put(number, pieces)
        queries[number].update(job.queries)


def _choice(plan: Plan, job: Job, queries: Sequence[Counter[str]]) -> tuple[int, list[Piece]]:
    """The seat that would be done soonest with the job; among nearly equal ones, with whose models it shares least."""
    tried = {n: [*plan.pieces[n], job.piece(n, job.run_s)] for n in job.loads_s}
    ends = {n: finish_s(plan.seats[n], pieces) for n, pieces in tried.items()}
    plan.steps -= sum(map(len, tried.values()))
    limit = min(ends.values()) * (1 + _NEARLY) + _MARGIN
    near = [n for n, end in ends.items() if end <= limit]
    if len(near) > 1 and job.queries:
        shared = {n: sum(min(c, queries[n][q]) for q, c in job.queries.items()) for n in near}
        near.sort(key=lambda n: (shared[n], ends[n]))
    else:
        near.sort(key=lambda n: ends[n])
    return near[0], tried[near[0]]


def _improve(plan: Plan) -> bool:
    """Take something off the seat that is done last, if that helps; whether it did."""
    worst = max(range(len(plan.seats)), key=lambda n: plan.ends[n])
    others = sorted((n for n in range(len(plan.seats)) if n != worst), key=lambda n: plan.ends[n])
    return _exchange(plan, worst, others, kind=_shifts) or _exchange(plan, worst, others, kind=_swaps)


def _exchange(plan: Plan, worst: int, others: Sequence[int], *, kind: _Exchanges) -> bool:
    """Carry out the best exchange of a kind with the first seat where one makes the later of both done sooner; whether
    there is one."""
    best_s, best = plan.ends[worst] * (1 - 1e-4) - _MARGIN, None
    for other in others:
        for mine, theirs in kind(plan, worst, other) if plan.ends[other] < best_s else ():
            end_s, _ = plan.tried(worst, mine)
            if end_s < best_s:
                end_s = max(end_s, plan.tried(other, theirs)[0])
            if end_s < best_s:
                best_s, best = end_s, (other, mine, theirs)
            if plan.steps <= 0:
                break
        if best is not None:
            break
    if best is None:
        return False
    plan.put(worst, best[1])
    plan.put(best[0], best[2])
    return True


def _shifts(plan: Plan, worst: int, other: int) -> Iterator[tuple[list[Piece], list[Piece]]]:
    """What both seats would have after moving a piece, or a part of one."""
    mine, theirs = plan.pieces[worst], plan.pieces[other]
    gap_s = plan.ends[worst] - plan.ends[other]
    for piece in mine:
        if not plan.may_go(piece, other):
            continue
        yield [p for p in mine if p is not piece], plan.joined(other, piece, run_s=piece.run_s)
        has_it = any(p.model == piece.model for p in theirs)
        load_s = 0.0 if has_it else plan.jobs[piece.model].loads_s[other]
        for part_s in _parts_s(piece, (gap_s - load_s) / 2) if plan.splits or has_it else ():
            kept = [replace(piece, run_s=piece.run_s - part_s) if p is piece else p for p in mine]
            yield kept, plan.joined(other, piece, run_s=part_s)


def _swaps(plan: Plan, worst: int, other: int) -> Iterator[tuple[list[Piece], list[Piece]]]:
    """What both seats would have after exchanging a piece for a smaller one."""
    for piece in plan.pieces[worst]:
        for back in plan.pieces[other] if plan.may_go(piece, other) else ():
            is_less = back.load_s + back.run_s < piece.load_s + piece.run_s
            if is_less and plan.may_go(back, worst) and back.model != piece.model:
                yield (
                    plan.joined(worst, back, run_s=back.run_s, without=piece),
                    plan.joined(other, piece, run_s=piece.run_s, without=back),
                )


def _parts_s(piece: Piece, levelling_s: float) -> list[float]:
    """How much of a piece may go elsewhere: what levels two devices where the load is in nobody's way and where it is,
    or an even share; never less than its longest work, nor leaving less."""
    least_s, most_s = piece.grain_s, piece.run_s - piece.grain_s
    sizes = (levelling_s, levelling_s + piece.load_s / 2, piece.run_s / 4, piece.run_s / 2, piece.run_s * 3 / 4)
    return sorted({size for size in sizes if least_s <= size <= most_s})


def _search(plan: Plan, *, least_steps: int) -> None:
    """Improve until nothing helps; then, while steps are left and the plan is not nearly as good as can be, shake it
    and improve again, keeping the best (iterated local search). The same plan always shakes alike."""
    rng = random.Random(0)
    while plan.steps > least_steps and _improve(plan):
        pass
    best = plan.kept()
    floor_s = _GOOD_ENOUGH * _floor_s(plan)
    for _ in range(_MOST_SHAKES if len(plan.seats) > 1 else 0):
        if plan.steps <= least_steps or max(best[1]) <= floor_s:
            break
        plan.restore(best)
        for _ in range(rng.randint(1, 6)):
            _shake(plan, rng)
        while plan.steps > least_steps and _improve(plan):
            pass
        if _badness(plan.ends) < _badness(best[1]):
            best = plan.kept()
    plan.restore(best)


def _badness(ends: Sequence[float]) -> tuple[float, float]:
    """Plans compare by the last end; nearly equal ones (one in a thousand) by how level the ends are."""
    last = max(ends)
    return round(math.log(max(last, _MARGIN)) * 1000), sum(end**4 for end in ends)


def _shake(plan: Plan, rng: random.Random) -> None:
    """One exchange between two devices, whether it helps or not: one of the two is done last, or nearly."""
    plan.steps -= 20 * len(plan.seats)
    numbers = sorted(range(len(plan.seats)), key=lambda n: -plan.ends[n])
    worst = numbers[min(len(numbers) - 1, int(rng.expovariate(1)))]
    other = rng.choice([n for n in numbers if n != worst])
    found = [*_shifts(plan, worst, other), *_swaps(plan, worst, other)]
    if found:
        mine, theirs = rng.choice(found)
        plan.put(worst, mine)
        plan.put(other, theirs)


def _floor_s(plan: Plan) -> float:
    """No plan is done sooner: each job loaded once, all devices busy alike from their first load on."""
    jobs = plan.jobs.values()
    if not jobs:
        return 0.0
    loads = [min(job.loads_s.values()) for job in jobs]
    runs_s = sum(job.run_s for job in jobs)
    seats = len(plan.seats)
    alone_s = 0.0 if plan.seats[0].overlaps else sum(loads) + runs_s
    return max(sum(loads) / seats, min(loads) + runs_s / seats, alone_s / seats)
