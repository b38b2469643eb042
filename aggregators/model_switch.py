"""Model switch: the first expert's samples decide where they agree; else those of more experts are pooled.

Avengers (Zhang et al. 2025, released code): ten samples of the best model are voted on where their agreement is at
least 0.8, else the ten of the second model join them.
"""

from __future__ import annotations

from collections.abc import Sequence

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS
from aggregators.equivalence import AnswerGroup
from aggregators.settling import Vote, come_later, tally, votes_so_far
from router_service.errors import ConfigError
from router_service.types import Answer, Ask, Panel

__all__ = ["ModelSwitch"]

_FEWEST_SAMPLES = 2
"""One sample always agrees with itself, which says nothing; an expert asked once is pooled with the others."""


@AGGREGATORS.register("model_switch")
class ModelSwitch:
    """A vote among the samples of the first expert that holds an answer, where they agree; else among those of the
    first `pooled` experts.

    Agreement is the share of all the expert's finished samples that hold its most frequent answer, of two samples at
    least: whoever recruits each expert once gets the pooled vote. The answer's agreement and supporters count every
    member of the panel that holds it, those who were not needed too; its confidence is the share of those who voted.
    Whether it switched is no note: the agreement tells.
    """

    keeps_text = True
    order_matters = True

    def __init__(self, *, threshold: float = 0.8, pooled: int | None = 2) -> None:
        """`threshold` is the agreement from which the first expert stands alone; `pooled` how many experts vote where
        it does not, None for all."""
        if not 0.0 < threshold <= 1.0:
            raise ConfigError(f"aggregator 'model_switch': threshold is {threshold}; it is a share, above 0 up to 1")
        if pooled is not None and pooled < 2:
            raise ConfigError(
                f"aggregator 'model_switch': pooled is {pooled}; pool 2 experts or more, or leave it empty for all"
            )
        self.threshold = threshold
        self.pooled = pooled

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The voters' plurality answer, the earliest where level; `AggregationError` where no member holds one."""
        groups = await gather_votes(panel)
        voting = {id(member) for group in groups for member in group.members}
        order = [*dict.fromkeys(member.expert_id for member in panel.members if id(member) in voting)]
        first = sum(member.expert_id == order[0] for member in panel.members)
        winner, votes = _plurality(groups, order[:1])
        if not self._agrees(votes, first):
            winner, votes = _plurality(groups, order[: self.pooled])
            first = sum(member.expert_id in order[: self.pooled] for member in panel.members)
        return answer_of(panel, winner, aggregator="model_switch", confidence=votes / first)

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether the voters are known, as all others stand behind them, and those of them that are out cannot change
        the outcome."""
        if not pending:
            return True
        votes = votes_so_far(panel)
        order = [*dict.fromkeys(vote.expert_id for vote in votes)]
        if not order or not _is_first(panel, order[0], pending):
            return False
        return self._first_agrees_whatever(panel, votes, pending) or self._pool_is_complete(panel, order, pending)

    def _first_agrees_whatever(self, panel: Panel, votes: Sequence[Vote], pending: Sequence[str]) -> bool:
        first = votes[0].expert_id
        ahead = tally((vote for vote in votes if vote.expert_id == first), panel.query.task_format.kind)
        finished, out = sum(member.expert_id == first for member in panel.members), pending.count(first)
        if ahead is None or finished < _FEWEST_SAMPLES or ahead.lead <= ahead.rival + out:
            return False
        return self._agrees(round(ahead.lead), finished + out)

    def _pool_is_complete(self, panel: Panel, order: Sequence[str], pending: Sequence[str]) -> bool:
        if self.pooled is None or len(order) < self.pooled:
            return False
        return not set(order[: self.pooled]) & set(pending) and _is_first(panel, order[self.pooled - 1], pending)

    def _agrees(self, votes: int, samples: int) -> bool:
        return samples >= _FEWEST_SAMPLES and votes / samples >= self.threshold


def _plurality(groups: Sequence[AnswerGroup], expert_ids: Sequence[str]) -> tuple[AnswerGroup, int]:
    """The group that most completions of these experts are in, the earliest where level, and how many they are."""
    counts = [sum(member.expert_id in expert_ids for member in group.members) for group in groups]
    best = max(range(len(groups)), key=counts.__getitem__)
    return groups[best], counts[best]


def _is_first(panel: Panel, expert_id: str, pending: Sequence[str]) -> bool:
    """Whether no other expert that is still out stands before this one."""
    member = next(member for member in panel.members if member.expert_id == expert_id)
    return come_later(panel, member, [other for other in pending if other != expert_id])
