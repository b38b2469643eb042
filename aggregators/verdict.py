"""Lets a judge that is not on the panel read its most plausible drafts and give the verdict (Speculative Verdict)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aggregators.ballot import gather_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Brief, Reply, brief, fullest_call, most_planned
from aggregators.drafts import lay_out
from aggregators.equivalence import AnswerGroup, group_answers
from aggregators.judges import choose_judge
from aggregators.majority import Majority
from aggregators.peer_reading import Reading, planned_readings, read_by_peers
from aggregators.plausibility import most_plausible, peer_scores, stand_in_nll
from aggregators.prompting import Stage
from aggregators.standing import kept_without_a_call, needs_no_call, vote_stands
from aggregators.writing import problem_of, written_answer
from router_service.errors import ConfigError
from router_service.prompt_tokens import text_tokens
from router_service.types import Answer, Ask, Completion, Panel, Usage

__all__ = ["Verdict"]

_STAGE = "verdict"
_PROMPT = "verdict_v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The drafts that are kept, and what choosing them spent and noted."""

    members: tuple[Completion, ...]
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()


@AGGREGATORS.register("verdict")
class Verdict:
    """The `keep` drafts that the panel finds most plausible are read, reasons and all, by one judge, which answers.

    Plausibility is `s(y_i) = sum over the others j of |NLL_j(y_i) - NLL_j(y_j)|`, smaller is better, NLL_j being the
    mean negative log-likelihood of an answer under the expert that wrote draft j; `is_one_sided` counts only what a
    peer likes less than its own. Source: Speculative Verdict, released code
    github.com/Tinaliu0123/speculative-verdict, commit 44200842, which has five drafts, keeps three, and judges at
    temperature 0. With `scores`, and where `ask` can have every expert of the panel read texts, each of the k experts
    reads each different answer: at most k × k readings, planned and paid as one completion each, before the one call of
    the judge. Else a peer that holds the same answer finds it as likely as its own, and nothing is read
    (`stand_in_nll`). Nothing is read either where there are no more drafts than are kept.

    The judge is `expert`, else the best-scored expert that is not on the panel, else the best of the panel. Unanimous
    panels are kept, tool calls voted on, and where the judge does not come off, the majority's answer stands, as with
    `synthesise`.
    """

    keeps_text = False
    order_matters = True

    def __init__(
        self,
        *,
        expert: str | None = None,
        keep: int = 3,
        scores: bool = True,
        is_one_sided: bool = False,
        is_guarded: bool = True,
    ) -> None:
        """Without `is_guarded` drafts are shown as they are, for measuring what the guards are worth."""
        if keep < 1:
            raise ConfigError(f"aggregator 'verdict': keep is {keep}; the judge reads 1 draft or more")
        self.expert = expert
        self.keep = keep
        self.scores = scores
        self.is_one_sided = is_one_sided
        self.is_guarded = is_guarded

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """The readings, where there are any, and the judge's call, at its longest."""
        if needs_no_call(panel):
            return ()
        groups = group_answers(panel.members, panel.query.task_format.kind)
        readings = planned_readings(panel, groups) if self._reads(panel, groups) else ()
        made = self._brief(panel, self._largest(panel))
        if made is not None:
            return (*readings, most_planned(panel, made, stage=self._stage()))
        if len(panel.members) <= self.keep:
            return readings
        return (*readings, fullest_call(panel, choose_judge(panel, expert=self.expert), stage=self._stage()))

    def degraded(self) -> Aggregator:
        """The stand-in for the readings; after that the majority."""
        if not self.scores:
            return Majority()
        return Verdict(
            expert=self.expert,
            keep=self.keep,
            scores=False,
            is_one_sided=self.is_one_sided,
            is_guarded=self.is_guarded,
        )

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The verdict; its supporters are the members that hold it, or all of them where none does."""
        groups = await gather_votes(panel)
        answer = await kept_without_a_call(panel, groups, ask=ask, aggregator="verdict")
        if answer is not None:
            return answer
        kept = await self._kept(panel, groups, ask)
        made = self._brief(panel, kept.members)
        if made is None:
            reply = Reply(problem="question and drafts do not fit into the judge's window")
        else:
            reply = await made.put(ask, is_visible=True)
        usage, notes = kept.usage + reply.usage, (*kept.notes, *(made.sheet.notes if made is not None else ()))
        problem = problem_of(reply, panel)
        if problem is not None or reply.completion is None:
            return await vote_stands(panel, ask=ask, because=str(problem), usage=usage, notes=notes)
        return await written_answer(panel, reply.completion, aggregator="verdict", usage=usage, notes=notes)

    def _brief(self, panel: Panel, members: Sequence[Completion]) -> Brief | None:
        judge = choose_judge(panel, expert=self.expert)
        return brief(panel, members, expert_id=judge, stage=self._stage())

    def _stage(self) -> Stage:
        return Stage(name=_STAGE, prompt=_PROMPT, temperature=0.0, keeps_format=True, is_guarded=self.is_guarded)

    def _largest(self, panel: Panel) -> list[Completion]:
        """As many drafts as are kept, those that take most room as they are shown."""

        def size(member: Completion) -> int:
            sheet = lay_out(panel, [member], stage=_STAGE, room_tokens=1 << 30, is_guarded=self.is_guarded)
            return text_tokens(sheet.text)

        return sorted(panel.members, key=size, reverse=True)[: self.keep]

    def _reads(self, panel: Panel, groups: Sequence[AnswerGroup]) -> bool:
        """Whether drafts have to be chosen among, and likelihoods could tell more than who agrees with whom."""
        return self.scores and len(panel.members) > self.keep and len(groups) > 1

    async def _kept(self, panel: Panel, groups: Sequence[AnswerGroup], ask: Ask) -> _Kept:
        """The most plausible drafts, in the panel's order; ties go by the panel's seed."""
        if len(panel.members) <= self.keep:
            return _Kept(members=panel.members)
        reading = await read_by_peers(panel, groups, ask=ask) if self._reads(panel, groups) else Reading()
        nll = reading.nll or stand_in_nll([_group_number(member, groups) for member in panel.members])
        scores = peer_scores(nll, is_one_sided=self.is_one_sided)
        places = sorted(most_plausible(scores, self.keep, seed=panel.decision.seed))
        return _Kept(members=tuple(panel.members[i] for i in places), usage=reading.usage, notes=reading.notes)


def _group_number(member: Completion, groups: Sequence[AnswerGroup]) -> int:
    """Which group a member is in; -1 for none."""
    return next((number for number, group in enumerate(groups) if any(member is other for other in group.members)), -1)
