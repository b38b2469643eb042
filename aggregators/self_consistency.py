"""Self-consistency: each expert's samples vote among themselves, then the experts' winners vote.

Wang et al. 2023, "Self-Consistency Improves Chain of Thought Reasoning in Language Models", section 2; several experts
side by side as in Avengers (Zhang et al. 2025), where the samples of one expert settle what that expert says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS
from aggregators.equivalence import AnswerGroup
from aggregators.settling import Vote, votes_so_far
from router_service.types import Answer, AnswerKind, Ask, Panel

__all__ = ["SelfConsistency"]


@AGGREGATORS.register("self_consistency")
class SelfConsistency:
    """One vote an expert, for the answer that most of its samples hold, weighed by their share of all its samples that
    finished: who says something else each time counts for less, and who is asked more often not for more.

    An expert's samples that are level are settled by the lowest sample number. Answers whose weights are level go by
    the number of samples that hold them, then by which was first. For one expert it is the plurality of its samples,
    and with one sample of each it is `majority`. Confidence is the winner's share of the weights.
    """

    keeps_text = True

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer of most weight; raises `AggregationError` where no member holds one."""
        groups = await gather_votes(panel)
        weights = _weights(panel, groups)
        best = max(range(len(groups)), key=lambda i: (weights[i], len(groups[i].members)))
        confidence = float(weights[best] / sum(weights))
        return answer_of(panel, groups[best], aggregator="self_consistency", confidence=confidence)

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether one answer stays ahead of every other, at the worst of what each expert's samples may still say."""
        if not pending:
            return True
        votes, out = votes_so_far(panel), Counter(pending)
        finished = Counter(member.expert_id for member in panel.members)
        shares = [
            _Share.of(expert_id, votes, finished=finished[expert_id], out=out[expert_id])
            for expert_id in {**finished, **out}
        ]
        pools_rivals = panel.query.task_format.kind is AnswerKind.NUMBER
        answers = [*dict.fromkeys(vote.key for vote in votes)]
        return any(
            all(
                sum(share.least_lead(answer, rival, pools_rivals=pools_rivals) for share in shares) > 0
                for rival in (None, *(other for other in answers if other != answer and not pools_rivals))
            )
            for answer in answers
        )


def _weights(panel: Panel, groups: Sequence[AnswerGroup]) -> list[Fraction]:
    """Of each group, the shares of the experts whose samples settled on it, summed exactly."""
    finished = Counter(member.expert_id for member in panel.members)
    held: dict[str, dict[int, list[int]]] = {}
    for number, group in enumerate(groups):
        for member in group.members:
            held.setdefault(member.expert_id, {}).setdefault(number, []).append(member.sample)
    weights = [Fraction(0)] * len(groups)
    for expert_id, samples in held.items():
        winner = min(samples, key=lambda number: (-len(samples[number]), min(samples[number]), number))
        weights[winner] += Fraction(len(samples[winner]), finished[expert_id])
    return weights


@dataclass(frozen=True, slots=True)
class _Share:
    """What one expert's samples say so far: the counts of their answers, how many finished and how many are out."""

    counts: Mapping[str, int]
    finished: int
    out: int

    @classmethod
    def of(cls, expert_id: str, votes: Sequence[Vote], *, finished: int, out: int) -> _Share:
        return cls(Counter(vote.key for vote in votes if vote.expert_id == expert_id), finished, out)

    def least_lead(self, answer: str, rival: str | None, *, pools_rivals: bool) -> Fraction:
        """The least by which the expert's vote can come to speak more for `answer` than for `rival`; None is a rival
        that nobody named, or all others together where they may turn out to be one."""
        own = self.counts.get(answer, 0)
        others = {key: count for key, count in self.counts.items() if key != answer}
        strongest = sum(others.values()) if pools_rivals else max(others.values(), default=0)
        named = strongest if pools_rivals else others.get(rival or "", 0)
        everyone = self.finished + self.out
        if named + self.out > 0 and named + self.out >= max(own, strongest):
            return -Fraction(named + self.out, everyone)
        surely_wins = own > strongest + self.out
        return Fraction(own, everyone) if surely_wins else Fraction(0)
