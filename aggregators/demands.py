"""What one query demands of its answer, read once: the JSON schema, the tools, the stop sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aggregators.extract import extract
from aggregators.json_answers import JsonReading, mend_json, read_json
from aggregators.schemas import JsonSchema, read_schema
from aggregators.tool_answers import ToolOffer, offer_of
from router_service.types import AnswerKind, Completion, Query, TaskFormat, ToolCall

__all__ = ["Demands", "demands_of", "has_schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """A query's demands, ready to be checked against what members and writers say."""

    schema: JsonSchema | None
    offer: ToolOffer
    stop: tuple[str, ...]
    task_format: TaskFormat

    def cut(self, text: str) -> str:
        """The text up to the first stop sequence."""
        ends = [end for stop in self.stop if stop and (end := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def stopped(self, member: Completion) -> Completion:
        """The member with its text, and what is read out of it, up to the first stop sequence."""
        text = self.cut(member.text)
        if text == member.text:
            return member
        return replace(member, text=text, extracted=extract(text, self.task_format), finish_reason="stop")

    def reading(self, text: str) -> JsonReading | None:
        """The JSON value in a text; None where there is none, or none is demanded."""
        return self._writable(read_json(text, self.schema)) if self.schema is not None else None

    def mended(self, text: str) -> JsonReading | None:
        """The JSON value of a broken text, mended so that it satisfies the schema; None where that cannot be."""
        reading = self._writable(mend_json(text, self.schema)) if self.schema is not None else None
        return reading if reading is not None and reading.violation is None else None

    def violation(self, calls: tuple[ToolCall, ...], reading: JsonReading | None) -> str | None:
        """Why a reply with these tool calls, or else this JSON value, may not be the answer; None where it may."""
        wrong = self.offer.violation(calls)
        if wrong is not None or calls or self.schema is None:
            return wrong
        return "it holds no JSON value" if reading is None else reading.violation

    def _writable(self, reading: JsonReading | None) -> JsonReading | None:
        """The reading in a text without stop sequences, which nobody would have written."""
        if reading is None or self.cut(reading.text) == reading.text:
            return reading
        if self.cut(reading.compact) == reading.compact:
            return replace(reading, text=reading.compact)
        return replace(reading, violation=reading.violation or "it cannot be written without a stop sequence in it")


def demands_of(query: Query) -> Demands:
    """The demands of a query; raises `InvalidQuery`, naming the place, where no answer could be held to them."""
    schema = query.task_format.json_schema if has_schema(query) else None
    return Demands(
        schema=None if schema is None else read_schema(schema),
        offer=offer_of(query.tools, query.tool_choice),
        stop=query.sampling.stop,
        task_format=query.task_format,
    )


def has_schema(query: Query) -> bool:
    """Whether the answer must be a JSON value that satisfies a schema; `kind` JSON alone only says how it is read."""
    return query.task_format.kind is AnswerKind.JSON and query.task_format.json_schema is not None
