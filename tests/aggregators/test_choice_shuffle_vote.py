"""The same question with its options in other orders: what is asked, and how the answers come back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aggregators.base import CallingAggregator
from aggregators.choice_shuffle_vote import ChoiceShuffleVote
from aggregators.majority import Majority
from aggregators.option_orders import find_options
from router_service.errors import BudgetExceeded, ConfigError
from router_service.types import Message, TaskFormat
from tests.aggregators.panels import CALL_USAGE, CHOICE, FakeAsk, panel, said, shown_choice

SPLIT = [said("ann", "A"), said("ben", "B"), said("cyd", "C")]


def by_content(wanted):
    """A model that knows its answer by its text, wherever it stands."""

    def answer(query):
        place = find_options(query.text).options.index(wanted)
        return f"It is {wanted}. The answer is ({'ABCD'[place]})"

    return answer


async def vote(members, ask, *, query=None, **options):
    return await ChoiceShuffleVote(**options).aggregate(panel(members, query=query or shown_choice()), ask=ask)


async def test_answers_are_mapped_back_to_the_letters_of_the_question():
    ask = FakeAsk(by_content("three"))
    got = await vote(SPLIT, ask)
    assert (got.extracted, got.text, got.supporters) == ("C", SPLIT[2].text, ("cyd",))
    assert got.confidence == pytest.approx(13 / 15)
    assert got.agreement == pytest.approx(1 / 3)
    assert got.usage.completions == len(ask.calls) == 12
    assert got.notes == ()


async def test_a_liking_for_a_letter_evens_out():
    """Who always says A votes for whatever stands first, and not for one answer."""
    ask = FakeAsk("The answer is (A)")
    await vote(SPLIT, ask, orders=24, expert="ann")
    texts = [query.text for _, query, _ in ask.calls]
    assert len(set(texts)) == 23
    firsts = [find_options(text).options[0] for text in texts]
    assert {name: firsts.count(name) for name in set(firsts)} == {"one": 5, "two": 6, "three": 6, "four": 6}


async def test_the_experts_that_hold_an_answer_are_asked_or_the_one_named():
    ask = FakeAsk("The answer is (A)")
    await vote([*SPLIT, said("mute", None)], ask, orders=3)
    assert [expert for expert, _, _ in ask.calls] == ["ann", "ben", "cyd"] * 2
    ask = FakeAsk("The answer is (A)")
    await vote(SPLIT, ask, orders=3, expert="zoe")
    assert [expert for expert, _, _ in ask.calls] == ["zoe", "zoe"]
    assert not any(is_visible for _, _, is_visible in ask.calls)


async def test_the_rest_of_the_question_and_its_format_stay():
    ask = FakeAsk("The answer is (A)")
    query = replace(shown_choice(), messages=(Message(role="system", content="Be brief."), *shown_choice().messages))
    await vote(SPLIT, ask, orders=2, expert="ann", query=query)
    ((_, child, _),) = ask.calls
    assert child.messages[0] == query.messages[0]
    assert child.text.endswith("Answer with the letter of the right option.")
    assert child.task_format.options == find_options(child.text).options != CHOICE.options
    assert (child.parent_id, child.seed) != ("q", query.seed) and child.parent_id == "q"


async def test_an_option_said_in_words_is_read_in_the_order_it_was_asked_in():
    got = await vote(SPLIT, FakeAsk("two"), orders=4)
    assert got.extracted == "B"


async def test_a_letter_that_no_member_held_is_told_of_and_not_taken():
    got = await vote(SPLIT, FakeAsk(by_content("four")))
    assert got.extracted == "A"
    assert got.notes == ("with the options in other orders most votes went to D, which no member held",)
    assert got.confidence == pytest.approx(1 / 15)


async def test_an_answer_out_of_range_is_no_vote():
    got = await vote(SPLIT, FakeAsk("The answer is (J)"), expert="ann")
    assert (got.aggregator, got.extracted) == ("majority", "A")


UNMOVABLE = {
    "no options shown": panel(SPLIT).query,
    "another kind": replace(shown_choice(), task_format=TaskFormat()),
    "the last turn is not the user's": replace(
        shown_choice(), messages=(*shown_choice().messages, Message(role="assistant", content="Well,"))
    ),
}


@pytest.mark.parametrize("case", UNMOVABLE)
async def test_where_the_options_cannot_be_moved_the_vote_stands_with_a_note(case):
    ask = FakeAsk("The answer is (A)")
    got = await vote([*SPLIT, said("dan", "C")], ask, query=UNMOVABLE[case])
    assert (got.extracted, got.aggregator, ask.calls) == ("C", "majority", [])
    assert "cannot be put in another order" in got.notes[0]
    assert ChoiceShuffleVote().plan(panel(SPLIT, query=UNMOVABLE[case])) == ()


async def test_what_came_back_before_the_budget_ran_out_counts():
    ask = FakeAsk(by_content("three"), raises=BudgetExceeded("no more"), until=2)
    got = await vote(SPLIT, ask)
    assert (got.extracted, got.aggregator) == ("C", "choice_shuffle_vote")
    assert got.usage == CALL_USAGE + CALL_USAGE
    assert any("was not asked" in note for note in got.notes)


def test_it_degrades_to_fewer_orders_and_then_to_the_majority():
    orders, aggregator = [], ChoiceShuffleVote(orders=9, expert="ann")
    while isinstance(aggregator, CallingAggregator):
        orders.append((aggregator.orders, aggregator.expert))
        aggregator = aggregator.degraded()
    assert orders == [(9, "ann"), (5, "ann"), (3, "ann"), (2, "ann")]
    assert isinstance(aggregator, Majority)


@pytest.mark.parametrize("orders", [0, 1, 65])
def test_too_few_or_too_many_orders_are_refused(orders):
    with pytest.raises(ConfigError, match=f"orders is {orders}"):
        ChoiceShuffleVote(orders=orders)
