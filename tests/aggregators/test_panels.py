"""The fakes of this room keep the protocols that the aggregators rely on."""

from __future__ import annotations

import pytest

from router_service.errors import BudgetExceeded
from router_service.types import Ask, ExecutingAsk, Execution, Program, ScoringAsk, user_query
from tests.aggregators.panels import FakeAsk, FakeExecutingAsk, FakeScoringAsk, panel, pool_of, said

QUERY = user_query("q/stage", "Well?")


def test_each_fake_is_what_it_stands_for_and_no_more():
    assert isinstance(FakeAsk(), Ask)
    assert isinstance(FakeScoringAsk(), ScoringAsk)
    assert isinstance(FakeExecutingAsk(), ExecutingAsk)
    assert not isinstance(FakeAsk(), ScoringAsk | ExecutingAsk)
    assert not isinstance(FakeExecutingAsk(), ScoringAsk)


async def test_texts_are_read_in_order_and_remembered():
    ask = FakeScoringAsk(score_of=lambda query, text: -float(len(text)), cannot=("deaf",))
    got = await ask.score("ann", [(QUERY, "two words"), (QUERY, "one")])
    assert [(score.tokens, score.mean_logprob) for score in got] == [(2, -9.0), (1, -3.0)]
    assert ask.scored == [("ann", [(QUERY, "two words"), (QUERY, "one")])]
    assert (ask.can_score("ann"), ask.can_score("deaf")) == (True, False)


async def test_programs_end_as_they_are_told_to():
    ask = FakeExecutingAsk(execution_of=lambda program: Execution(exit_code=len(program.source)))
    got = await ask.execute(QUERY, [Program(source=""), Program(source="x")])
    assert [execution.passed for execution in got] == [True, False]


async def test_a_fake_may_fail_from_a_certain_call_on():
    ask = FakeAsk(raises=BudgetExceeded("no more"), until=1)
    assert (await ask("ann", QUERY)).succeeded
    with pytest.raises(BudgetExceeded):
        await ask("ann", QUERY)


def test_a_panel_knows_who_may_be_asked():
    got = panel([said("ann", "A")], experts=pool_of(["ann"], spare=["zoe"]))
    assert list(got.experts) == ["ann", "zoe"]
    assert got.experts["zoe"].context_window == 32_768
    assert panel([said("ann", "A")]).experts == {}
