"""Weighted vote: each completion counts by how often its expert is right, after Nitzan and Paroush (1982)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS
from aggregators.equivalence import AnswerGroup
from aggregators.settling import safe_leader, votes_so_far
from router_service.errors import ConfigError
from router_service.types import Answer, AnswerKind, Ask, Panel

__all__ = ["Weighted"]

_P_RANGE = (0.02, 0.98)
"""No profile is sure enough to make one vote worth more than some twenty average ones."""

_LEAST_WEIGHT = 1e-3
"""What the vote of an expert no better than chance is worth: enough to break a tie, too little to win one."""


@AGGREGATORS.register("weighted")
class Weighted:
    """A vote of an expert that is right with probability p weighs `log(p (A - 1) / (1 - p))` for A possible answers.

    That is the log-likelihood ratio of "this answer is right" where experts err independently and evenly over the
    other A - 1 answers, so the sum is what a Bayesian would go by. p is the recruiter's, for this query's skills.
    Below chance the weight would be negative; it is held at a small positive one instead, because a p that low comes
    of thin tallies or of answers nobody could read far more often than of an expert that knows and says otherwise. So
    another vote never counts against its answer, and a unanimous panel is kept.
    """

    keeps_text = True

    def __init__(self, *, prior: float = 0.5, answers: int | None = None) -> None:
        """`prior` is p where the recruiter has none; `answers` is A where the query has no options.

        Without `answers`, A is the number of different answers held plus one for those nobody gave.
        """
        if not 0.0 < prior < 1.0:
            raise ConfigError(f"aggregator 'weighted': prior is {prior}, but must lie between 0 and 1, both left out")
        if answers is not None and answers < 2:
            raise ConfigError(
                f"aggregator 'weighted': answers is {answers}, but a vote needs at least 2 to choose from"
            )
        self.prior = prior
        self.answers = answers

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer of most weight; a tie goes to the earliest group. Confidence is its posterior probability."""
        groups = await gather_votes(panel)
        possible = self._possible_answers(panel, len(groups))
        weights = self._weights(panel, {member.expert_id for member in panel.members}, possible)
        scores = [_score(group, weights) for group in groups]
        best = max(range(len(groups)), key=scores.__getitem__)
        unheld = max(0, possible - len(groups))
        return answer_of(panel, groups[best], aggregator="weighted", confidence=_posterior(scores, best, unheld))

    def _possible_answers(self, panel: Panel, held: int) -> int:
        task_format = panel.query.task_format
        if task_format.kind is AnswerKind.CHOICE and len(task_format.options) >= 2:
            return len(task_format.options)
        return self.answers or held + 1

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether one answer has more weight than any other could still get. Where the number of possible answers hangs
        on those held, and with it every weight, that has to be the same one for each number there may be in the end."""
        if not pending:
            return True
        votes = votes_so_far(panel)
        if not votes:
            return False
        experts = {*pending, *(vote.expert_id for vote in votes)}
        held = len({vote.key for vote in votes})
        fewest = 1 if panel.query.task_format.kind is AnswerKind.NUMBER else held
        counts = {self._possible_answers(panel, number) for number in range(fewest, held + len(pending) + 1)}
        leaders = {
            safe_leader(panel, pending, weight=self._weights(panel, experts, possible).__getitem__)
            for possible in counts
        }
        return len(leaders) == 1 and None not in leaders

    def _weights(self, panel: Panel, expert_ids: Iterable[str], possible: int) -> Mapping[str, float]:
        weights = {}
        for expert_id in expert_ids:
            known = panel.p_correct(expert_id)
            p = min(max(self.prior if known is None else known, _P_RANGE[0]), _P_RANGE[1])
            weights[expert_id] = max(math.log(p * (possible - 1) / (1.0 - p)), _LEAST_WEIGHT)
        return weights


def _score(group: AnswerGroup, weights: Mapping[str, float]) -> float:
    """The exact sum of the members' weights (fsum), so that no order of adding can break or make a tie."""
    return math.fsum(weights[member.expert_id] for member in group.members)


def _posterior(scores: list[float], best: int, unheld: int) -> float:
    """Softmax of the scores; each possible answer that nobody holds has the score 0."""
    top = scores[best]
    held = math.fsum(math.exp(score - top) for score in scores)
    return 1.0 / (held + unheld * math.exp(-top))
