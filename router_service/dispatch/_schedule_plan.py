"""Where each waiting model goes: longest first onto the device that is done soonest, then moved, split and swapped
while the last device gets done sooner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from router_service.dispatch._schedule_order import Piece, Seat, finish_s, ordered

__all__ = ["Job", "Plan", "placed"]

_NEARLY = 0.02
"""Devices whose end differs by less than this share are equal, and whom the models answer for decides."""
_MARGIN = 1e-6


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
    for number, pieces in enumerate(fixed):
        plan.put(number, pieces)
    queries: list[Counter[str]] = [Counter() for _ in seats]
    for job in sorted(jobs, key=lambda job: -(job.run_s + min(job.loads_s.values()))):
        number, pieces = _choice(plan, job, queries)
        plan.put(number, pieces)
        queries[number].update(job.queries)
    while plan.steps > 0 and _improve(plan):
        pass
    for number in range(len(seats)):
        share = max(0, plan.steps) // (len(seats) - number)
        plan.ends[number], plan.pieces[number], left = ordered(seats[number], plan.pieces[number], steps=share)
        plan.steps -= share - left
    return plan


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
    best_s, best = plan.ends[worst] - _MARGIN - 1e-4 * plan.ends[worst], None
    for other in sorted(range(len(plan.seats)), key=lambda n: plan.ends[n]):
        if other == worst or plan.ends[other] >= best_s:
            continue
        for mine, theirs in _exchanges(plan, worst, other):
            end_s, _ = plan.tried(worst, mine)
            if end_s >= best_s:
                continue
            end_s = max(end_s, plan.tried(other, theirs)[0])
            if end_s < best_s:
                best_s, best = end_s, (other, mine, theirs)
        if plan.steps <= 0:
            break
    if best is None:
        return False
    plan.put(worst, best[1])
    plan.put(best[0], best[2])
    return True


def _exchanges(plan: Plan, worst: int, other: int) -> Iterator[tuple[list[Piece], list[Piece]]]:
    """What both seats would have after moving a piece, a part of one, or swapping two."""
    mine, theirs = plan.pieces[worst], plan.pieces[other]
    gap_s = plan.ends[worst] - plan.ends[other]
    for piece in mine:
        if not plan.may_go(piece, other):
            continue
        rest = [p for p in mine if p is not piece]
        yield rest, plan.joined(other, piece, run_s=piece.run_s)
        has_it = any(p.model == piece.model for p in theirs)
        load_s = 0.0 if has_it else plan.jobs[piece.model].loads_s[other]
        part_s = min((gap_s - load_s) / 2, piece.run_s - piece.grain_s)
        if (plan.splits or has_it) and part_s >= min(piece.grain_s, gap_s / 8):
            kept = [replace(piece, run_s=piece.run_s - part_s) if p is piece else p for p in mine]
            yield kept, plan.joined(other, piece, run_s=part_s)
        for back in theirs:
            is_less = back.load_s + back.run_s < piece.load_s + piece.run_s
            if is_less and plan.may_go(back, worst) and back.model != piece.model:
                yield (
                    plan.joined(worst, back, run_s=back.run_s, without=piece),
                    plan.joined(other, piece, run_s=piece.run_s, without=back),
                )
