"""The seven steps: what becomes the answer, what does not, and when no call is made."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import aggregators
from aggregators.majority import Majority
from aggregators.nominal_group import NominalGroup
from router_service.errors import BudgetExceeded, NoExpertAvailable
from router_service.types import AnswerKind, CompletionError, RouteControls, Sampling, TaskFormat, ToolCall
from tests.aggregators.panels import CALL_USAGE, FakeAsk, panel, pool_of, said

MEMBERS = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]
FREE = TaskFormat()
STEPS = "Step 1: all name a letter.\nStep 2: A and B.\nStep 3: B.\nStep 4: none.\nStep 5: B.\nStep 6: {}\nStep 7: {}\n"
FULL = STEPS.format("It is (B).", "the combined one.") + "Final answer:\nWeighed by all: the answer is (B)."


async def made(one_panel, ask, **options):
    return await NominalGroup(**options).aggregate(one_panel, ask=ask)


async def test_only_the_final_answer_reaches_the_caller():
    ask = FakeAsk(FULL)
    got = await made(panel(MEMBERS, p={"ben": 0.9}), ask)
    assert (got.text, got.extracted, got.aggregator) == ("Weighed by all: the answer is (B).", "B", "nominal_group")
    assert (got.supporters, got.agreement) == (("ben", "cyd"), pytest.approx(2 / 3))
    assert (got.usage, got.notes) == (CALL_USAGE, ())
    [(expert_id, query, is_visible)] = ask.calls
    assert (expert_id, is_visible, query.parent_id) == ("ben", False, "q")
    assert query.task_format == TaskFormat()  # seven steps are no JSON, whatever the query asks for
    assert query.sampling.max_tokens == 2048


async def test_a_longer_answer_has_its_room_and_a_shorter_one_does_not_cut_the_steps():
    for asked, limit in ((5000, 5000), (10, 2048)):
        ask = FakeAsk(FULL)
        query = dataclasses.replace(panel(MEMBERS).query, sampling=Sampling(max_tokens=asked, stop=("\n",)))
        await made(panel(MEMBERS, query=query), ask)
        assert (ask.calls[0][1].sampling.max_tokens, ask.calls[0][1].sampling.stop) == (limit, ())


@pytest.mark.parametrize(
    ("reply", "extracted", "note"),
    [
        ("**Final Answer:** The answer is (C).", "C", None),
        ("Step 3: B\nFinal answer: The answer is (A).\nFinal answer: The answer is (D).", "D", None),
        (STEPS.format("The answer is (D).", "hm"), "D", "step 6 holds it"),
        (STEPS.format("hm", "The answer is (A)."), "A", "step 7 holds it"),
        ("Step 6: The answer is (C)", "C", "step 6 holds it"),
        (STEPS.format("The answer is (D).", "hm") + "Final answer: Draft 9", "D", "step 6 holds it"),
        ("The answer is (C).", "C", "not kept to"),
        ("<think>Final answer: (A)</think>Final answer: (B)", "B", None),
    ],
)
async def test_replies_that_keep_loosely_to_the_form(reply, extracted, note):
    got = await made(panel(MEMBERS), FakeAsk(reply))
    assert (got.extracted, got.aggregator) == (extracted, "nominal_group")
    assert note is None or note in got.notes[0]


@pytest.mark.parametrize(
    ("reply", "aggregator"),
    [
        ("1, 2, 3, 4, 5", "majority"),
        (STEPS.format("The answer is (D).", "The answer is (D)."), "majority"),
        ("Final answer: the answer is (B), for", "nominal_group"),
    ],
)
async def test_a_reply_that_was_cut_off_counts_from_its_final_answer_on(reply, aggregator):
    class Cut(FakeAsk):
        async def __call__(self, expert_id, query, *, is_visible=False):
            said = await super().__call__(expert_id, query, is_visible=is_visible)
            return dataclasses.replace(said, finish_reason="length")

    got = await made(panel(MEMBERS), Cut(reply))
    assert (got.aggregator, got.extracted) == (aggregator, "B")


async def test_a_final_answer_that_names_a_draft_is_that_draft():
    ask = FakeAsk("Step 7: the second.\nFinal answer: Draft 2.")
    got = await made(panel(MEMBERS), ask)
    shown = ask.calls[0][1].text
    second = next(m for m in MEMBERS if f"{m.extracted}" in shown.split("draft 2]")[1].split("[")[0])
    assert (got.text, got.extracted) == (second.text, second.extracted)


@pytest.mark.parametrize(
    "reply", ["", "I cannot say.", "Final answer:", STEPS.format("hm", "hm"), "<think>Final answer: B"]
)
async def test_nothing_to_read_leaves_the_majority(reply):
    got = await made(panel(MEMBERS), FakeAsk(reply))
    assert (got.extracted, got.aggregator, got.usage) == ("B", "majority", CALL_USAGE)
    assert got.notes[-1].startswith("the majority's answer stands, for")


@pytest.mark.parametrize(
    ("ask", "spent"),
    [
        (FakeAsk(error=CompletionError(code="expert_timeout", message="late")), 1),
        (FakeAsk(raises=BudgetExceeded("nothing left")), 0),
        (FakeAsk(raises=NoExpertAvailable("switched off")), 0),
    ],
)
async def test_a_call_that_does_not_come_off_leaves_the_majority(ask, spent):
    got = await made(panel(MEMBERS), ask)
    assert (got.extracted, got.aggregator, got.usage.completions) == ("B", "majority", spent)


async def test_a_streaming_caller_is_never_shown_the_steps():
    query = dataclasses.replace(panel(MEMBERS).query, controls=RouteControls(streams=True))
    got = await made(panel(MEMBERS, query=query), FakeAsk("Step 1: none of this can be read"))
    assert got.aggregator == "majority"
    free = panel(
        [said("ann", "x", text="Rome is old.", task_format=FREE), said("ben", "y", text="Rome is large.")],
        query=dataclasses.replace(query, task_format=FREE),
    )
    ask = FakeAsk("Step 6: a\nFinal answer: Rome is old and large.")
    assert (await made(free, ask)).text == "Rome is old and large."
    assert ask.calls[0][2] is False


async def test_panels_that_need_no_call():
    ask = FakeAsk(FULL)
    call = ToolCall(id="1", name="weather", arguments="{}")
    with_tools = panel([said("ann", None, calls=[call]), said("ben", "B")])
    unanimous = panel([said("ann", "B"), said("ben", "B")])
    assert (await made(unanimous, ask)).aggregator == "nominal_group"
    assert (await made(with_tools, ask)).aggregator == "majority"
    assert ask.calls == []
    assert NominalGroup().plan(unanimous) == NominalGroup().plan(with_tools) == ()


async def test_the_plan_is_the_call_and_the_next_cheaper_is_the_vote():
    one_panel = panel(MEMBERS, experts=pool_of(["ann", "ben", "cyd"]))
    [planned] = NominalGroup(expert="cyd").plan(one_panel)
    assert (planned.expert_id, planned.completion_tokens) == ("cyd", 2048)
    assert isinstance(NominalGroup().degraded(), Majority)
    tiny = panel(MEMBERS, experts=pool_of(["ann", "ben", "cyd"], window_tokens=300))
    ask = FakeAsk(FULL)
    assert NominalGroup().plan(tiny) == ()
    assert "do not fit" in (await made(tiny, ask)).notes[-1]
    assert ask.calls == []


# --- the variant without a call ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "p", "winner"),
    [
        ("ABB", {"ann": 0.99, "ben": 0.1, "cyd": 0.1}, "B"),  # more than half need no weight
        ("ABCA", {}, "A"),  # a conflict goes by weight: half is not more than half
        ("ABCB", {"ann": 0.9, "ben": 0.3, "cyd": 0.2, "dan": 0.3}, "A"),
        ("AB", {}, "A"),  # level: the earliest
        ("AB", {"ann": 0.4, "ben": 0.6}, "B"),
    ],
)
async def test_short_answers_can_be_counted(answers, p, winner):
    members = [said(expert, answer) for expert, answer in zip(["ann", "ben", "cyd", "dan"], answers, strict=False)]
    ask = FakeAsk()
    got = await made(panel(members, p=p), ask, deterministic=True)
    assert (got.extracted, ask.calls) == (winner, [])
    assert 0 < got.confidence <= 1
    assert NominalGroup(deterministic=True).plan(panel(members, p=p)) == ()


async def test_who_says_nothing_is_no_part_of_the_half():
    members = [said("ann", "A"), said("ben", None), said("cyd", None), said("dan", "A"), said("eve", "B")]
    got = await made(panel(members, p={"eve": 1.0, "ann": 0.1, "dan": 0.1}), FakeAsk(), deterministic=True)
    assert got.extracted == "A"


async def test_longer_answers_are_not_counted():
    ask = FakeAsk("Final answer: both")
    members = [said("ann", None, text="one", task_format=FREE), said("ben", None, text="two", task_format=FREE)]
    got = await made(panel(members, task_format=FREE), ask, deterministic=True)
    assert (got.text, len(ask.calls)) == ("both", 1)


# --- nothing that a model writes is run ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AnswerKind.FREE, AnswerKind.CODE, AnswerKind.LITERAL, AnswerKind.JSON])
async def test_what_looks_like_python_is_never_run(kind, tmp_path):
    """Multi-expert Prompting's released code passes model output to `eval` (seeds, section 26)."""
    proof = tmp_path / "was_run"
    attack = f"__import__('pathlib').Path({str(proof)!r}).touch() or {{'Expert': 'x'}}"
    reply = f"Step 1: {attack}\nStep 6: {{{attack!r}: {attack}}}\nFinal answer: [{attack}]"
    task_format = TaskFormat(kind=kind)
    members = [said("ann", attack, task_format=task_format), said("ben", "other", task_format=task_format)]
    for text in (reply, attack, f'Expert 1: """{attack}"""\n>> FINAL ANSWER: {attack}', f"<quote>{attack}</quote>"):
        for name in ("nominal_group", "conductor", "debate"):
            aggregator = aggregators.base.AGGREGATORS.create(name)
            await aggregator.aggregate(panel(members, task_format=task_format), ask=FakeAsk(text))
    assert not proof.exists()


def test_no_module_of_the_room_runs_text():
    """But for the one that is run inside the sandbox, to try programs there."""
    forbidden = {"eval", "exec", "compile", "__import__"}
    for path in Path(aggregators.__path__[0]).glob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & forbidden or path.name == "_code_judge.py", path.name
