"""Has every expert of a panel read every answer that is held: how likely each finds it, and what that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aggregators.base import PlannedCall
from aggregators.equivalence import AnswerGroup, held_answer
from aggregators.reading import planned_reading, reading_usage
from router_service.errors import BudgetExceeded, ExpertError, NoExpertAvailable
from router_service.types import Ask, Panel, ScoringAsk, Usage

__all__ = ["Reading", "planned_readings", "read_by_peers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the peers make of the panel's answers: `nll[i][j]` is the mean negative log-likelihood (nats a token) of
    member i's answer under the expert of member j. None where it came to nothing, and then a note says why."""

    nll: list[list[float]] | None = None
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()


def planned_readings(panel: Panel, groups: Sequence[AnswerGroup]) -> tuple[PlannedCall, ...]:
    """Every reading as a call of its own that writes nothing: one per expert of the panel and different answer."""
    answers = _answers(panel, groups)
    return tuple(
        planned_reading(panel, expert_id, query=panel.query, text=answer)
        for expert_id in _peers(panel)
        for answer in answers
    )


async def read_by_peers(panel: Panel, groups: Sequence[AnswerGroup], *, ask: Ask) -> Reading:
    """Have each expert read each different answer, all experts at once; who holds one answer holds its likelihood.

    A member without an answer is as unlikely to every peer as the unlikeliest answer there is. Nothing is read where
    one of the experts cannot read texts.
    """
    peers = _peers(panel)
    if not isinstance(ask, ScoringAsk) or not all(ask.can_score(expert_id) for expert_id in peers):
        return Reading(notes=("drafts were weighed by who agrees with whom, for not all of their experts read texts",))
    answers = _answers(panel, groups)
    texts = [(panel.query, answer) for answer in answers]
    read = await asyncio.gather(*(ask.score(expert_id, texts) for expert_id in peers), return_exceptions=True)
    failures = [found for found in read if isinstance(found, BaseException)]
    for failure in failures:
        if not isinstance(failure, ExpertError | BudgetExceeded | NoExpertAvailable):
            raise failure
    done = [expert_id for expert_id, found in zip(peers, read, strict=True) if not isinstance(found, BaseException)]
    usage = sum((reading_usage(panel, expert_id, texts) for expert_id in done), start=Usage())
    if failures:
        reason = f"for they could not be read by all of their experts ({failures[0]})"
        return Reading(usage=usage, notes=(f"drafts were weighed by who agrees with whom, {reason}",))
    by_peer = {
        expert_id: [-score.mean_logprob for score in found]
        for expert_id, found in zip(peers, read, strict=True)
        if not isinstance(found, BaseException)
    }
    return Reading(nll=_table(panel, groups, by_peer), usage=usage)


def _table(panel: Panel, groups: Sequence[AnswerGroup], by_peer: Mapping[str, Sequence[float]]) -> list[list[float]]:
    place = {id(member): number for number, group in enumerate(groups) for member in group.members}
    return [
        [
            by_peer[peer.expert_id][place[id(member)]] if id(member) in place else max(by_peer[peer.expert_id])
            for peer in panel.members
        ]
        for member in panel.members
    ]


def _peers(panel: Panel) -> tuple[str, ...]:
    return tuple(dict.fromkeys(member.expert_id for member in panel.members))


def _answers(panel: Panel, groups: Sequence[AnswerGroup]) -> list[str]:
    return [held_answer(group.first, panel.query.task_format) or "" for group in groups]
