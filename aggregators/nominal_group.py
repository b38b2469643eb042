"""Lets one LLM lead the drafts to an answer in the seven steps of the nominal group technique."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Brief, Reply, brief
from aggregators.drafts import DraftSheet
from aggregators.endings import after_last, steps
from aggregators.equivalence import AnswerGroup
from aggregators.extract import extract, without_thoughts
from aggregators.judges import best_writer
from aggregators.leaning import by_weight, weight_of
from aggregators.majority import Majority
from aggregators.prompting import Stage
from aggregators.standing import kept_without_a_call, needs_no_call, vote_stands
from aggregators.writing import written_answer
from router_service.types import Answer, AnswerKind, Ask, Panel

__all__ = ["NominalGroup"]

_PROMPT = "nominal_group_v1"

_LEAST_TOKENS = 2048
"""Room for seven steps besides the answer itself; more only where the query asks for a longer answer than this."""

_SHORT_KINDS = frozenset({AnswerKind.CHOICE, AnswerKind.NUMBER, AnswerKind.LITERAL})

_FINAL = re.compile(r"\bfinal\s+answer[*_]{0,3}\s{0,3}:[*_]{0,3}", re.IGNORECASE)
_A_DRAFT = re.compile(r"\W*(?:the\s+answer\s+(?:of|in)\s+)?draft\s*(\d{1,3})\W*", re.IGNORECASE)
_COMBINED, _BEST = 6, 7
"""The steps in which the answer stands, where no final one is marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The answer's text in a reply, and what the caller should know of where it stood."""

    text: str
    notes: tuple[str, ...] = ()


@AGGREGATORS.register("nominal_group")
class NominalGroup:
    """One call: the writer lists what the drafts agree on, settles their conflicts, adds what only one knows, combines
    it, and chooses the best of the drafts and the combined answer (Long et al. 2024, "Multi-expert Prompting", the
    third of its calls, over the drafts of real experts).

    Only what follows the last "Final answer:" becomes the answer, so it comes at once and is not streamed as it is
    written. Where that is missing, the step that holds an answer is taken, with a note; a final answer that only names
    a draft is that draft. A unanimous panel is kept, tool calls are voted on, and where the writer fails, may not be
    asked or leaves nothing to read, the majority's answer stands, with a note.

    With `deterministic`, short answers (choice, number, literal) need no call: the answer that more than half of those
    who answered hold, else the one of most weight (the sum of P(correct)), the earliest of level ones.
    """

    keeps_text = False
    order_matters = True

    def __init__(self, *, expert: str | None = None, deterministic: bool = False, is_guarded: bool = True) -> None:
        """`expert` writes; without it the recruit most likely to be right among those that finished.

        Without `is_guarded` drafts are shown as they are, for measuring what the guards are worth.
        """
        self.expert = expert
        self.deterministic = deterministic
        self.is_guarded = is_guarded

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """One call, or none: a panel that agrees, a count that decides, drafts that do not fit into the window."""
        if needs_no_call(panel) or self._counts(panel):
            return ()
        made = self._brief(panel)
        return (made.planned,) if made is not None else ()

    def degraded(self) -> Aggregator:
        """The majority."""
        return Majority()

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The writer's final answer; its supporters are the members that hold it, or all of them where none does."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator="nominal_group")
        if kept is not None:
            return kept
        if self._counts(panel):
            return _counted(panel, groups)
        made = self._brief(panel)
        if made is None:
            return await vote_stands(panel, ask=ask, because="question and drafts do not fit into the writer's window")
        reply = await made.put(ask)
        found = _found(reply, made.sheet, panel) if reply.problem is None else None
        if reply.completion is None or found is None:
            because = reply.problem or f"no answer can be read out of what {made.expert_id} wrote"
            return await vote_stands(panel, ask=ask, because=because, usage=reply.usage, notes=made.sheet.notes)
        written = replace(reply.completion, text=found.text)
        notes = (*made.sheet.notes, *found.notes)
        return await written_answer(panel, written, aggregator="nominal_group", usage=reply.usage, notes=notes)

    def _counts(self, panel: Panel) -> bool:
        return self.deterministic and panel.query.task_format.kind in _SHORT_KINDS

    def _brief(self, panel: Panel) -> Brief | None:
        limit = max(_LEAST_TOKENS, panel.query.sampling.max_tokens or 0)
        stage = Stage(name="nominal_group", prompt=_PROMPT, max_tokens=limit, is_guarded=self.is_guarded)
        return brief(panel, panel.members, expert_id=self.expert or best_writer(panel), stage=stage)


def _counted(panel: Panel, groups: Sequence[AnswerGroup]) -> Answer:
    """What more than half of those who answered hold, else what weighs most; confidence is its share of the weight."""
    answering = sum(len(group.members) for group in groups)
    shared = [group for group in groups if 2 * len(group.members) > answering]
    winner = shared[0] if shared else by_weight(panel, groups)[0]
    weights = math.fsum(weight_of(panel, group) for group in groups)
    confidence = weight_of(panel, winner) / weights if weights else None
    return answer_of(panel, winner, aggregator="nominal_group", confidence=confidence)


def _found(reply: Reply, sheet: DraftSheet, panel: Panel) -> _Found | None:
    """The first of the places an answer may stand in that holds one which can be read.

    A reply that was cut off before its final answer holds none: its last step may be half a sentence, or the model ran
    in circles.
    """
    text = reply.text
    final, written = after_last(text, _FINAL), steps(text)
    if final is not None:
        named = _A_DRAFT.fullmatch(final)
        member = sheet.member(int(named[1])) if named else None
        if member is not None:
            return _Found(text=without_thoughts(member.text) or member.extracted or "")
        if named is None and extract(final, panel.query.task_format) is not None:
            return _Found(text=final)
    if reply.completion is None or reply.completion.finish_reason == "length":
        return None
    is_short = panel.query.task_format.kind in _SHORT_KINDS
    for number in (_BEST, _COMBINED) if is_short else (_COMBINED,):
        if number in written and extract(written[number], panel.query.task_format) is not None:
            return _Found(text=written[number], notes=(f"no final answer was marked: step {number} holds it",))
    whole = without_thoughts(text)
    if not written and final is None and extract(whole, panel.query.task_format) is not None:
        return _Found(text=whole, notes=("the seven steps were not kept to: the reply is taken as a whole",))
    return None
