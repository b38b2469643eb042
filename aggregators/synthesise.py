"""Lets LLMs read all drafts and write the answer, in one or more layers (Mixture-of-Agents, Symbolic-MoE)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aggregators.ballot import gather_votes, group_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Reply, brief
from aggregators.judges import best_writer
from aggregators.majority import Majority
from aggregators.prompting import Stage, reply_tokens
from aggregators.standing import kept_without_a_call, needs_no_call, vote_stands
from aggregators.writing import problem_of, read, written_answer
from router_service.errors import ConfigError
from router_service.types import Answer, Ask, Completion, Panel, Usage

__all__ = ["Synthesise"]

_PROMPT = "synthesise_v2"

_MOST_LAYERS = 8

_ESTIMATED_PER_TOKEN = 2
"""A draft of n tokens is estimated at no more than so many times n, its frame and its quoting included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """The drafts after a layer, and what it spent and noted."""

    drafts: tuple[Completion, ...]
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()


@AGGREGATORS.register("synthesise")
class Synthesise:
    """One call of one expert, the writer, over all drafts; the vote where that is not needed or does not come off.

    With more `layers` than one, every expert that finished first refines its own draft, having read all of the layer
    before, and the writer reads the last layer's drafts (Wang et al. 2024, "Mixture-of-Agents"): experts × (layers - 1)
    + 1 calls. Who fails in a layer is missing from the next; where all do, the drafts stay as they were. Experts that
    all come to one answer need no writer.

    A panel whose members all hold the same answer is kept as it is: the call could only spoil it. Tool calls cannot be
    written in prose, so a panel that holds any is voted on. Where the writer fails or may not be asked, the budget does
    not cover it, its window is too small, or no answer can be read out of what it wrote, the majority's answer stands
    and is marked as such (`Answer.aggregator == "majority"`, a note); what was spent is in its usage all the same. A
    text that was streamed to the caller already is kept, readable or not.
    """

    keeps_text = False
    order_matters = True

    def __init__(self, *, expert: str | None = None, layers: int = 1, is_guarded: bool = True) -> None:
        """`expert` writes; without it the recruit most likely to be right among those that finished.

        Without `is_guarded` drafts are shown as they are, for measuring what the guards are worth.
        """
        if not 1 <= layers <= _MOST_LAYERS:
            raise ConfigError(f"aggregator 'synthesise': layers is {layers}; allowed are 1 to {_MOST_LAYERS}")
        self.expert = expert
        self.layers = layers
        self.is_guarded = is_guarded

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """The calls of every layer; what later layers send is bounded by how long the drafts of the one before get."""
        if needs_no_call(panel):
            return ()
        proposers = _proposers(panel)
        rounds = [proposers] * (self.layers - 1) + [(self._writer(panel),)]
        calls = []
        for layer, experts in enumerate(rounds, start=1):
            for expert_id in experts:
                drafts = panel.members if layer == 1 else _longest_drafts(panel, proposers, self._stage(layer))
                made = brief(panel, drafts, expert_id=expert_id, stage=self._stage(layer, expert_id))
                calls += [made.planned] if made is not None else []
        return tuple(calls)

    def degraded(self) -> Aggregator:
        """One layer less; after the last one the majority."""
        if self.layers == 1:
            return Majority()
        return Synthesise(expert=self.expert, layers=self.layers - 1, is_guarded=self.is_guarded)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The written answer; its supporters are the members that hold it, or all of them where none does."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator="synthesise")
        if kept is not None:
            return kept
        last = _Round(drafts=panel.members)
        for layer in range(1, self.layers):
            last = await self._refined(panel, last, layer=layer, ask=ask)
            if await _agree(panel, last.drafts):
                return await written_answer(
                    panel, last.drafts[0], aggregator="synthesise", usage=last.usage, notes=last.notes
                )
        return await self._written(panel, last, ask)

    async def _refined(self, panel: Panel, before: _Round, *, layer: int, ask: Ask) -> _Round:
        """Every proposer's new draft after it has read those `before`."""
        briefs = [
            brief(panel, before.drafts, expert_id=expert_id, stage=self._stage(layer, expert_id))
            for expert_id in _proposers(panel)
        ]
        replies = await asyncio.gather(*(made.put(ask) for made in briefs if made is not None))
        refined = tuple(
            replace(read(reply.completion, panel), sample=0)
            for reply in replies
            if reply.completion is not None and reply.problem is None
        )
        problems = [reply.problem for reply in replies if reply.problem is not None]
        notes = [f"in layer {layer} {problem}" for problem in problems]
        if None in briefs:
            notes.append(f"in layer {layer} the drafts do not fit into {briefs.count(None)} windows")
        notes += sorted({note for made in briefs if made is not None for note in made.sheet.notes})
        usage = sum((reply.usage for reply in replies), start=before.usage)
        return _Round(drafts=refined or before.drafts, usage=usage, notes=(*before.notes, *notes))

    async def _written(self, panel: Panel, last: _Round, ask: Ask) -> Answer:
        writer = self._writer(panel)
        made = brief(panel, last.drafts, expert_id=writer, stage=self._stage(self.layers))
        if made is None:
            reply = Reply(problem=f"question and drafts do not fit into the window of {writer}")
        else:
            reply = await made.put(ask, is_visible=True)
        usage, notes = last.usage + reply.usage, (*last.notes, *(made.sheet.notes if made is not None else ()))
        problem = problem_of(reply, panel)
        if problem is not None or reply.completion is None:
            return await vote_stands(panel, ask=ask, because=str(problem), usage=usage, notes=notes)
        return await written_answer(panel, reply.completion, aggregator="synthesise", usage=usage, notes=notes)

    def _writer(self, panel: Panel) -> str:
        return self.expert or best_writer(panel)

    def _stage(self, layer: int, expert_id: str = "") -> Stage:
        """The last layer's stage, or an earlier one's for one expert: each reads the drafts in an order of its own."""
        name = "synthesise" if layer == self.layers else f"synthesise/{layer}/{expert_id}"
        return Stage(name=name, prompt=_PROMPT, keeps_format=True, is_guarded=self.is_guarded)


def _proposers(panel: Panel) -> tuple[str, ...]:
    return tuple(dict.fromkeys(member.expert_id for member in panel.members))


def _longest_drafts(panel: Panel, proposers: Sequence[str], stage: Stage) -> list[Completion]:
    """Drafts as long as a layer's may get; every digit is estimated at a token."""
    lengths = [_ESTIMATED_PER_TOKEN * reply_tokens(panel, expert_id, stage=stage) for expert_id in proposers]
    return [
        Completion(query_id=panel.query.id, expert_id=expert_id, text="7" * length)
        for expert_id, length in zip(proposers, lengths, strict=True)
    ]


async def _agree(panel: Panel, drafts: Sequence[Completion]) -> bool:
    """Whether the experts all came to one answer."""
    groups = await group_votes(drafts, panel.query.task_format.kind)
    return len(drafts) > 1 and len(groups) == 1 and len(groups[0].members) == len(drafts)
