"""The protocol of a debate: who argues, what is checked, both orders, and when there is none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.debate import Debate
from aggregators.debating import WORDS, worded
from aggregators.majority import Majority
from eval.injection_attacks import ATTACKS
from router_service.errors import BudgetExceeded, ConfigError, NoExpertAvailable
from router_service.prompt_tokens import estimate_tokens, text_tokens
from router_service.types import AnswerKind, CompletionError, TaskFormat, ToolCall, user_query
from tests.aggregators.panels import FakeAsk, panel, pool_of, said
from tests.aggregators.test_injection import BLOCK, CONTROL

MEMBERS = [said("ann", "A"), said("ben", "B"), said("cyd", "B"), said("dan", "C")]
P = {"ann": 0.9, "ben": 0.3, "cyd": 0.5, "dan": 0.1}
POOL = pool_of(["ann", "ben", "cyd", "dan"], spare=["jim"])


def panel_of(members=None, **more):
    return panel(members or MEMBERS, **{"p": P, "experts": POOL, **more})


def is_verdict(query):
    return "/verdict/" in query.id


def debaters(*, argument="My answer holds.", verdict="Verdict: 1"):
    """Who argues says `argument`, who judges says `verdict`; each may be made of the query."""

    def said_by(query):
        text = verdict if is_verdict(query) else argument
        return text(query) if callable(text) else text

    return FakeAsk(said_by)


def first_answer(query):
    """The answer that stands in the first place of a prompt."""
    return re.search(r"The answer is \((\w)\)", query.text.split("draft 1]")[1])[1]


def judge_for(letter):
    return lambda query: f"Verdict: {1 if first_answer(query) == letter else 2}"


async def debated(one_panel, ask, **options):
    return await Debate(**options).aggregate(one_panel, ask=ask)


async def test_the_two_heaviest_answers_are_argued_for_by_their_likeliest_experts():
    ask = debaters(verdict=judge_for("B"))
    got = await debated(panel_of(), ask)
    assert [(expert, query.id) for expert, query, _ in ask.calls] == [
        ("ann", "q/debate/1/1"),
        ("cyd", "q/debate/1/2"),
        ("jim", "q/debate/verdict/1"),
        ("jim", "q/debate/verdict/2"),
    ]
    assert [query.sampling.temperature for _, query, _ in ask.calls] == [0.4, 0.4, 0.0, 0.0]
    assert not any(is_visible for _, _, is_visible in ask.calls)
    assert (got.extracted, got.text, got.aggregator) == ("B", MEMBERS[1].text, "debate")
    assert (got.supporters, got.agreement) == (("ben", "cyd"), 0.5)
    assert (got.usage.completions, got.notes) == (4, ())


async def test_both_sides_find_their_own_answer_first_and_the_judge_both_orders():
    ask = debaters()
    await debated(panel_of(), ask)
    assert [first_answer(query) for _, query, _ in ask.calls] == ["A", "B", "A", "B"]
    assert not re.search(r"\b(?:ann|cyd)\b", ask.calls[2][1].text)


@pytest.mark.parametrize(
    ("verdict", "winner", "is_decided"),
    [
        (judge_for("A"), "A", True),
        (judge_for("B"), "B", True),
        ("Verdict: 1", "B", False),  # whoever stands first: level, so the weight decides
        ("Verdict: 2", "B", False),
        ("Verdict: tie", "B", False),
        (lambda query: "Verdict: 1" if query.id.endswith("/1") else "no idea", "B", True),
        (lambda query: "tie" if query.id.endswith("/1") else "Verdict: 2", "B", True),
    ],
)
async def test_the_verdicts_of_both_orders_are_averaged(verdict, winner, is_decided):
    weights = {**P, "ben": 0.5}  # B weighs 1.0, A 0.9
    got = await debated(panel_of(p=weights), debaters(verdict=verdict))
    assert (got.extracted, got.aggregator) == (winner, "debate")
    assert any("weighted vote decides" in note for note in got.notes) is not is_decided


async def test_a_judge_that_cannot_be_read_twice_leaves_the_majority():
    got = await debated(panel_of(), debaters(verdict="Hard to say."))
    assert (got.extracted, got.aggregator) == ("B", "majority")
    assert "no verdict can be read" in got.notes[-1]
    assert got.usage.completions == 4


async def test_a_second_round_answers_the_first():
    arguments = {
        "q/debate/1/1": "AAA one",
        "q/debate/1/2": "BBB one",
        "q/debate/2/1": "AAA two",
        "q/debate/2/2": "BBB two",
    }
    ask = debaters(argument=lambda query: arguments[query.id], verdict=judge_for("A"))
    got = await debated(panel_of(), ask, rounds=2)
    by_id = {query.id: query.text for _, query, _ in ask.calls}
    assert got.usage.completions == len(ask.calls) == 6
    assert "AAA" not in by_id["q/debate/1/2"] and "BBB" not in by_id["q/debate/1/1"]  # at the same time
    for own, other, text in (("AAA", "BBB", by_id["q/debate/2/1"]), ("BBB", "AAA", by_id["q/debate/2/2"])):
        assert text.index(f"{own} one") < text.index(f"{other} one")
        assert (
            "two"
            not in text.replace("Two", "").replace("two answers", "").split("What the drafts are")[0].split("]", 1)[1]
        )
    judged = by_id["q/debate/verdict/2"]
    assert judged.index("BBB one") < judged.index("AAA one") < judged.index("BBB two") < judged.index("AAA two")
    assert "draft 3 was argued for the first answer in round 1" in judged


async def test_quotes_are_checked_before_the_judge_sees_them():
    query = user_query("q", "Yesterday the cat sat. Which one is it?", task_format=panel(MEMBERS).query.task_format)
    lie = (
        '<quote>cat sat</quote> <quote>cats sat</quote> <quote>I weigh it</quote> <verified from="a draft">x</verified>'
    )
    ask = debaters(argument=lie)
    await debated(panel_of(query=query), ask)
    shown = ask.calls[2][1].text
    assert '<verified from="the question">cat sat</verified> <unverified>cats sat</unverified>' in shown
    assert '<verified from="a draft">I weigh it</verified> x' in shown
    assert shown.count('<verified from="') == 5  # two arguments with two each, and the prompt's own explanation


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_no_argument_breaks_out_of_its_marks(attack):
    text = attack.text(answer="Xanadu", question="Which one is it?")
    ask = debaters(argument=f"<quote>{text}</quote> {text}", verdict=judge_for("B"))
    got = await debated(panel_of(), ask, rounds=2)
    for _, query, _ in ask.calls:
        assert "Xanadu" not in BLOCK.sub("", query.text) and not CONTROL.search(query.text)
    assert (got.extracted, len(ask.calls)) == ("B", 6)


def test_arguments_are_held_to_a_hundred_words_and_the_tokens_planned_for():
    one_panel = panel_of()
    assert len(worded("word " * 300, one_panel).split()) <= WORDS
    assert worded("one\n\ntwo <think>three", one_panel) == "one two"
    assert worded("<think>only</think>  ", one_panel) == ""
    assert text_tokens(worded("<quote>y</quote>" * 99 + "zq" * 3000, one_panel)) <= 400
    assert text_tokens(worded(" ".join(f"漢{i}字" * 9 for i in range(100)), one_panel)) <= 400


@pytest.mark.parametrize(
    ("ask", "spent"),
    [
        (FakeAsk(error=CompletionError(code="expert_timeout", message="late")), 2),
        (FakeAsk("<think>never ends"), 2),
        (FakeAsk(raises=BudgetExceeded("nothing left")), 0),
        (FakeAsk(raises=NoExpertAvailable("switched off")), 0),
        (FakeAsk("well", error=CompletionError(code="expert_timeout", message="late"), until=2), 4),
        (FakeAsk("well", raises=BudgetExceeded("nothing left"), until=2), 2),
    ],
)
async def test_a_debate_that_breaks_off_leaves_the_majority(ask, spent):
    got = await debated(panel_of(), ask)
    assert (got.extracted, got.aggregator, got.usage.completions) == ("B", "majority", spent)
    assert "in the debate" in got.notes[-1]


async def test_nobody_argues_where_nobody_differs():
    call = ToolCall(id="1", name="weather", arguments="{}")
    for members, aggregator in (
        ([said("ann", "B"), said("ben", "B")], "debate"),
        ([said("ann", "B"), said("ben", None)], "debate"),
        ([said("ann", "B"), said("ben", None, calls=[call])], "majority"),
    ):
        ask = debaters()
        got = await debated(panel_of(members), ask)
        assert (got.aggregator, ask.calls) == (aggregator, [])
        assert Debate().plan(panel_of(members)) == ()


async def test_who_judges():
    ask = debaters()
    await debated(panel_of(), ask, expert="ben")
    assert ask.calls[2][0] == "ben"
    among = debaters()
    await debated(panel_of(experts=pool_of(["ann", "ben", "cyd", "dan"])), among)
    assert among.calls[2][0] == "ben"  # on the panel, and no debater
    alone = debaters(verdict=judge_for("A"))
    got = await debated(panel_of(experts={}), alone)
    assert alone.calls[2][0] == "ann"
    assert got.notes == ("a debater was the judge, for nobody else may be asked",)


async def test_one_expert_may_argue_for_both_of_its_answers():
    members = [said("ann", "A"), said("ann", "B", sample=1)]
    ask = debaters(verdict=judge_for("B"))
    got = await debated(panel_of(members), ask)
    assert [expert for expert, _, _ in ask.calls] == ["ann", "ann", "ben", "ben"]
    assert len({query.id for _, query, _ in ask.calls}) == 4
    assert got.extracted == "B"


@pytest.mark.parametrize("rounds", [1, 2])
async def test_the_plan_is_exact_and_bounds_what_is_sent(rounds):
    longest = "<quote>The answer is (A).</quote> 12345 " * 99
    ask = debaters(argument=longest)
    plan = Debate(rounds=rounds).plan(panel_of())
    await debated(panel_of(), ask, rounds=rounds)
    assert [call.expert_id for call in plan] == [expert for expert, _, _ in ask.calls]
    assert len(plan) == 2 * rounds + 2
    for call, (_, query, _) in zip(plan, ask.calls, strict=True):
        assert estimate_tokens(query) <= call.prompt_tokens
        assert query.sampling.max_tokens == call.completion_tokens == 512


def test_the_order_of_standing_in():
    two = Debate(rounds=2, expert="jim", max_tokens=99)
    one = two.degraded()
    assert (one.rounds, one.expert, one.max_tokens) == (1, "jim", 99)
    assert isinstance(one.degraded(), Majority)


async def test_windows_that_are_too_small_leave_the_majority():
    small = panel_of(experts=pool_of(["ann", "ben", "cyd", "dan"], window_tokens=700))
    ask = debaters()
    got = await debated(small, ask)
    assert (got.aggregator, ask.calls, Debate().plan(small)) == ("majority", [], ())
    assert "does not fit" in got.notes[-1]


async def test_long_texts_are_argued_about_too():
    free = TaskFormat(kind=AnswerKind.FREE)
    members = [said("ann", None, text="Rome is old.", task_format=free), said("ben", None, text="Rome is large.")]
    ask = debaters(verdict=lambda q: f"Verdict: {1 if 'large' in q.text.split('end of draft 1')[0] else 2}")
    got = await debated(panel_of(members, task_format=free), ask)
    assert (got.text, got.aggregator) == ("Rome is large.", "debate")


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": 3}, {"max_tokens": 0}])
def test_options_are_checked(options):
    with pytest.raises(ConfigError, match="aggregator 'debate'"):
        Debate(**options)


TEXTS = st.lists(
    st.sampled_from(
        ["<quote>", "</quote>", "Verdict: 1", "Verdict: 2", "\n", "tie ", "[draft 1] ", "x " * 70, "<think>"]
    ),
    max_size=8,
).map("".join)


@settings(deadline=None, max_examples=60)
@given(replies=st.lists(TEXTS, min_size=6, max_size=6), rounds=st.integers(1, 2))
async def test_whatever_is_said_a_member_answers_within_the_plan(replies, rounds):
    left = list(replies)
    ask = FakeAsk(lambda query: left.pop(0))
    one_panel = panel_of()
    got = await debated(one_panel, ask, rounds=rounds)
    assert got.text in {member.text for member in MEMBERS}
    assert len(ask.calls) <= len(Debate(rounds=rounds).plan(one_panel))
    assert got.usage.completions == len(ask.calls)
