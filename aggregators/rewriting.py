"""One call that writes a broken JSON answer anew: the last resort, where rules and votes have not helped."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aggregators.base import PlannedCall
from aggregators.briefs import Brief, brief
from aggregators.demands import Demands
from aggregators.judges import best_writer
from aggregators.prompting import Stage
from aggregators.quoting import clean, quoted
from router_service.types import Answer, Ask, Completion, Panel

__all__ = ["Rewriting", "planned_rewriting", "rewrite"]

_STAGE = Stage(name="repair_json", prompt="repair_json_v1", temperature=0.0, keeps_format=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """What came of the call: the answer, or in plain words why there is none."""

    answer: Answer | None = None
    problem: str = ""


async def rewrite(answer: Answer, panel: Panel, *, demands: Demands, violation: str, ask: Ask) -> Rewriting:
    """Ask the panel's best writer once for the same reply as JSON that satisfies the schema; its usage is added."""
    asked = _brief(panel, answer.text or answer.extracted or "", demands=demands, violation=violation)
    if asked is None:
        return Rewriting(problem="the window of the expert that would write it anew is too small")
    reply = await asked.put(ask)
    if reply.problem is not None:
        return Rewriting(problem=reply.problem)
    text = demands.cut(reply.text)
    reading = demands.reading(text)
    if reading is None or reading.violation is not None:
        reading = demands.mended(text) or reading
    wrong = demands.violation((), reading)
    if reading is None or wrong is not None:
        return Rewriting(problem=f"{asked.expert_id} wrote it anew, and {wrong}")
    note = f"the answer broke what the query demands ({violation}), and {asked.expert_id} wrote it anew"
    finish_reason = reply.completion.finish_reason if reply.completion is not None else None
    return Rewriting(
        answer=replace(
            answer,
            text=reading.text,
            extracted=reading.compact,
            usage=answer.usage + reply.usage,
            finish_reason=finish_reason or "stop",
            notes=(*answer.notes, *asked.sheet.notes, note),
        )
    )


def planned_rewriting(panel: Panel, demands: Demands) -> PlannedCall | None:
    """The call as it is at most: the longest member's text is the one to be written anew. None where the window of the
    expert is too small for it, so that nobody will be asked."""
    longest = max((member.text or member.extracted or "" for member in panel.members), key=len)
    asked = _brief(panel, longest, demands=demands, violation="x" * _VIOLATION_CHARS)
    return asked.planned if asked is not None else None


_VIOLATION_CHARS = 600
"""A validator's message with its place, at the longest."""


def _brief(panel: Panel, text: str, *, demands: Demands, violation: str) -> Brief | None:
    writer = best_writer(panel)
    broken = Completion(query_id=panel.query.id, expert_id=writer, text=text)
    schema = demands.schema.text if demands.schema is not None else ""
    parts = {"schema": schema, "violation": quoted(clean(violation))}  # it may quote the draft
    return brief(panel, [broken], expert_id=writer, stage=_STAGE, parts=parts)
