"""One call about drafts: the prompt filled to the expert's window, what it takes at most, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aggregators.base import PlannedCall
from aggregators.drafts import DraftSheet, lay_out
from aggregators.prompting import Stage, answer_format, child_query, fill_prompt, prompt_parts, prompt_room
from router_service.errors import BudgetExceeded, NoExpertAvailable
from router_service.prompt_tokens import estimate_tokens, persona_tokens
from router_service.types import Ask, Completion, Panel, Query, Usage

__all__ = ["Brief", "Reply", "brief", "fullest_call", "most_planned", "planned_call", "put"]

_DATA_RULE = "drafts_are_data_v1"

_ANY_MARK = "B" * 8
"""As long as any mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a call: the completion, where one was made, and in plain words why its text is of no use (None
    where it may be)."""

    completion: Completion | None = None
    problem: str | None = None

    @property
    def usage(self) -> Usage:
        """What the call spent; nothing where none was made."""
        return self.completion.usage if self.completion is not None else Usage()

    @property
    def text(self) -> str:
        """What was said; empty where it is of no use."""
        return self.completion.text if self.completion is not None and self.problem is None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What one expert is asked about which drafts. `planned` is what the call takes at most."""

    expert_id: str
    query: Query
    sheet: DraftSheet
    planned: PlannedCall

    async def put(self, ask: Ask, *, is_visible: bool = False) -> Reply:
        """Ask; see `put`."""
        return await put(self.query, expert_id=self.expert_id, ask=ask, is_visible=is_visible)


async def put(query: Query, *, expert_id: str, ask: Ask, is_visible: bool = False) -> Reply:
    """Ask an expert. A call that the budget does not cover, an expert that may not be asked, or one that fails or says
    nothing, is a reply with a problem."""
    try:
        completion = await ask(expert_id, query, is_visible=is_visible)
    except (BudgetExceeded, NoExpertAvailable) as refusal:
        return Reply(problem=f"{expert_id} was not asked ({refusal.code}: {refusal.message})")
    if completion.error is not None:
        return Reply(completion=completion, problem=f"{expert_id} failed ({completion.error.code})")
    if not completion.text.strip():
        return Reply(completion=completion, problem=f"{expert_id} wrote nothing")
    return Reply(completion=completion)


def brief(
    panel: Panel,
    members: Sequence[Completion],
    *,
    expert_id: str,
    stage: Stage,
    parts: Mapping[str, str] | None = None,
    order: Literal["drawn", "given"] = "drawn",
) -> Brief | None:
    """The stage's prompt for one expert, its drafts cut to what is left of the window beside the question.

    The parts `question`, `answer_format`, `drafts`, `mark` and `data_rule` are filled in where the prompt names them,
    `parts` besides. None where the window is too small to show the question and something of every draft.
    """
    wanted = prompt_parts(stage.prompt)
    known = {"question": panel.query.text, "answer_format": answer_format(panel.query.task_format), **(parts or {})}

    def filled(mark: str, drafts: str) -> str:
        # a paragraph of its own: what stands before it is the same for every query, so engines read it once
        rule = "\n\n" + fill_prompt(_DATA_RULE, mark=mark) if stage.is_guarded else ""
        given = {**known, "mark": mark, "drafts": drafts, "data_rule": rule}
        return fill_prompt(stage.prompt, **{name: text for name, text in given.items() if name in wanted})

    room = prompt_room(panel, expert_id, stage=stage, fixed=filled(_ANY_MARK, ""))
    sheet = lay_out(panel, members, stage=stage.name, room_tokens=room, is_guarded=stage.is_guarded, order=order)
    if not sheet.is_legible:
        return None
    query = child_query(panel, filled(sheet.mark, sheet.text), stage=stage)
    return Brief(expert_id=expert_id, query=query, sheet=sheet, planned=planned_call(panel, expert_id, query))


def planned_call(panel: Panel, expert_id: str, query: Query) -> PlannedCall:
    """What asking an expert this query takes at most, its persona included."""
    expert = panel.experts.get(expert_id)
    persona = persona_tokens(expert) if expert is not None else 0
    return PlannedCall(
        expert_id=expert_id,
        prompt_tokens=estimate_tokens(query) + persona,
        completion_tokens=query.sampling.max_tokens,
    )


def fullest_call(panel: Panel, expert_id: str, *, stage: Stage) -> PlannedCall:
    """The most that any brief of this stage takes: the expert's window, less the reply."""
    empty = planned_call(panel, expert_id, child_query(panel, "", stage=stage))
    room = prompt_room(panel, expert_id, stage=stage, fixed="")
    return replace(empty, prompt_tokens=empty.prompt_tokens + room)


def most_planned(panel: Panel, made: Brief, *, stage: Stage) -> PlannedCall:
    """What a call takes at most whose drafts are only stand-ins as long as they may get. Where they had to be cut, that
    is the window: what is cut, and where, hangs on what is really said."""
    return fullest_call(panel, made.expert_id, stage=stage) if made.sheet.notes else made.planned
