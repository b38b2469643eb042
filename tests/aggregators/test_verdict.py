"""Which drafts the judge is shown, who judges, what reading costs, and what happens where it does not come off."""

from __future__ import annotations

import dataclasses
import re

import pytest

from aggregators.majority import Majority
from aggregators.verdict import Verdict
from router_service.errors import BudgetExceeded, ConfigError, ExpertRefused
from router_service.prompt_tokens import estimate_tokens
from router_service.types import CompletionError, Expert, Prices, RouteControls, TaskFormat, ToolCall, Usage
from tests.aggregators.panels import FakeAsk, FakeScoringAsk, panel, said
from tests.experts_registry.golden import golden

EXPERTS = ("ann", "ben", "cyd", "dan", "eve", "fay")
THREE = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]
FIVE = [said("ann", "A"), said("ben", "B"), said("cyd", "B"), said("dan", "B"), said("eve", "C")]


def with_experts(one_panel, **fields):
    pool = {name: Expert(id=name, model="m", backend="echo", **fields) for name in EXPERTS}
    return dataclasses.replace(one_panel, experts=pool)


async def verdict(one_panel, ask, **options):
    return await Verdict(**options).aggregate(one_panel, ask=ask)


def shown(ask):
    return sorted(re.findall(r"> .*The answer is \(([A-D])\)", ask.calls[-1][1].text))


async def test_an_outsider_judges_and_its_text_is_the_answer():
    ask = FakeAsk("Ben is right. The answer is (B).")
    got = await verdict(with_experts(panel(THREE)), ask)
    [(expert_id, query, is_visible)] = ask.calls
    assert (expert_id, is_visible, query.sampling.temperature) == ("dan", True, 0.0)
    assert query.task_format == panel(THREE).query.task_format
    assert (got.text, got.extracted, got.aggregator) == ("Ben is right. The answer is (B).", "B", "verdict")
    assert (got.supporters, got.usage.completions) == (("ben", "cyd"), 1)


async def test_a_small_panel_is_shown_whole_and_read_by_nobody():
    ask = FakeScoringAsk("The answer is (B).")
    await verdict(with_experts(panel(THREE)), ask)
    assert shown(ask) == ["A", "B", "B"]
    assert ask.scored == []


async def test_without_likelihoods_the_drafts_that_agree_are_kept():
    ask = FakeAsk("The answer is (B).")
    got = await verdict(with_experts(panel(FIVE)), ask)
    assert shown(ask) == ["B", "B", "B"]
    assert got.notes == ("drafts were weighed by who agrees with whom, for not all of their experts read texts",)
    got = await verdict(with_experts(panel(FIVE)), ask, scores=False)
    assert (shown(ask), got.notes) == (["B", "B", "B"], ())


@pytest.mark.parametrize(("keep", "kept"), [(1, ["A"]), (2, ["A", "B"]), (3, ["A", "B", "C"])])
async def test_the_worked_example_keeps_what_its_peers_find_plausible(keep, kept):
    table = dict(zip("ABC", golden("speculative_verdict")["nll"].values(), strict=True))
    peers = ("ann", "ben", "cyd")

    class PeersAsk(FakeScoringAsk):
        async def score(self, expert_id, texts):
            self.score_of = lambda query, text: -table[text][peers.index(expert_id)]
            return await super().score(expert_id, texts)

    ask = PeersAsk("The answer is (B).")
    await verdict(with_experts(panel([said("ann", "A"), said("ben", "B"), said("cyd", "C")])), ask, keep=keep)
    assert shown(ask) == kept


async def test_each_expert_reads_each_answer_once_and_the_readings_are_paid():
    members = [*FIVE, said("ann", "C", sample=1)]
    one_panel = with_experts(panel(members), prices=Prices(input_usd_per_mtok=2.0, output_usd_per_mtok=9.0))
    ask = FakeScoringAsk("The answer is (B).")
    plan = Verdict().plan(one_panel)
    got = await verdict(one_panel, ask)
    assert [expert_id for expert_id, _ in ask.scored] == ["ann", "ben", "cyd", "dan", "eve"]
    assert all([text for _, text in texts] == ["A", "B", "C"] for _, texts in ask.scored)
    assert len(plan) == 5 * 3 + 1 == got.usage.completions
    read = sum(call.prompt_tokens for call in plan[:-1])
    assert got.usage.prompt_tokens == read + 30
    assert got.usage.cost_usd == pytest.approx(read * 2.0 / 1e6 + 0.25)
    assert {call.completion_tokens for call in plan[:-1]} == {1}


async def test_one_sided_a_draft_that_its_peers_like_better_than_their_own_stays():
    nll = {"A": (0.1, 0.1, 0.1), "B": (0.9, 0.9, 0.9), "C": (0.5, 0.5, 1.0)}
    peers = ("ann", "ben", "cyd")

    class PeersAsk(FakeScoringAsk):
        async def score(self, expert_id, texts):
            self.score_of = lambda query, text: -nll[text][peers.index(expert_id)]
            return await super().score(expert_id, texts)

    one_panel = with_experts(panel([said("ann", "A"), said("ben", "B"), said("cyd", "C")]))
    one, two = PeersAsk("The answer is (A)."), PeersAsk("The answer is (A).")
    await verdict(one_panel, one, keep=1, is_one_sided=True)
    await verdict(one_panel, two, keep=1)
    assert shown(one) == ["A"]
    assert shown(two) != ["A"]


async def test_a_member_without_an_answer_is_the_least_plausible():
    ask = FakeScoringAsk("The answer is (B).", score_of=lambda query, text: -1.0 if text == "B" else -3.0)
    members = [said("ann", "B"), said("ben", None), said("cyd", "B"), said("dan", "C"), said("eve", "B")]
    await verdict(with_experts(panel(members)), ask)
    assert shown(ask) == ["B", "B", "B"]


@pytest.mark.parametrize(
    ("raised", "why"),
    [(BudgetExceeded("nothing left"), "nothing left"), (ExpertRefused("cannot", expert_id="ann"), "cannot")],
    ids=["over budget", "refused"],
)
async def test_readings_that_fail_leave_the_stand_in(raised, why):
    ask = FakeScoringAsk("The answer is (B).", score_raises=raised)
    got = await verdict(with_experts(panel(FIVE)), ask)
    assert shown(ask) == ["B", "B", "B"]
    assert got.aggregator == "verdict"
    assert why in got.notes[0]


async def test_a_bug_in_reading_is_not_hidden():
    with pytest.raises(RuntimeError, match="bug"):
        await verdict(with_experts(panel(FIVE)), FakeScoringAsk(score_raises=RuntimeError("bug")))


@pytest.mark.parametrize(
    ("ask", "because", "completions"),
    [
        (FakeAsk("I cannot say."), "no answer can be read out of what dan wrote", 1),
        (FakeAsk(error=CompletionError(code="expert_timeout", message="late")), "dan failed (expert_timeout)", 1),
        (FakeAsk(raises=BudgetExceeded("nothing left")), "dan was not asked (budget_exceeded: nothing left)", 0),
    ],
    ids=["unreadable", "failed", "over budget"],
)
async def test_a_judge_that_fails_leaves_the_majority_standing(ask, because, completions):
    got = await verdict(with_experts(panel(THREE)), ask)
    assert (got.extracted, got.aggregator, got.usage.completions) == ("B", "majority", completions)
    assert got.notes == (f"the majority's answer stands, for {because}",)


async def test_a_text_that_was_streamed_is_kept():
    query = dataclasses.replace(panel(THREE).query, controls=RouteControls(streams=True))
    got = await verdict(panel(THREE, query=query), FakeAsk("I cannot say."))
    assert (got.text, got.extracted, got.aggregator) == ("I cannot say.", None, "verdict")


async def test_a_question_that_does_not_fit_is_voted_on_without_a_call():
    ask = FakeAsk("The answer is (A)")
    got = await verdict(with_experts(panel(THREE), context_window=150, max_output_tokens=20), ask)
    assert (got.extracted, got.aggregator, ask.calls, got.usage) == ("B", "majority", [], Usage())


@pytest.mark.parametrize(
    "members",
    [
        [said("ann", "A"), said("ben", "A")],
        [said("ann", "A"), said("ben", None, calls=[ToolCall(id="1", name="weather", arguments="{}")])],
    ],
    ids=["unanimous", "tool calls"],
)
async def test_a_panel_that_needs_no_judge_gets_none(members):
    ask = FakeAsk("The answer is (D)")
    got = await verdict(panel(members), ask)
    assert (got.extracted, ask.calls, Verdict().plan(panel(members))) == ("A", [], ())


async def test_free_texts_are_judged():
    free = TaskFormat()
    members = [said(name, f"Rome is {word}.", task_format=free) for name, word in [("ann", "old"), ("ben", "large")]]
    got = await verdict(panel(members, task_format=free), FakeAsk("Rome is old and large."))
    assert (got.text, got.agreement, got.supporters) == ("Rome is old and large.", 0.0, ("ann", "ben"))


def test_it_degrades_to_the_stand_in_and_then_to_the_majority():
    one = Verdict(expert="ann", keep=2, is_one_sided=True, is_guarded=False).degraded()
    assert (one.expert, one.keep, one.scores, one.is_one_sided, one.is_guarded) == ("ann", 2, False, True, False)
    assert isinstance(one.degraded(), Majority)


def test_an_impossible_number_of_drafts_is_refused():
    with pytest.raises(ConfigError, match="keep is 0; the judge reads 1 draft or more"):
        Verdict(keep=0)


@pytest.mark.parametrize(
    "texts",
    [
        ["word " * 300, "<think>" + "x " * 4000 + "</think>"],
        ["7" * 1500, "word " * 400],
        ["word " * 5000, "Short."],
    ],
    ids=["thoughts", "digits", "cut"],
)
async def test_the_plan_holds_whichever_drafts_are_kept(texts):
    members = [
        said(name, answer, text=f"{text} The answer is ({answer})")
        for name, answer, text in zip(EXPERTS, "BBAA", [texts[0]] * 2 + [texts[1]] * 2, strict=False)
    ]
    for order in (members, members[::-1]):
        one_panel, ask = with_experts(panel(order)), FakeAsk("The answer is (B).")
        judge = Verdict(keep=2, scores=False)
        [planned] = judge.plan(one_panel)
        await judge.aggregate(one_panel, ask=ask)
        assert estimate_tokens(ask.calls[0][1]) <= planned.prompt_tokens
