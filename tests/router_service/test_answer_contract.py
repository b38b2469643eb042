"""Whoever aggregates: `stop`, `max_tokens`, the JSON schema and the tools of a query hold for what comes out."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import jsonschema
import pytest

from aggregators.base import AGGREGATORS
from router_service.types import (
    Answered,
    AnswerKind,
    Assignment,
    Completion,
    Expert,
    Failed,
    Query,
    RouteControls,
    Sampling,
    TaskFormat,
    TokenDelta,
    ToolCall,
    Usage,
    user_query,
)
from tests.aggregators.panels import made
from tests.router_service.parts import FakeBackend, engine_of

every_aggregator = pytest.mark.parametrize("name", AGGREGATORS.names())

LIMIT, STOP = 9, "HALT"
CHOICE = TaskFormat(kind=AnswerKind.CHOICE, options=("one", "two", "three"))
TAIL = " because of this and that and much more than was wanted, HALT and then on and on"
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
PERSON = TaskFormat(kind=AnswerKind.JSON, json_schema=json.dumps({"name": "person", "schema": SCHEMA}))
TOOL = json.dumps({"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}})


made_once = functools.cache(made)
"""The aggregators as a service has them: made once, fitted once, for all queries."""


@dataclass
class Speaker:
    """Says `drafts[expert]` as a member and `written` in every call of an aggregator, within the query's limits."""

    drafts: dict[str, str | ToolCall]
    written: str = ""
    called: list[Query] = field(default_factory=list)

    def __call__(self, expert: Expert, assignment: Assignment, sample: int) -> Completion:
        query = assignment.query
        if query.parent_id is not None:
            self.called.append(query)
        said = self.written if query.parent_id is not None else self.drafts[expert.id]
        base = Completion(query_id=query.id, expert_id=expert.id, sample=sample)
        if isinstance(said, ToolCall):
            return replace(base, tool_calls=(said,), finish_reason="tool_calls", usage=Usage(completions=1))
        text, reason = limited(said, query.sampling)
        usage = Usage(completions=1, prompt_tokens=3, completion_tokens=len(words_of(text)), cost_usd=None)
        return replace(base, text=text, finish_reason=reason, usage=usage)


def limited(text: str, sampling: Sampling) -> tuple[str, str]:
    """What a backend that does as it is told gives of `text`; a word is a token."""
    for stop in sampling.stop:
        text = text.split(stop, 1)[0]
    words = words_of(text)
    if sampling.max_tokens is None or len(words) <= sampling.max_tokens:
        return text, "stop"
    return "".join(words[: sampling.max_tokens]), "length"


def words_of(text: str) -> list[str]:
    """The words with the white space before them."""
    return re.findall(r"\s*\S+", text)


class WholeTexts(FakeBackend):
    """A `FakeBackend` whose streamed pieces keep their spaces."""

    async def complete(self, expert, batch):
        for assignment in batch.assignments:
            for sample in range(assignment.first_sample, assignment.first_sample + assignment.samples):
                said = self.reply(expert, assignment, sample)
                if assignment.streams:
                    for word in words_of(said.text):
                        yield TokenDelta(query_id=assignment.query.id, text=word)
                    said = replace(said, text="".join(words_of(said.text)))
                yield said


async def outcome(name: str, speaker: Speaker, query: Query, *, streams: bool = False):
    """The end of the query, and the texts streamed before it."""
    engine = engine_of(WholeTexts(speaker), ids=tuple(speaker.drafts), aggregators={name: made_once(name)})
    asked = replace(query, controls=RouteControls(aggregator=name, streams=streams))
    deltas: list[str] = []
    async with aclosing(engine.stream([asked])) as events:
        async for event in events:
            if isinstance(event, TokenDelta):
                deltas.append(event.text)
            elif isinstance(event, Answered | Failed):
                return event, deltas
    raise AssertionError("the query has no end")


SAID = f"The answer is (B){TAIL}"
WRITTEN = {
    "the answer alone": SAID,
    "after steps": f"Step 1: nothing.\nStep 2: something else.\nFinal answer: {SAID}",
    "after a discussion": f'Done.\n>> FINAL ANSWER:\n"""\n{SAID}\n"""',
}


def choosing(*letters: str, written: str = SAID) -> Speaker:
    drafts = {f"e{n}": f"The answer is ({letter}){TAIL}" for n, letter in enumerate(letters)}
    return Speaker(drafts, written)


@every_aggregator
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("written", WRITTEN)
async def test_stop_and_max_tokens_hold_for_the_answer_whoever_writes_it(name, written, streams):
    speaker = choosing("A", "B", "C", written=WRITTEN[written])
    query = user_query("q", "Which?\n\nA) one\nB) two\nC) three", task_format=CHOICE)
    end, deltas = await outcome(
        name, speaker, replace(query, sampling=Sampling(stop=(STOP,), max_tokens=LIMIT)), streams=streams
    )
    assert isinstance(end, Answered), end
    text = end.response.answer.text
    assert STOP not in text
    assert 0 < len(text.split()) <= LIMIT
    assert "".join(deltas) in ("", text)


@every_aggregator
async def test_stop_alone_holds_too(name):
    query = replace(user_query("q", "Which?", task_format=CHOICE), sampling=Sampling(stop=(STOP, "this")))
    end, _ = await outcome(name, choosing("A", "B", "C"), query)
    assert isinstance(end, Answered), end
    text = end.response.answer.text
    assert STOP not in text and "this" not in text
    assert text.startswith("The answer is")


@every_aggregator
async def test_calls_that_are_not_the_answer_are_not_cut_by_the_callers_limits(name):
    speaker = choosing("A", "B", "C")
    query = replace(user_query("q", "Which?", task_format=CHOICE), sampling=Sampling(stop=(STOP,), max_tokens=LIMIT))
    await outcome(name, speaker, query)
    for asked in speaker.called:
        if asked.task_format == CHOICE:  # in the query's own format: it may become the answer
            assert asked.sampling.stop == (STOP,)
            assert asked.sampling.max_tokens is not None and asked.sampling.max_tokens <= LIMIT
        else:
            assert asked.sampling.stop == ()
            assert asked.sampling.max_tokens is None or asked.sampling.max_tokens > LIMIT


@every_aggregator
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("written", ['{"age": 4}', 'Well: {"age": 4,}', '{"age": "four"}', "no JSON", ""])
async def test_json_comes_out_as_demanded_whoever_writes_it(name, streams, written):
    drafts = {"e0": '{"age": 1}', "e1": 'I say\n```json\n{"age": 2}\n```', "e2": '{"age": "3"}', "e3": "dunno"}
    end, deltas = await outcome(
        name, Speaker(drafts, written), user_query("q", "How old?", task_format=PERSON), streams=streams
    )
    assert isinstance(end, Answered), end
    answer = end.response.answer
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    assert json.loads(answer.extracted) == json.loads(answer.text)
    assert deltas == [], "nothing is shown before it was checked as a whole"
    assert any(note.startswith("2 of 4 members did not vote") for note in answer.notes)


@every_aggregator
async def test_json_that_nobody_can_mend_is_a_failure_that_says_where(name):
    drafts = {"e0": '{"age": "1"}', "e1": '{"age": "2"}'}
    end, _ = await outcome(name, Speaker(drafts, '{"age": "x"}'), user_query("q", "How old?", task_format=PERSON))
    assert isinstance(end, Failed), end
    assert end.failure.code == "answer_invalid"
    assert "$.age" in end.failure.message
    assert len(end.failure.completions) == 2


@every_aggregator
async def test_json_that_one_call_mends_is_paid_for_and_noted(name):
    drafts = {"e0": '{"age": "1"}', "e1": '{"age": "1"}'}
    speaker = Speaker(drafts, '{"age": 1}')
    end, _ = await outcome(name, speaker, user_query("q", "How old?", task_format=PERSON))
    assert isinstance(end, Answered), end
    assert json.loads(end.response.answer.text) == {"age": 1}
    assert end.response.usage.completions == 2 + len(speaker.called) == 2 + end.response.answer.usage.completions
    assert end.response.answer.notes


def proposing(*arguments: str, written: str = "words") -> Speaker:
    calls = (ToolCall(id=f"c{n}", name="look_up", arguments=text) for n, text in enumerate(arguments))
    return Speaker({f"e{n}": call for n, call in enumerate(calls)} | {"text": "It is warm."}, written)


def with_tool(tool_choice: str | None) -> Query:
    return replace(user_query("q", "How old?"), tools=(TOOL,), tool_choice=tool_choice)


@every_aggregator
@pytest.mark.parametrize("tool_choice", ["required", '{"type":"function","function":{"name":"look_up"}}'])
async def test_one_call_that_fits_comes_out_where_a_call_is_demanded(name, tool_choice):
    speaker = proposing('{"age": "x"}', '{"age": 3}', '{"age":3}', "{}")
    end, _ = await outcome(name, speaker, with_tool(tool_choice))
    assert isinstance(end, Answered), end
    [call] = end.response.answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("look_up", {"age": 3})
    assert end.response.answer.finish_reason == "tool_calls"


@every_aggregator
async def test_no_call_that_fits_is_a_failure_where_a_call_is_demanded(name):
    end, _ = await outcome(name, proposing('{"age": "x"}', "{}"), with_tool("required"))
    assert isinstance(end, Failed), end
    assert end.failure.code == "answer_invalid"


@every_aggregator
async def test_with_auto_what_comes_out_is_text_or_a_call_that_fits(name):
    end, _ = await outcome(name, proposing('{"age": "x"}', '{"age": 3}'), with_tool("auto"))
    assert isinstance(end, Answered), end
    answer = end.response.answer
    assert [json.loads(call.arguments) for call in answer.tool_calls] in ([], [{"age": 3}])
    assert answer.tool_calls or answer.text


async def test_a_streamed_text_beside_a_call_is_not_shown_twice():
    engine_drafts: Sequence[str] = ("e0",)
    speaker = Speaker({expert_id: "It is warm." for expert_id in engine_drafts})
    end, deltas = await outcome("majority", speaker, with_tool("auto"), streams=True)
    assert isinstance(end, Answered)
    assert "".join(deltas) == end.response.answer.text == "It is warm."


async def test_one_member_alone_is_held_back_too_where_json_is_demanded():
    speaker = Speaker({"e0": 'Sure: {"age": 1}'})
    end, deltas = await outcome("majority", speaker, user_query("q", "How old?", task_format=PERSON), streams=True)
    assert isinstance(end, Answered)
    assert (end.response.answer.text, deltas) == ('{"age": 1}', [])
