"""Holds an answer to what its query demands, whoever made it: JSON that satisfies the schema, tool calls that fit.

Before aggregation, a member that breaks the demands loses its vote where another keeps them. Afterwards the answer is
mended by rule, else the vote of those who keep the demands stands, else one call writes the JSON anew, else the query
fails. So what comes out satisfies the demands, or is an `AnswerInvalid` that names the place and the reason.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from aggregators.base import PlannedCall
from aggregators.demands import Demands, demands_of, has_schema
from aggregators.extract import extract
from aggregators.rewriting import planned_rewriting, rewrite
from aggregators.standing import vote_stands
from aggregators.tool_answers import with_own_ids
from router_service.errors import AggregationError, AnswerInvalid
from router_service.types import Answer, Ask, Completion, CompletionError, Panel, Query

__all__ = [
    "binds",
    "changes_members",
    "check_contract",
    "contract_members",
    "hold_to_contract",
    "holds_back",
    "planned_repair",
]

_REASONS_SHOWN = 3


def binds(query: Query) -> bool:
    """Whether who may vote is known only once all have answered, so that no outcome can be settled before."""
    return has_schema(query) or bool(query.tools) or query.tool_choice is not None


def changes_members(panel: Panel) -> bool:
    """Whether a member will vote otherwise than it reads now, or not at all: it ran past a stop sequence, or proposes
    tool calls that nobody asked for. So no outcome can be settled over it."""
    demands = demands_of(panel.query)
    return any(member.tool_calls or demands.cut(member.text) != member.text for member in panel.members)


def holds_back(query: Query) -> bool:
    """Whether the answer's tokens may not be shown as they come, because the whole is checked, and mended, first."""
    return has_schema(query)


def check_contract(query: Query) -> None:
    """Raise `InvalidQuery`, naming the place, for demands that no answer can be held to: a schema that is none or leads
    elsewhere, a tool without a name or offered twice."""
    demands_of(query)


def planned_repair(panel: Panel) -> tuple[PlannedCall, ...]:
    """The most calls that `hold_to_contract` makes for this panel: one where a JSON schema is demanded, else none."""
    if not has_schema(panel.query) or not panel.members:
        return ()
    planned = planned_rewriting(panel, demands_of(panel.query))
    return () if planned is None else (planned,)


async def contract_members(panel: Panel, *, shown: str = "") -> Panel:
    """The panel as an aggregator may see it.

    Where a member keeps the demands, those that break them count as failed, with code `answer_invalid` and the reason.
    Where none does, those whose JSON or arguments can be mended by rule are mended, and the others count as failed;
    where none can, all vote as they are. Every member's text ends before a stop sequence, but for one that the caller
    has read already (`shown`).
    """
    if not _is_bound(panel):
        return panel
    return await asyncio.to_thread(_admitted, panel, demands_of(panel.query), shown=shown)


async def hold_to_contract(answer: Answer, panel: Panel, *, ask: Ask, shown: str = "") -> Answer:
    """The answer as the query demands it, with notes on what was done; `panel` is what `contract_members` gave.

    `shown` is what the caller has read of it already: that much is left as it is. Raises `AnswerInvalid` where neither
    rules, nor the vote of the members, nor (for JSON) one call to have it written anew gives what is demanded.
    """
    if not _is_bound(panel) and not answer.tool_calls:
        return answer
    demands = demands_of(panel.query)
    kept, wrong = await _checked_answer(answer, panel, demands)
    why = wrong
    if kept is None:
        kept = await _voted(answer, panel, demands=demands, violation=wrong, ask=ask)
    if kept is None and demands.schema is not None and not demands.offer.is_required:
        rewriting = await rewrite(answer, panel, demands=demands, violation=wrong, ask=ask)
        kept, why = rewriting.answer, f"{wrong}; {rewriting.problem}"
    if kept is None:
        raise AnswerInvalid(
            f"query {panel.query.id!r}: no answer that satisfies what the query demands: {why}; "
            "recruit other experts, or demand less"
        )
    return _counted(_stopped(kept, demands, shown=shown), panel)


def _is_bound(panel: Panel) -> bool:
    """Whether there is anything to look at: demands, stop sequences, tool calls."""
    has_calls = any(member.tool_calls for member in panel.members)
    return binds(panel.query) or has_calls or bool(panel.query.sampling.stop)


# --- members -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A member as it may vote, or why it may not."""

    member: Completion
    violation: str | None


def _admitted(panel: Panel, demands: Demands, *, shown: str) -> Panel:
    heard = [c for c in panel.completions if c.succeeded]
    checked = {id(c): _checked(c if c.text == shown else demands.stopped(c), demands) for c in heard}
    if not any(check.violation is None for check in checked.values()):
        checked = {key: _mended(check, demands) for key, check in checked.items()}
    is_kept = any(check.violation is None for check in checked.values())
    admit = _or_failed if is_kept else _as_it_is
    return replace(panel, completions=tuple(admit(checked[id(c)]) if c.succeeded else c for c in panel.completions))


def _checked(member: Completion, demands: Demands) -> _Checked:
    reading = demands.reading(_said(member)) if not member.tool_calls else None
    violation = demands.violation(member.tool_calls, reading)
    if reading is not None:
        member = replace(member, extracted=reading.compact)
    return _Checked(member=member, violation=violation)


def _mended(check: _Checked, demands: Demands) -> _Checked:
    """Whether the member can be mended, with the value that it then holds; it is mended where it becomes the answer."""
    member = check.member
    if member.tool_calls:
        calls = demands.offer.mended(member.tool_calls)
        return _Checked(member=member, violation=demands.violation(calls, None))
    reading = demands.mended(_said(member))
    if reading is None or demands.offer.violation(()) is not None:
        return check
    return _Checked(member=replace(member, extracted=reading.compact), violation=None)


def _as_it_is(check: _Checked) -> Completion:
    """The member where nobody keeps the demands; one without any JSON holds its text, which may be written anew."""
    member = check.member
    return replace(member, extracted=member.extracted or member.text.strip() or None)


def _or_failed(check: _Checked) -> Completion:
    if check.violation is None:
        return check.member
    return replace(check.member, error=CompletionError(code=AnswerInvalid.code, message=check.violation))


def _said(member: Completion) -> str:
    """What it wrote; where only the extracted answer is known (a recorded one), that."""
    return member.text if member.text.strip() else member.extracted or ""


# --- the answer ----------------------------------------------------------------------------------------------------


async def _checked_answer(answer: Answer, panel: Panel, demands: Demands) -> tuple[Answer | None, str]:
    """`_kept`, off the event loop where a schema is to be checked."""
    if demands.schema is None and not answer.tool_calls:
        return _kept(answer, panel, demands)
    return await asyncio.to_thread(_kept, answer, panel, demands)


def _kept(answer: Answer, panel: Panel, demands: Demands) -> tuple[Answer | None, str]:
    """The answer as it may come out, mended by rule where that is needed; None, and why not, where it may not."""
    if answer.tool_calls:
        return _kept_calls(answer, panel, demands)
    text = demands.cut(answer.text if answer.text.strip() else answer.extracted or "")
    reading = demands.reading(text)
    violation = demands.violation((), reading)
    if violation is not None:
        reading = demands.mended(text)
        if reading is None or demands.offer.is_required:
            return None, violation
    if reading is None:  # any text will do
        return answer, ""
    notes = (*answer.notes, reading.done) if reading.done else answer.notes
    return replace(answer, text=reading.text, extracted=reading.compact, notes=notes), ""


def _kept_calls(answer: Answer, panel: Panel, demands: Demands) -> tuple[Answer | None, str]:
    calls, notes = answer.tool_calls, answer.notes
    violation = demands.violation(calls, None)
    if violation is not None:
        calls = demands.offer.mended(calls)
        notes = (*notes, "the arguments of a tool call were mended")
        if demands.violation(calls, None) is not None:
            return None, violation
    taken = {call.id for message in panel.query.messages for call in message.tool_calls}
    own = with_own_ids(calls, taken=taken, query_id=panel.query.id)
    return replace(answer, tool_calls=own, finish_reason="tool_calls", notes=notes), ""


async def _voted(answer: Answer, panel: Panel, *, demands: Demands, violation: str, ask: Ask) -> Answer | None:
    """The vote of the members, where what an aggregator made of them may not come out."""
    because = f"what {answer.aggregator} made breaks what the query demands ({violation})"
    try:
        voted = await vote_stands(panel, ask=ask, because=because, usage=answer.usage, notes=answer.notes)
    except AggregationError:
        return None
    kept, _ = await _checked_answer(voted, panel, demands)
    return kept


def _stopped(answer: Answer, demands: Demands, *, shown: str) -> Answer:
    """The text up to a stop sequence, in case a backend or an aggregator did not see to it."""
    text = demands.cut(answer.text)
    if text == answer.text or demands.schema is not None or len(shown) > len(text):
        return answer
    return replace(answer, text=text, extracted=extract(text, demands.task_format), finish_reason="stop")


def _counted(answer: Answer, panel: Panel) -> Answer:
    """The answer with those who lost their vote counted: named in a note, and in the agreement as finished members."""
    out = [c for c in panel.completions if c.error is not None and c.error.code == AnswerInvalid.code]
    if not out:
        return answer
    finished = len(panel.members) + len(out)
    reasons = [f"{member.expert_id}: {member.error.message}" for member in out[:_REASONS_SHOWN] if member.error]
    more = f" (and {len(out) - _REASONS_SHOWN} more)" if len(out) > _REASONS_SHOWN else ""
    note = f"{len(out)} of {finished} members did not vote: {'; '.join(reasons)}{more}"
    return replace(answer, agreement=answer.agreement * len(panel.members) / finished, notes=(note, *answer.notes))
