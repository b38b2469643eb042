"""A brief fits into the window it is written for, or there is none; putting it never raises for what an LLM does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.briefs import Reply, brief
from aggregators.prompting import Stage, reply_tokens
from router_service.errors import BudgetExceeded, NoExpertAvailable, UnknownNameError
from router_service.prompt_tokens import estimate_tokens, persona_tokens
from router_service.types import CompletionError, Expert, Sampling, Usage
from tests.aggregators.panels import FakeAsk, panel, said

STAGE = Stage(name="verdict", prompt="verdict_v1", keeps_format=True)
WORDS = st.lists(st.sampled_from(["word ", "The answer is (A). ", "12,5 ", "\n", "漢字", "x" * 40]), max_size=120)


def panel_for(texts, **fields):
    expert = Expert(id="judge", model="m", backend="echo", **fields)
    members = [said(f"e{place}", "A", text=text) for place, text in enumerate(texts)]
    return panel(members, experts={"judge": expert})


@settings(deadline=None, max_examples=80)
@given(
    texts=st.lists(WORDS.map("".join), min_size=1, max_size=5),
    window=st.integers(100, 3000),
    reply=st.integers(1, 200),
    persona=st.sampled_from([None, "You are a patient reader of other people's drafts."]),
)
def test_prompt_persona_and_reply_fit_into_the_window(texts, window, reply, persona):
    fields = {"context_window": window, "sampling": Sampling(max_tokens=reply), "persona": persona}
    one_panel = panel_for(texts, **fields)
    made = brief(one_panel, one_panel.members, expert_id="judge", stage=STAGE)
    if made is None:
        return
    taken = estimate_tokens(made.query) + persona_tokens(one_panel.experts["judge"])
    assert taken + reply_tokens(one_panel, "judge", stage=STAGE) <= window
    assert made.planned.prompt_tokens == taken
    assert all(draft.shown for draft in made.sheet.drafts)


def test_a_wide_window_takes_everything_and_a_narrow_one_nothing():
    texts = ["first " * 50, "second " * 50]
    wide, narrow = panel_for(texts, context_window=8000), panel_for(texts, context_window=200, max_output_tokens=50)
    made = brief(wide, wide.members, expert_id="judge", stage=STAGE)
    assert not any(draft.is_cut for draft in made.sheet.drafts)
    assert brief(narrow, narrow.members, expert_id="judge", stage=STAGE) is None


def test_an_expert_that_nobody_described_has_an_assumed_window():
    one_panel = panel([said("ann", "A"), said("ben", "B", text=" ".join(f"reason {n}" for n in range(20_000)))])
    made = brief(one_panel, one_panel.members, expert_id="stranger", stage=STAGE)
    assert estimate_tokens(made.query) < 8192
    assert made.sheet.notes == ("1 of 2 drafts were cut to fit into the window of verdict's expert",)


@pytest.mark.parametrize(
    ("ask", "problem", "completions"),
    [
        (FakeAsk("The answer is (A)"), None, 1),
        (FakeAsk("  \n"), "judge wrote nothing", 1),
        (FakeAsk(error=CompletionError(code="expert_refused", message="no")), "judge failed (expert_refused)", 1),
        (FakeAsk(raises=BudgetExceeded("gone")), "judge was not asked (budget_exceeded: gone)", 0),
        (FakeAsk(raises=NoExpertAvailable("off")), "judge was not asked (no_expert_available: off)", 0),
    ],
    ids=["well", "empty", "failed", "over budget", "ruled out"],
)
async def test_what_came_of_it(ask, problem, completions):
    one_panel = panel_for(["It is A"])
    reply = await brief(one_panel, one_panel.members, expert_id="judge", stage=STAGE).put(ask)
    assert (reply.problem, reply.usage.completions) == (problem, completions)
    assert bool(reply.text) == (problem is None)


async def test_an_expert_nobody_registered_is_a_broken_set_up():
    one_panel = panel_for(["It is A"])
    made = brief(one_panel, one_panel.members, expert_id="judge", stage=STAGE)
    with pytest.raises(UnknownNameError):
        await made.put(FakeAsk(raises=UnknownNameError("expert", "judge", ["ann"])))


def test_no_reply_spends_nothing():
    assert (Reply(problem="no").usage, Reply(problem="no").text) == (Usage(), "")
