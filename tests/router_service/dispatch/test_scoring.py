"""Having an expert read texts: in its turn, within its time, on the query's budget, and as one of the tree's errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from experts_registry.prices import cost_usd
from router_service.backends.base import DeviceLost
from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.ledger import Ledger
from router_service.errors import (
    BudgetExceeded,
    ExpertError,
    ExpertRefused,
    ExpertTimeout,
    ExpertUnavailable,
    NoExpertAvailable,
    UnknownNameError,
)
from router_service.prompt_tokens import estimate_tokens
from router_service.types import Budget, Expert, Message, Query, RouteControls, ScoringAsk, Secret, TextScore, Usage
from tests.router_service.dispatch.fakes import ScriptedBackend, expert, query, runner_of, until
from tests.router_service.dispatch.resident_fakes import ResidentFake, footprint, gpus


class Reader(ScriptedBackend):
    """Reads: a text's score is minus its length; `fails` is raised first, and `hold`, where given, is waited for."""

    def __init__(self, *, fails: Exception | None = None, hold: asyncio.Event | None = None) -> None:
        super().__init__()
        self.fails, self.hold = fails, hold
        self.read: list[tuple[str, list[str]]] = []
        self.at_once = self.most_at_once = 0

    async def score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.read.append((expert.id, [text for _, text in texts]))
            if self.hold is not None:
                await self.hold.wait()
            if self.fails is not None:
                raise self.fails
            return [TextScore(logprob_sum=-float(len(text)), tokens=len(text.split())) for _, text in texts]
        finally:
            self.at_once -= 1


class ResidentReader(ResidentFake):
    """Reads only where the model is; loses its device under the first `losses` readings."""

    losses = 0

    async def score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        model = self.footprint(expert).model
        devices = [device for (device, there), place in self.places.items() if there == model and place.is_ready]
        assert devices, "the model is not loaded"
        if self.losses:
            self.losses -= 1
            self.lose(devices[0])
            raise DeviceLost(devices[0], "its node died")
        return [TextScore(logprob_sum=-1.0, tokens=1) for _ in texts]


def child(text: str = "What is it?", **fields) -> Query:
    return replace(query("q/score", **fields), messages=(Message(role="user", content=text),), parent_id="q")


def ask_of(backend, ledger: Ledger | None = None, *, experts: Sequence[Expert] | None = None, **options) -> BudgetedAsk:
    runner = runner_of(backend, experts or [expert("A"), expert("B")], window_s=0.0)
    return BudgetedAsk(runner, {"q": ledger} if ledger else {}, **options)


async def test_texts_are_read_in_order_and_the_first_querys_budget_pays() -> None:
    backend, ledger = Reader(), Ledger(Budget(max_completions=2, max_cost_usd=1.0))
    ask = ask_of(backend, ledger)
    assert isinstance(ask, ScoringAsk) and ask.can_score("A")
    scores = await ask.score("A", [(child(), "four"), (child("And that?"), "eleven char")])
    assert [score.logprob_sum for score in scores] == [-4.0, -11.0]
    assert backend.read == [("A", ["four", "eleven char"])]
    spent = ask.usage("q")
    assert spent == ledger.spent and spent.completions == 2 and spent.completion_tokens == 0
    assert spent.prompt_tokens > estimate_tokens(child()) + estimate_tokens(child("And that?"))
    assert spent.cost_usd == cost_usd(expert("A").prices, prompt_tokens=spent.prompt_tokens, completion_tokens=0)
    assert ledger.remaining().max_completions == 0
    with pytest.raises(BudgetExceeded, match="max_completions is 2"):
        await ask.score("A", [(child(), "x")])
    assert len(backend.read) == 1 and await ask.score("A", []) == []


async def test_an_aggregators_plan_counts_texts() -> None:
    ask = ask_of(Reader(), Ledger(Budget()))
    ask.allow("q", calls=3)
    await ask.score("A", [(child(), "x"), (child(), "y")])
    with pytest.raises(BudgetExceeded, match="asks for 2 more, and 1 are left"):
        await ask.score("A", [(child(), "x"), (child(), "y")])
    await ask("A", child())
    with pytest.raises(BudgetExceeded, match="asks for 1 more, and 0 are left"):
        await ask("A", child())


async def test_an_expert_that_only_writes_refuses_and_costs_nothing() -> None:
    ledger = Ledger(Budget(max_completions=1))
    ask = ask_of(ScriptedBackend(), ledger)
    assert not ask.can_score("A")
    with pytest.raises(ExpertRefused, match="'A' cannot score texts"):
        await ask.score("A", [(child(), "x")])
    assert ledger.spent == Usage() and ledger.remaining().max_completions == 1


async def test_who_may_not_be_asked_may_not_be_had_read_either() -> None:
    ask = ask_of(Reader(), controls={"q": RouteControls(experts_denied=("A",))})
    with pytest.raises(NoExpertAvailable, match="experts_denied names it"):
        await ask.score("A", [(child(), "x")])
    with pytest.raises(UnknownNameError, match="unknown expert 'Z'"):
        await ask.score("Z", [(child(), "x")])
    with pytest.raises(UnknownNameError):
        ask.can_score("Z")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ExpertRefused("too long", expert_id="A"), ExpertRefused),
        (ExpertUnavailable("it died", expert_id="A"), ExpertUnavailable),
        (ValueError("token sk-secret leaked"), ExpertError),
    ],
)
async def test_what_a_backend_raises_is_one_of_the_tree_and_paid_for(raised: Exception, kind: type) -> None:
    ledger = Ledger(Budget(max_completions=5))
    experts = [replace(expert("A"), api_key=Secret("sk-secret"))]
    ask = ask_of(Reader(fails=raised), ledger, experts=experts)
    with pytest.raises(ExpertError) as caught:
        await ask.score("A", [(child(), "x")])
    assert type(caught.value) is kind and "sk-secret" not in str(caught.value)
    assert ledger.remaining().max_completions == 4 and ask.usage("q").completions == 1


@pytest.mark.parametrize("limits", [{"timeout_s": 0.03}, {}])
async def test_reading_that_takes_too_long_is_given_up(limits: dict[str, float]) -> None:
    ledger = Ledger(Budget(deadline_s=None if limits else 0.03))
    ask = ask_of(Reader(hold=asyncio.Event()), ledger, experts=[expert("A", **limits)])
    with pytest.raises(ExpertTimeout):
        await ask.score("A", [(child(), "x")])
    assert ledger.spent.completions == 1


async def test_a_deadline_counts_the_line_and_costs_nothing_there() -> None:
    hold = asyncio.Event()
    backend, ledger = Reader(hold=hold), Ledger(Budget(deadline_s=0.05))
    runner = runner_of(backend, [expert("A", max_concurrency=1)])
    first = asyncio.create_task(BudgetedAsk(runner, {}).score("A", [(query("other"), "x")]))
    await until(lambda: backend.at_once == 1)
    with pytest.raises(ExpertTimeout, match="deadline"):
        await BudgetedAsk(runner, {"q": ledger}).score("A", [(child(), "x")])
    hold.set()
    await first
    assert ledger.spent == Usage() and backend.most_at_once == 1


async def test_reading_loads_the_model_as_any_call_does() -> None:
    backend = ResidentReader({e: footprint(f"model-{e}") for e in "AB"}, gpus(1, 4.0))
    ask = ask_of(backend)
    await asyncio.gather(
        ask("A", child()), ask.score("B", [(child(), "x")]), ask.score("A", [(child(), "x"), (child(), "y")])
    )
    assert {model for _, model in backend.loads} == {"model-A", "model-B"}
    assert not backend.violations


@pytest.mark.parametrize(("devices", "losses"), [(2, 1), (1, 1), (2, 2)])
async def test_a_lost_device_is_made_up_for_by_another_one(devices: int, losses: int) -> None:
    backend = ResidentReader({"A": footprint("model-A")}, gpus(devices))
    backend.losses = losses
    ask = ask_of(backend, experts=[expert("A")])
    async with asyncio.timeout(20):
        if losses < devices:
            assert len(await ask.score("A", [(child(), "x")])) == 1
        else:
            with pytest.raises(ExpertUnavailable):
                await ask.score("A", [(child(), "x")])
    assert len(backend.loads) == min(devices, losses + 1)


async def test_cancelling_ends_the_reading_and_settles() -> None:
    backend, ledger = Reader(hold=asyncio.Event()), Ledger(Budget(max_completions=3))
    task = asyncio.create_task(ask_of(backend, ledger).score("A", [(child(), "x")]))
    await until(lambda: backend.at_once == 1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and backend.at_once == 0
    assert ledger.remaining().max_completions == 2
