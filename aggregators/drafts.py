"""Builds the one message that asks an LLM to make one answer of several drafts (Mixture-of-Agents' aggregate step).

Mixture-of-Agents (Wang et al. 2024) puts the instruction and the numbered drafts before the query; Symbolic-MoE sends
the same in the user's turn, then the question with its answer format. So does this. The template is filled exactly
once, and what is filled in is never read as template again.
"""

from __future__ import annotations

import importlib.resources
import json
import string
from collections.abc import Sequence
from dataclasses import replace

from aggregators.extract import without_thoughts
from router_service.types import AnswerKind, Completion, Message, Query, RouteControls, TaskFormat, TextPart

__all__ = ["PROMPT", "fair_shares", "number_drafts", "synthesis_query"]

PROMPT = "synthesise_v1.txt"
"""The prompt in use; its name carries its version."""

_CUT = "\n[...]\n"

_ANSWER_FORMATS = {
    AnswerKind.CHOICE: 'End with a line that reads "The answer is (X)", X being the letter of the right option.',
    AnswerKind.NUMBER: 'End with a line that reads "The answer is N", N being the number or formula alone.',
    AnswerKind.LITERAL: 'End with a line that reads "Answer: ...", with nothing but the answer after the colon.',
    AnswerKind.CODE: "End with the complete code in one fenced block.",
    AnswerKind.JSON: "Reply with one JSON value and nothing else.",
}


def synthesis_query(query: Query, members: Sequence[Completion], *, seed: int, max_draft_chars: int) -> Query:
    """The query that asks for one answer to `query` made of the members' drafts; it runs on the budget of `query`.

    Earlier turns stay as they are. The last user message is replaced (its images and audio kept), or, where the
    conversation ends on another role, one is added. Tools are offered no more: the answer is to be written.
    """
    template = string.Template(importlib.resources.files("aggregators").joinpath("prompts", PROMPT).read_text("utf-8"))
    text = template.substitute(
        drafts=number_drafts(members, max_draft_chars=max_draft_chars),
        question=query.text,
        answer_format=_answer_format(query.task_format),
    ).strip()
    return replace(
        query,
        id=f"{query.id}/synthesise",
        parent_id=query.id,
        messages=_with_last_user_text(query.messages, text),
        tool_choice="none" if query.tools else None,
        controls=RouteControls(streams=query.controls.streams),
        seed=seed,
        metadata={},
    )


def number_drafts(members: Sequence[Completion], *, max_draft_chars: int) -> str:
    """The members' texts without thoughts, headed "Draft 1:", "Draft 2:" without gaps; empty ones are skipped.

    A member of whom only the extracted answer is known drafts just that. Together the drafts take at most
    `max_draft_chars` characters, headings aside: short ones stay whole, and the long ones share the rest evenly. A
    draft that is cut keeps its beginning and, twice as long, its end, where the answer is.
    """
    drafts = [draft for member in members if (draft := without_thoughts(member.text) or member.extracted)]
    shares = fair_shares([len(draft) for draft in drafts], max_draft_chars)
    shown = (_cut(draft, share) for draft, share in zip(drafts, shares, strict=True))
    return "\n\n".join(f"Draft {number}:\n{draft}" for number, draft in enumerate(shown, start=1))


def fair_shares(lengths: Sequence[int], budget: int) -> list[int]:
    """How much of each length fits in `budget`: nothing is cut that is no longer than an even share of what is left."""
    shares = [0] * len(lengths)
    left = budget
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for done, index in enumerate(by_length):
        shares[index] = min(lengths[index], left // (len(lengths) - done))
        left -= shares[index]
    return shares


def _cut(draft: str, share: int) -> str:
    if len(draft) <= share:
        return draft
    kept = max(0, share - len(_CUT))
    head = kept // 3
    tail = kept - head
    return draft[:head] + _CUT + (draft[-tail:] if tail else "")


def _answer_format(task_format: TaskFormat) -> str:
    wanted = _ANSWER_FORMATS.get(task_format.kind, "")
    if task_format.json_schema:
        wanted += f" It must match this JSON schema: {_bare_schema(task_format.json_schema)}"
    return f"\n{wanted}" if wanted else ""


def _bare_schema(json_schema: str) -> str:
    """The schema without OpenAI's object around it; a text that is not JSON as it is, since its backend refuses it."""
    try:
        given = json.loads(json_schema)
    except ValueError:
        return json_schema
    is_wrapped = isinstance(given, dict) and {"name", "schema"} <= given.keys()
    return json.dumps(given["schema"]) if is_wrapped else json_schema


def _with_last_user_text(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    if not messages or messages[-1].role != "user":
        return (*messages, Message(role="user", content=text))
    last = messages[-1]
    if isinstance(last.content, str):
        return (*messages[:-1], replace(last, content=text))
    others = tuple(part for part in last.content if not isinstance(part, TextPart))
    return (*messages[:-1], replace(last, content=(TextPart(text=text), *others)))
