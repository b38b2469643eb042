"""Lets one LLM read one draft of every answer and pick the best (LLM-as-a-judge, listwise)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from aggregators.ballot import gather_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Brief, Reply, brief
from aggregators.equivalence import AnswerGroup, group_answers
from aggregators.judges import choose_judge
from aggregators.majority import Majority
from aggregators.picks import TIE, read_pick
from aggregators.prompting import Stage
from aggregators.standing import chosen_answer, kept_without_a_call, needs_no_call, vote_stands
from router_service.errors import ConfigError
from router_service.types import Answer, Ask, Panel, Usage

__all__ = ["BestOf"]

_PROMPT = "best_of_v1"
_MOST_VOTES = 16


@AGGREGATORS.register("best_of")
class BestOf:
    """One call: the judge reads the earliest draft of every answer that is held and names the best by its number.

    With more `votes` than one it is asked as often, the drafts in another drawn order each time, so that no place is
    favoured, and the answer picked most often wins; of level ones that which more members hold, then the earlier. The
    judge is `expert`, else the best-scored expert that is not on the panel (nobody judges a draft of its own), else
    the best of the panel. Temperature 0. Where no pick can be read, the majority's answer stands.
    """

    keeps_text = True
    order_matters = True

    def __init__(self, *, expert: str | None = None, votes: int = 1, is_guarded: bool = True) -> None:
        """Without `is_guarded` drafts are shown as they are, for measuring what the guards are worth."""
        if not 1 <= votes <= _MOST_VOTES:
            raise ConfigError(f"aggregator 'best_of': votes is {votes}; allowed are 1 to {_MOST_VOTES}")
        self.expert = expert
        self.votes = votes
        self.is_guarded = is_guarded

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """One call a vote; none where all hold one answer."""
        if needs_no_call(panel):
            return ()
        groups = group_answers(panel.members, panel.query.task_format.kind)
        return tuple(made.planned for made in self._briefs(panel, groups)) if len(groups) > 1 else ()

    def degraded(self) -> Aggregator:
        """A single vote; after that the majority."""
        return Majority() if self.votes == 1 else BestOf(expert=self.expert, is_guarded=self.is_guarded)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The text of the member whose draft was picked, unchanged."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator="best_of")
        if kept is not None:
            return kept
        if len(groups) == 1:
            return chosen_answer(panel, groups[0], aggregator="best_of")
        briefs = self._briefs(panel, groups)
        if not briefs:
            return await vote_stands(panel, ask=ask, because="question and drafts do not fit into the judge's window")
        replies = await asyncio.gather(*(made.put(ask) for made in briefs))
        picks = [_picked(reply, made, groups) for reply, made in zip(replies, briefs, strict=True)]
        usage = sum((reply.usage for reply in replies), start=Usage())
        notes = briefs[0].sheet.notes
        unread = picks.count(None)
        if unread == len(picks):
            problem = replies[0].problem or f"{briefs[0].expert_id} picked none of {len(groups)} drafts"
            return await vote_stands(panel, ask=ask, because=problem, usage=usage, notes=notes)
        if unread:
            notes = (*notes, f"{unread} of {len(picks)} picks came to nothing")
        winner = _most_picked(picks, groups)
        return chosen_answer(panel, winner, aggregator="best_of", usage=usage, notes=notes)

    def _briefs(self, panel: Panel, groups: Sequence[AnswerGroup]) -> list[Brief]:
        """One a vote, each with the drafts in an order of its own; none where they do not fit."""
        judge = choose_judge(panel, expert=self.expert)
        candidates = [group.first for group in groups]
        made = []
        for vote in range(self.votes):
            name = "best_of" if self.votes == 1 else f"best_of/{vote + 1}"
            stage = Stage(name=name, prompt=_PROMPT, temperature=0.0, is_guarded=self.is_guarded)
            parts = {"count": str(len(candidates))}
            made.append(brief(panel, candidates, expert_id=judge, stage=stage, parts=parts))
        return [one for one in made if one is not None]


def _picked(reply: Reply, made: Brief, groups: Sequence[AnswerGroup]) -> AnswerGroup | None:
    pick = read_pick(reply.text, len(made.sheet.drafts))
    member = made.sheet.member(pick) if pick is not None and pick != TIE else None
    return next((group for group in groups if group.first is member), None)


def _most_picked(picks: Sequence[AnswerGroup | None], groups: Sequence[AnswerGroup]) -> AnswerGroup:
    counts = Counter(group.key for group in picks if group is not None)
    return max(groups, key=lambda group: (counts[group.key], len(group.members)))
