"""Choosing code by what it does: whose tests count, when the vote stands, what is planned."""

from __future__ import annotations

import pytest

from aggregators.b4 import B4
from aggregators.base import AGGREGATORS, CallingAggregator
from aggregators.codet import Codet
from aggregators.majority import Majority
from aggregators.maxpass import Maxpass
from aggregators.mbr_exec import MbrExec
from router_service.dispatch.sandbox import Sandbox
from router_service.errors import BudgetExceeded, ConfigError
from router_service.types import Usage
from tests.aggregators.coding import (
    BROKEN,
    CODE,
    NO_PYTHON,
    RIGHT,
    RIGHT_TOO,
    TESTS,
    WRONG,
    WRONG_TOO,
    FakeExecutingAsk,
    code_panel,
)
from tests.aggregators.panels import FakeAsk, failed, panel, said
from tests.experts_registry.golden import golden
from tests.sandboxes import needs_sandbox

RULES = [B4, Codet, Maxpass, MbrExec]
every_rule = pytest.mark.parametrize("rule", RULES)


@every_rule
async def test_code_that_behaves_alike_and_passes_wins_over_the_most_frequent_text(rule) -> None:
    ask = FakeExecutingAsk(TESTS)
    got = await rule().aggregate(code_panel(WRONG, WRONG, RIGHT, RIGHT_TOO, RIGHT), ask=ask)
    assert got.extracted == RIGHT
    assert got.text == f"```python\n{RIGHT}\n```"
    assert got.aggregator == rule.name
    assert got.supporters == ("cyd", "dan", "eve")
    assert got.agreement == pytest.approx(3 / 5)
    assert got.usage == Usage(completions=4, prompt_tokens=120, completion_tokens=20, cost_usd=1.0)
    assert got.notes == ()


async def test_the_rules_differ_as_in_the_worked_example() -> None:
    case = golden("b4")
    sources = [f"PASSED = {row}\ndef ok(n): return PASSED[n]" for row in case["E"]]
    sources[2] += "  # another text, the same behaviour"
    ask = FakeExecutingAsk("\n".join(f"assert ok({n})" for n in range(4)))
    chosen = {}
    for rule in RULES:
        options = {"alpha": case["alpha"], "beta0": case["beta0"]} if rule is B4 else {}
        got = await rule(testers=["zoe"], **options).aggregate(code_panel(*sources), ask=ask)
        chosen[rule.name] = sources.index(got.extracted)
    golden_choices = {"b4": case["choice"]} | {n: case[f"{n}_choice"] for n in ("codet", "maxpass", "mbr_exec")}
    assert chosen == {name: positions[0] for name, positions in golden_choices.items()}


@every_rule
async def test_testers_see_the_task_and_no_candidate(rule) -> None:
    ask = FakeExecutingAsk(TESTS)
    await rule(tests=5).aggregate(code_panel(RIGHT, WRONG, BROKEN), ask=ask)
    assert [expert for expert, _, _ in ask.calls] == ["ann", "ben", "cyd"]
    for expert, query, is_visible in ask.calls:
        assert "Write add(a, b)." in query.text
        assert "up to 5 tests" in query.text
        assert "Solutions define: `add(a, b)`" in query.text
        assert "return" not in query.text.replace("returns", "")
        assert (query.id, query.parent_id, is_visible) == (f"q/{rule.name}/{expert}", "q", False)
        assert query.sampling.max_tokens == 1024


async def test_testers_may_be_others_and_few() -> None:
    ask = FakeExecutingAsk(TESTS)
    await B4(testers=["zoe", "yan", "zoe"]).aggregate(code_panel(RIGHT, WRONG), ask=ask)
    assert [expert for expert, _, _ in ask.calls] == ["zoe", "yan"]
    ask = FakeExecutingAsk(TESTS)
    await B4(max_testers=1).aggregate(code_panel(RIGHT, WRONG, BROKEN, p={"ben": 0.9, "ann": 0.5}), ask=ask)
    assert [expert for expert, _, _ in ask.calls] == ["ben"]


async def test_the_callers_tests_rule_out_whoever_passes_fewer_of_them() -> None:
    misled = FakeExecutingAsk("\n".join(f"assert add({n}, 1) == {n - 1}" for n in range(9)))
    one_panel = code_panel(WRONG, WRONG_TOO, RIGHT, tests="assert add(1, 2) == 3")
    assert (await Codet().aggregate(one_panel, ask=misled)).extracted == RIGHT
    assert (await Codet().aggregate(code_panel(WRONG, WRONG_TOO, RIGHT), ask=misled)).extracted == WRONG


async def test_the_callers_tests_alone_ask_nobody() -> None:
    ask = FakeExecutingAsk()
    one_panel = code_panel(WRONG, WRONG, RIGHT, tests="assert add(1, 2) == 3")
    got = await B4(tests=0).aggregate(one_panel, ask=ask)
    assert (got.extracted, got.usage, ask.calls) == (RIGHT, Usage(), [])
    assert B4(tests=0).plan(one_panel) == ()


async def test_level_groups_go_to_the_larger_and_then_to_the_earlier() -> None:
    ask = FakeExecutingAsk("assert add(1, 0) == 1\nassert add(2, 2) == 4\nassert add(2, 2) == 0")
    got = await Maxpass().aggregate(code_panel(WRONG, RIGHT, RIGHT_TOO), ask=ask)
    assert got.extracted == RIGHT
    got = await Maxpass().aggregate(code_panel(WRONG, RIGHT), ask=ask)
    assert got.extracted == WRONG


@every_rule
@pytest.mark.parametrize(
    ("ask", "because"),
    [
        (FakeAsk(TESTS), "programs cannot be run here"),
        (FakeExecutingAsk("I know no tests."), "no test could be read out of what ann wrote"),
        (FakeExecutingAsk(raises=BudgetExceeded("the purse is empty")), "ann was not asked"),
        (FakeExecutingAsk("assert add(1, 1) == 7"), "none of 3 candidates passed any of 1 tests"),
        (FakeExecutingAsk(TESTS, refuses=ConfigError("no bubblewrap here")), "no bubblewrap here"),
    ],
)
async def test_the_vote_stands_and_says_why(rule, ask, because) -> None:
    got = await rule().aggregate(code_panel(RIGHT, WRONG, WRONG), ask=ask)
    assert (got.extracted, got.aggregator) == (WRONG, "majority")
    assert because in got.notes[-1]


@every_rule
async def test_code_that_is_none_is_put_to_the_tests_and_fails(rule) -> None:
    got = await rule().aggregate(code_panel(NO_PYTHON, RIGHT, BROKEN, RIGHT), ask=FakeExecutingAsk(TESTS))
    assert got.extracted == RIGHT


@every_rule
async def test_answers_of_other_kinds_are_voted_on_without_a_call(rule) -> None:
    ask = FakeExecutingAsk(TESTS)
    one_panel = panel([said("ann", "A"), said("ben", "B"), said("cyd", "B")])
    got = await rule().aggregate(one_panel, ask=ask)
    assert (got.extracted, got.aggregator, ask.calls) == ("B", "majority", [])
    assert "only code" in got.notes[0]
    assert rule().plan(one_panel) == ()


@every_rule
def test_the_plan_is_what_is_asked(rule) -> None:
    one_panel = code_panel(RIGHT, WRONG, BROKEN)
    plan = rule().plan(one_panel)
    assert [call.expert_id for call in plan] == ["ann", "ben", "cyd"]
    assert all(call.completion_tokens == 1024 and call.prompt_tokens > 200 for call in plan)
    assert rule().plan(code_panel(RIGHT, RIGHT)) == ()
    assert rule().plan(panel([failed("ann")], task_format=CODE)) == ()


@every_rule
def test_it_degrades_to_fewer_testers_and_then_to_the_vote(rule) -> None:
    steps = [rule(tests=3, test_s=1.0)]
    while isinstance(steps[-1], CallingAggregator):
        steps.append(steps[-1].degraded())
    assert [len(step.plan(code_panel(RIGHT, WRONG, BROKEN, WRONG_TOO))) for step in steps[:-1]] == [4, 2, 1]
    assert [step.tests for step in steps[:-1]] == [3, 3, 3]
    assert isinstance(steps[-1], Majority)


@pytest.mark.parametrize("options", [{"max_testers": 0}, {"tests": -1}, {"test_s": 0.0}, {"alpha": 0}, {"beta0": 0}])
def test_options_that_make_no_sense_are_refused(options) -> None:
    with pytest.raises(ConfigError, match="b4 has"):
        AGGREGATORS.create("b4", options)


@needs_sandbox
@every_rule
async def test_in_a_real_sandbox_it_chooses_the_same(rule) -> None:
    class RealAsk(FakeAsk):
        async def execute(self, query, programs):
            return await Sandbox().run_all(programs)

    got = await rule().aggregate(code_panel(WRONG, WRONG, RIGHT, RIGHT_TOO, RIGHT), ask=RealAsk(TESTS))
    assert (got.extracted, got.agreement) == (RIGHT, pytest.approx(3 / 5))


async def test_a_candidate_cannot_fill_the_testers_windows_by_a_long_name() -> None:
    ask = FakeExecutingAsk(TESTS)
    await B4().aggregate(code_panel(RIGHT, f"def other({'b' * 5000}):\n    return 1"), ask=ask)
    assert all("`add(a, b)`" in query.text and "bbb" not in query.text for _, query, _ in ask.calls)
