"""Which device serves which waiting model: a plan where many came, the least busy one else; the idle take over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from router_service.dispatch._schedule_board import Board
from router_service.dispatch._schedule_order import Piece, Seat
from router_service.dispatch._schedule_place import Place, Stage
from router_service.dispatch._schedule_plan import Job, placed
from router_service.dispatch._schedule_queue import effective_s

__all__ = ["find_homes", "take_over"]

_STEPS_PER_WORK = 500
_STEPS_PER_FIRST_WORK = 4000
"""Effort of a plan, in evaluated pieces; it grows with the works, so that planning costs each work the same."""
_MOST_STEPS = 400_000


def find_homes(board: Board, now: float) -> None:
    """Give every waiting model a device: all models a new plan once as many works came as models wait, else each new
    one the device that would be done with it soonest."""
    if not board.homeless and (board.unplanned < len(board.queues) or len(board.places) < 2):
        return
    if board.unplanned >= len(board.queues) > 1:
        _Planning(board, now).carry_out()
    for model in list(board.homeless):
        footprint = board.queues[model].footprint
        places = board.possible(footprint)
        board.settle(model, min(places, key=lambda p: p.busy_s(now) + p.ahead_s + p.cost_s(footprint)))


def _is_kept(board: Board, model: str, now: float) -> bool:
    """Whether the model has waited long on some agenda."""
    if model not in board.homes:
        return False
    work = board.queues[model].first().work
    return now - work.arrived_s > board.settings.window_s + board.settings.turn_cap * work.footprint.load_s


class _Planning:
    """One new plan of all waiting models but those that have waited long on some device's agenda: they keep their
    place, so that nobody's turn is put off for ever."""

    def __init__(self, board: Board, now: float) -> None:
        self.board = board
        self.now = now
        self.places = list(board.places.values())
        self.kept = {model for model in board.queues if _is_kept(board, model, now)}
        self.seats = [self._seat(place) for place in self.places]

    def carry_out(self) -> None:
        """Find the plan, and put it on the agendas."""
        board = self.board
        fixed = [self._fixed(place, seat) for place, seat in zip(self.places, self.seats, strict=True)]
        jobs = [self._job(model) for model in board.queues if model not in self.kept]
        steps = min(_MOST_STEPS, board.unplanned * (_STEPS_PER_WORK if board.homes else _STEPS_PER_FIRST_WORK))
        plan = placed(self.seats, jobs, fixed=fixed, steps=steps, splits=board.settings.replicates)
        board.unplanned = 0
        for job in jobs:
            for place in list(board.homes.get(job.model, ())):
                board.leave(job.model, place)
        copies = Counter(piece.model for pieces in plan.pieces for piece in pieces)
        for place, pieces in zip(self.places, plan.pieces, strict=True):
            for piece in pieces:
                if piece.model in board.queues:
                    quota_s = piece.run_s if copies[piece.model] > 1 and piece.model not in self.kept else None
                    board.settle(piece.model, place, quota_s=quota_s)

    def _seat(self, place: Place) -> Seat:
        loading = [place.there[model].due_s - self.now for model in place.staged(Stage.LOADING)]
        return Seat(place.device, overlaps=self.board.settings.prefetches, load_free_s=max([0.0, *loading]))

    def _fixed(self, place: Place, seat: Seat) -> list[Piece]:
        """What the device does whatever is planned: runs that began, and models that keep their place."""
        found = []
        computing = place.computing
        if computing is not None:
            left_s = max(0.0, computing.due_s - self.now)
            found.append(Piece("", 0.0, left_s, seat.gib(computing.footprint), left_s))
        for model in [place.visiting, *(model for _, model in place.order)]:
            if model in self.kept and place in self.board.homes[model]:
                queue = self.board.queues[model]
                share_s = queue.run_s / len(self.board.homes[model])
                found.append(Piece(model, place.cost_s(queue.footprint), share_s, seat.gib(queue.footprint), share_s))
        return found

    def _job(self, model: str) -> Job:
        queue = self.board.queues[model]
        able = [n for n, p in enumerate(self.places) if model not in p.barred and p.holds(queue.footprint)]
        tickets = queue.tickets()
        is_shared = len(self.places) > 1
        return Job(
            model=model,
            run_s=queue.run_s,
            grain_s=max(effective_s(ticket.work) for ticket in tickets),
            loads_s={n: self.places[n].cost_s(queue.footprint) for n in able},
            gibs={n: self.seats[n].gib(queue.footprint) for n in able},
            queries=Counter(query for ticket in tickets for query in ticket.work.queries) if is_shared else Counter(),
        )


def take_over(board: Board, place: Place, now: float) -> bool:
    """A device whose agenda is empty takes a model, or a part of its works, from the device that is done last; whether
    it did.

    It takes what makes the later one of both done soonest, and only what makes it done sooner than without: a model
    that waits there unloaded as a whole, or a copy of one, whose load is then shorter than the queue time it saves.
    """
    if place.order or any(place.staged(Stage.LOADING)) or place.checked == board.version:
        return False
    place.checked = board.version
    free_s = place.busy_s(now) + place.ahead_s
    others = sorted((p for p in board.places.values() if p is not place), key=lambda p: -p.busy_s(now) - p.ahead_s)
    for victim in others:
        end_s = victim.busy_s(now) + victim.ahead_s
        if end_s <= free_s:
            return False
        offers = _Offers(board, place, victim, free_s=free_s, end_s=end_s)
        found = min(offers.all(), key=lambda offer: offer[0], default=None)
        if found is not None:
            _, model, is_whole = found
            if is_whole:
                board.leave(model, victim)
            board.settle(model, place)
            return True
    return False


class _Offers:
    """What a device may take over from another: when both would be done, the model, and whether all of it."""

    def __init__(self, board: Board, place: Place, victim: Place, *, free_s: float, end_s: float) -> None:
        self.board = board
        self.place = place
        self.victim = victim
        self.free_s = free_s
        self.end_s = end_s

    def all(self) -> Iterator[tuple[float, str, bool]]:
        """Those by which the later of both is done sooner."""
        for model in [self.victim.visiting, *(model for _, model in self.victim.order)]:
            if model in self.board.queues and self._is_possible(model):
                for offer in self._of(model):
                    if offer[0] < self.end_s * (1 - 1e-9) - 1e-9:
                        yield offer

    def _is_possible(self, model: str) -> bool:
        homes = self.board.homes.get(model, ())
        if self.victim not in homes or self.place in homes or model in self.place.barred:
            return False
        return self.place.holds(self.board.queues[model].footprint)

    def _of(self, model: str) -> Iterator[tuple[float, str, bool]]:
        board, place = self.board, self.place
        queue, homes = board.queues[model], board.homes[model]
        load_s = place.cost_s(queue.footprint)
        overlaps = board.settings.prefetches and place.has_room(queue.footprint)
        begins_s = max(self.free_s, load_s) if overlaps else self.free_s + load_s
        share_s = queue.run_s / len(homes)
        if len(homes) == 1 and not board.is_on_its_way(model, self.victim):
            left_s = self.end_s - share_s - self.victim.cost_s(queue.footprint)
            yield max(left_s, begins_s + share_s), model, True
        if load_s == 0 or board.settings.replicates:
            part_s = max(effective_s(queue.first().work), min(share_s, (self.end_s - begins_s) / 2))
            yield max(self.end_s - part_s, begins_s + part_s), model, False
