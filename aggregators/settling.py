"""When a vote is decided before all have voted: the arithmetic that early answers share.

The members still out may say anything, also what nobody has said yet, may all say the same, and may stand before the
others in the panel's order; so a lead has to be more than all of them together, and a tie is never a lead. Numbers are
taken at their wording here: comparing formulas takes time, and one more formula may join answers that were two, so all
votes that are not for the very wording ahead count as one rival.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aggregators.equivalence import vote_key
from router_service.types import AnswerKind, Completion, Panel

__all__ = ["Tally", "Vote", "come_later", "safe_leader", "tally", "votes_so_far"]

_LEAST_LEAD = 1e-9
"""Sums of weights nearer to each other than this are taken for level: in which order they were added may show."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One member's vote so far: whose, and the key of what it is for."""

    expert_id: str
    key: str


def votes_so_far(panel: Panel) -> list[Vote]:
    """The votes of the members that hold an answer, numbers by their wording."""
    kind = panel.query.task_format.kind
    return [Vote(member.expert_id, key) for member in panel.members if (key := _cheap_key(member, kind)) is not None]


def _cheap_key(member: Completion, kind: AnswerKind) -> str | None:
    key = vote_key(member, kind)
    is_number = kind is AnswerKind.NUMBER and key is not None and not member.tool_calls
    return f"wording:{(member.extracted or '').strip()}" if is_number else key


@dataclass(frozen=True, slots=True)
class Tally:
    """The answer ahead, with its weight, and the weight of the strongest that it may come to stand against."""

    key: str
    lead: float
    rival: float


def tally(
    votes: Iterable[Vote], kind: AnswerKind, *, weight: Callable[[str], float] = lambda expert_id: 1.0
) -> Tally | None:
    """The sums of the votes' weights (`weight` of the expert's id); None where there are no votes."""
    weights: dict[str, list[float]] = {}
    for vote in votes:
        weights.setdefault(vote.key, []).append(weight(vote.expert_id))
    sums = Counter({key: math.fsum(each) for key, each in weights.items()})
    if not sums:
        return None
    (key, lead), *others = sums.most_common()
    rivals = [weight for _, weight in others]
    return Tally(key, lead, math.fsum(rivals) if kind is AnswerKind.NUMBER else max(rivals, default=0.0))


def safe_leader(
    panel: Panel, pending: Sequence[str], *, weight: Callable[[str], float] = lambda expert_id: 1.0
) -> str | None:
    """The key of the answer that stays ahead even if all of `pending` vote for its strongest rival, or for a new one;
    None where there is none."""
    found = tally(votes_so_far(panel), panel.query.task_format.kind, weight=weight)
    out = math.fsum(weight(expert_id) for expert_id in pending)
    return found.key if found is not None and found.lead - found.rival > out + _LEAST_LEAD else None


def come_later(panel: Panel, member: Completion, pending: Iterable[str]) -> bool:
    """Whether whatever `pending` say stands after `member` in the panel's order, which is the order of recruiting; of
    one expert, the order of its samples."""
    place = {recruit.expert_id: number for number, recruit in reversed(list(enumerate(panel.decision.recruits)))}
    own = place.get(member.expert_id)
    if own is None:
        return False
    return all(
        place.get(expert_id, -1) > own or (expert_id == member.expert_id and member.sample == 0)
        for expert_id in pending
    )
