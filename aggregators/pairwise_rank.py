"""Ranks one draft of every answer by comparing them in pairs, each pair in both orders (LLM-Blender).

The released ranker, PairRM, is a cross-encoder that reads the question and two candidates and gives a logit. Its
weights are no part of this package, so an LLM judges here: by what it says (+1, -1 or 0), or by how likely it finds
either verdict, which gives a logit too. Whoever has a learned ranker needs to write no more than a `compare` for
`aggregators.pairwise`: `compare_all` and the policies, or `bubble_winner`, do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from aggregators.ballot import gather_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Brief, brief
from aggregators.equivalence import AnswerGroup, group_answers
from aggregators.judges import choose_judge
from aggregators.majority import Majority
from aggregators.pairwise import bubble_winner, compare_all, max_logits, max_wins, shared_ranks
from aggregators.picks import TIE, read_pick
from aggregators.prompting import Stage
from aggregators.reading import planned_reading, reading_usage
from aggregators.standing import chosen_answer, kept_without_a_call, needs_no_call, vote_stands
from router_service.errors import BudgetExceeded, ExpertError, NoExpertAvailable
from router_service.types import Answer, Ask, Panel, ScoringAsk, Usage

__all__ = ["PairwiseRank"]

_PROMPT = "pairwise_v1"
_WORDED = ("Better: 1", "Better: 2")
_VERDICTS: dict[int | None, float] = {1: 1.0, 2: -1.0, TIE: 0.0, None: 0.0}


@AGGREGATORS.register("pairwise_rank")
class PairwiseRank:
    """A judge compares the earliest drafts of the answers held, two at a time, each pair in both orders.

    Both orders count alike, so that a judge that favours a place favours nobody. Mode `full` makes N(N - 1) comparisons
    of N answers at once, and ranks by `policy`: the mean over `C[i][j] - C[j][i]` (`max_logits`) or the comparisons won
    (`max_wins`); `bubble` makes 2(N - 1), one pass that keeps the winner. By `reply` a comparison is one call; by
    `likelihood` the judge writes nothing, but reads both verdicts, and `C[i][j]` is the log-likelihood of "Better: 1"
    less that of "Better: 2" (nats): two readings, a completion each, by a judge whose backend reads texts.

    Answers that come out level are settled by how many members hold them, then by which came first. The judge is
    `expert`, else the best-scored expert that is not on the panel, else the best of the panel. Temperature 0. Where no
    comparison tells a difference, the majority's answer stands.
    """

    keeps_text = True
    order_matters = True

    def __init__(
        self,
        *,
        expert: str | None = None,
        mode: Literal["full", "bubble"] = "full",
        policy: Literal["max_logits", "max_wins"] = "max_logits",
        by: Literal["reply", "likelihood"] = "reply",
        is_guarded: bool = True,
    ) -> None:
        """Without `is_guarded` drafts are shown as they are, for measuring what the guards are worth."""
        self.expert = expert
        self.mode = mode
        self.policy = policy
        self.by = by
        self.is_guarded = is_guarded

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """Every pair in both orders, two readings each by `likelihood`; in mode `bubble` the 2(N - 1) longest pairs."""
        if needs_no_call(panel):
            return ()
        groups = group_answers(panel.members, panel.query.task_format.kind)
        match = self._match(panel, groups)
        pairs = [(i, j) for i in range(len(groups)) for j in range(len(groups)) if i != j]
        planned = [match.planned(*pair) for pair in pairs]
        if self.mode == "bubble":
            longest = sorted(planned, key=lambda calls: -sum(call.prompt_tokens for call in calls))
            planned = longest[: 2 * (len(groups) - 1)]
        return tuple(call for calls in planned for call in calls)

    def degraded(self) -> Aggregator:
        """One pass instead of all pairs; after that the majority."""
        if self.mode == "bubble":
            return Majority()
        return PairwiseRank(expert=self.expert, mode="bubble", by=self.by, is_guarded=self.is_guarded)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The text of the member whose draft ranks first, unchanged."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator="pairwise_rank")
        if kept is not None:
            return kept
        if len(groups) == 1:
            return chosen_answer(panel, groups[0], aggregator="pairwise_rank")
        ranked = sorted(groups, key=lambda group: -len(group.members))
        match = self._match(panel, ranked)
        winner = await self._winner(match, ask)
        if not match.tells_a_difference():
            because = (
                min(match.problems) if match.problems else f"{match.judge} found none of {len(groups)} drafts better"
            )
            return await vote_stands(panel, ask=ask, because=because, usage=match.usage, notes=match.notes)
        return chosen_answer(panel, ranked[winner], aggregator="pairwise_rank", usage=match.usage, notes=match.notes)

    async def _winner(self, match: _Match, ask: Ask) -> int:
        """The place of the winner among the match's groups, those that most members hold first."""

        async def compare(left: int, right: int) -> float:
            return await match.compare(left, right, ask)

        if self.mode == "bubble":
            return await bubble_winner(len(match.groups), compare)
        comparisons = await compare_all(len(match.groups), compare)
        policy = max_logits if self.policy == "max_logits" else max_wins
        return shared_ranks(policy(comparisons)).index(1)

    def _match(self, panel: Panel, groups: Sequence[AnswerGroup]) -> _Match:
        judge = choose_judge(panel, expert=self.expert)
        return _Match(panel=panel, groups=groups, judge=judge, by=self.by, is_guarded=self.is_guarded)


@dataclass(slots=True, kw_only=True)
class _Match:
    """The comparisons of one panel: who judges what, and what came of it."""

    panel: Panel
    groups: Sequence[AnswerGroup]
    judge: str
    by: Literal["reply", "likelihood"]
    is_guarded: bool
    usage: Usage = Usage()
    found: dict[tuple[int, int], float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    cuts: set[str] = field(default_factory=set)

    def brief(self, left: int, right: int) -> Brief | None:
        pair = [self.groups[left].first, self.groups[right].first]
        stage = Stage(
            name=f"pairwise_rank/{left + 1}-{right + 1}", prompt=_PROMPT, temperature=0.0, is_guarded=self.is_guarded
        )
        return brief(self.panel, pair, expert_id=self.judge, stage=stage, order="given")

    def planned(self, left: int, right: int) -> tuple[PlannedCall, ...]:
        """What the comparison asks."""
        made = self.brief(left, right)
        if made is None:
            return ()
        if self.by == "reply":
            return (made.planned,)
        return tuple(planned_reading(self.panel, self.judge, query=made.query, text=verdict) for verdict in _WORDED)

    async def compare(self, left: int, right: int, ask: Ask) -> float:
        """Above 0 where the left one is better, below where the right one is, 0 where the judge does not tell."""
        made = self.brief(left, right)
        if made is not None and made.sheet.notes:
            self.cuts.update(made.sheet.notes)
        if made is None:
            self.problems.append("two drafts do not fit into the judge's window")
            value = 0.0
        else:
            value = await (self._said(made, ask) if self.by == "reply" else self._felt(made, ask))
        self.found[left, right] = value
        return value

    async def _said(self, made: Brief, ask: Ask) -> float:
        reply = await made.put(ask)
        self.usage += reply.usage
        pick = read_pick(reply.text, 2) if reply.problem is None else None
        if pick is None:
            self.problems.append(reply.problem or f"{self.judge} does not say which of two drafts is better")
        return _VERDICTS[pick]

    async def _felt(self, made: Brief, ask: Ask) -> float:
        if not isinstance(ask, ScoringAsk) or not ask.can_score(self.judge):
            self.problems.append(f"{self.judge} reads no texts, so compare by reply, or name another judge")
            return 0.0
        texts = [(made.query, verdict) for verdict in _WORDED]
        try:
            left, right = await ask.score(self.judge, texts)
        except (ExpertError, BudgetExceeded, NoExpertAvailable) as failure:
            self.problems.append(f"{self.judge} could not read ({failure.code}: {failure.message})")
            return 0.0
        self.usage += reading_usage(self.panel, self.judge, texts)
        return left.logprob_sum - right.logprob_sum

    def tells_a_difference(self) -> bool:
        """Whether any pair came out other than level, both orders counted."""
        return any(value != self.found[right, left] for (left, right), value in self.found.items())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller should know: cut drafts, and comparisons that came to nothing."""
        if not self.problems:
            return tuple(sorted(self.cuts))
        why = ", ".join(sorted(set(self.problems)))
        return (*sorted(self.cuts), f"{len(self.problems)} of {len(self.found)} comparisons came to nothing: {why}")
