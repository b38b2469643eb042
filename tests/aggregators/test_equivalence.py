"""Which answers are the same one, and how members are gathered by answer."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators import formulas
from aggregators.equivalence import canonical, group_answers, same_answer
from router_service.types import AnswerKind, Completion, ToolCall

NUMBER, LITERAL, CHOICE, JSON = AnswerKind.NUMBER, AnswerKind.LITERAL, AnswerKind.CHOICE, AnswerKind.JSON


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        (NUMBER, "1,000", "1000.0"),
        (NUMBER, "1e3", "1000"),
        (NUMBER, "1,000", "1 \\times 10^3"),
        (NUMBER, "1/2", "0.5"),
        (NUMBER, "\\frac{1}{2}", ".50"),
        (NUMBER, "\\dfrac12", "2/4"),
        (NUMBER, "-\\frac{3}{4}", "-0.75"),
        (NUMBER, "x = 5", "5"),
        (NUMBER, "$5", "5 \\text{ dollars}"),
        (NUMBER, "50%", "50"),
        (NUMBER, "12 apple trees", "12"),
        (NUMBER, "50\\%", "50.0"),
        (NUMBER, "1 1/2", "1.5"),
        (NUMBER, "−3", "-3"),
        (NUMBER, "-0", "0"),
        (NUMBER, "45^\\circ", "45"),
        (NUMBER, "10^{-3}", "0.001"),
        (NUMBER, "-10^2", "-100"),
        (NUMBER, "6.63 \\times 10^{-34}", "6.63e-34"),
        (NUMBER, "3 million", "3,000,000"),
        (NUMBER, "$2.5 \\text{ million dollars}", "2500000"),
        (NUMBER, "2 hundred thousand", "200000"),
        (NUMBER, "10 Thousands", "10000"),
        (NUMBER, "**8**", "8"),
        (NUMBER, "**8** apples", "__8__."),
        (NUMBER, "x**2", "x^2"),
        (CHOICE, "(b)", "B"),
        (LITERAL, '"the  end".', "the end"),
        (LITERAL, "[1, 2]", "[1,2]"),
        (LITERAL, "('a', \"b\")", "('a','b')"),
        (LITERAL, "Yes", "yes"),
        (JSON, '{"a": 1, "b": [2.0]}', '{"b":[2],"a":1}'),
        (AnswerKind.CODE, "  a = 1  \n", "a = 1"),
        (AnswerKind.FREE, "Hello\n world", "Hello world"),
    ],
)
def test_the_same_answer_in_other_words_has_the_same_key(kind, a, b):
    assert canonical(a, kind) == canonical(b, kind)
    assert same_answer(a, b, kind)


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        (NUMBER, "1000", "100"),
        (NUMBER, "1000000", "1000001"),
        (NUMBER, "1/2", "2"),
        (NUMBER, "1/0", "0"),
        (NUMBER, "\\sqrt{2}", "\\sqrt{3}"),
        (NUMBER, "1e999999999", "2e999999999"),
        (NUMBER, "no solution", "on solution"),
        (NUMBER, "9^{9^{9^9}}", "1"),
        (NUMBER, "9**9**9**9", "1"),
        (NUMBER, "6.63e-34", "0"),
        (NUMBER, "6.63e-34", "1.6e-19"),
        (NUMBER, "10^{-34}", "10^{-19}"),
        (NUMBER, "10^{-34}", "1e-19"),
        (NUMBER, "0.0000004", "-0.0000004"),
        (NUMBER, "2**3", "23"),
        (NUMBER, "3 million", "3"),
        (NUMBER, "10 thousand", "10"),
        (NUMBER, "3 million", "3 billion"),
        (CHOICE, "A", "B"),
        (LITERAL, "aBc", "abc"),
        (LITERAL, "a b", "ab"),
        (JSON, "[1, 2]", "[2, 1]"),
        (JSON, '{"a": true}', '{"a": 1}'),
        (AnswerKind.CODE, "if a:\n    b", "if a:\nb"),
    ],
)
def test_another_answer_has_another_key(kind, a, b):
    assert canonical(a, kind) != canonical(b, kind)
    assert not same_answer(a, b, kind)


@pytest.mark.parametrize(
    ("rounded", "exact"),
    [("0.333333", "1/3"), ("1234567.333333", "3703702/3"), ("0.0333333", "1/30"), ("3.33333e-20", "1e-19/3")],
)
def test_a_rounded_number_equals_the_exact_one_to_six_decimals_and_six_digits(rounded, exact):
    assert same_answer(rounded, exact, NUMBER)
    assert not same_answer(rounded.replace("33", "34", 1), exact, NUMBER)
    assert not same_answer("0.33", "1/3", NUMBER)


NUMBERS = st.one_of(
    st.fractions(max_denominator=10**9).map(str),
    st.builds("{}e{}".format, st.integers(-99, 99), st.integers(-40, 40)),
    st.builds("0.{}{}".format, st.sampled_from(["33333", "0333333", "00000033333"]), st.integers(0, 99)),
)


@given(st.lists(NUMBERS, min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_groups_of_numbers_do_not_depend_on_the_order(numbers, random):
    members = [said(f"e{i}", number) for i, number in enumerate(numbers)]
    mixed = random.sample(members, len(members))
    groups, again = ({frozenset(g.supporters) for g in group_answers(m, NUMBER)} for m in (members, mixed))
    assert groups == again


@given(NUMBERS)
def test_only_nothing_is_nothing(number):
    assert same_answer(number, "0", NUMBER) == (formulas.number_value(number) == 0)


def test_powers_in_stars_are_powers():
    pytest.importorskip("math_verify")
    assert same_answer("2**3", "8", NUMBER)
    assert same_answer("**2**3**", "8", NUMBER)


def test_tiny_formulas_differ():
    pytest.importorskip("math_verify")
    tiny, tinier = "\\sqrt{2} \\cdot 10^{-19}", "\\sqrt{2} \\cdot 10^{-34}"
    assert not same_answer(tiny, tinier, NUMBER)
    assert same_answer(tiny, "\\frac{2}{\\sqrt{2}} \\cdot 10^{-19}", NUMBER)


def test_formulas_are_compared_by_value_in_any_thread():
    pytest.importorskip("math_verify")
    results = []
    pairs = [
        ("\\frac{\\sqrt{3}}{2}", "\\sqrt{3}/2"),
        ("2x + 1", "1 + 2x"),
        ("\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt{2}}{2}"),
    ]
    thread = threading.Thread(target=lambda: results.extend(same_answer(a, b, NUMBER) for a, b in pairs))
    thread.start()
    thread.join()
    assert results == [True, True, False]


def test_a_comparison_that_takes_too_long_is_given_up_and_ended():
    def endless():
        while True:
            time.sleep(0.001)

    before = time.perf_counter()
    assert formulas._within(0.05, endless) is False
    assert time.perf_counter() - before < 2
    deadline = time.perf_counter() + 5
    while any(t.name == "formula-comparison" for t in threading.enumerate()):
        assert time.perf_counter() < deadline, "the comparison goes on for ever"
        time.sleep(0.01)


def said(expert_id, extracted, *, sample=0, calls=()):
    return Completion(
        query_id="q", expert_id=expert_id, sample=sample, text=extracted or "", extracted=extracted, tool_calls=calls
    )


def test_members_are_gathered_by_answer_earliest_first():
    members = [said("a", "2"), said("b", None), said("c", "3"), said("d", "2.0"), said("a", "3", sample=1)]
    groups = group_answers(members, NUMBER)
    assert [group.supporters for group in groups] == [("a", "d"), ("c", "a")]
    assert groups[0].first is members[0]


def test_formulas_join_the_group_of_their_value():
    pytest.importorskip("math_verify")
    members = [said("a", "\\frac{\\sqrt{3}}{2}"), said("b", "7"), said("c", "\\sqrt{3}/2")]
    assert [group.supporters for group in group_answers(members, NUMBER)] == [("a", "c"), ("b",)]


def test_a_formula_joins_the_exact_number_and_not_its_rounded_key():
    pytest.importorskip("math_verify")
    members = [said("a", "1/3"), said("b", "\\frac{\\sqrt{1}}{3}"), said("c", "0.333333")]
    assert [group.supporters for group in group_answers(members, NUMBER)] == [("a", "b", "c")]


def test_the_same_tool_calls_are_one_answer_whatever_the_order_of_arguments():
    one = (ToolCall(id="1", name="weather", arguments='{"city": "Rome", "days": 2}'),)
    two = (ToolCall(id="2", name="weather", arguments='{"days":2,"city":"Rome"}'),)
    other = (ToolCall(id="3", name="weather", arguments='{"city": "Bonn", "days": 2}'),)
    members = [said("a", None, calls=one), said("b", "Rome"), said("c", None, calls=two), said("d", None, calls=other)]
    groups = group_answers(members, AnswerKind.FREE)
    assert [group.supporters for group in groups] == [("a", "c"), ("b",), ("d",)]


def test_tool_calls_that_hold_no_json_are_compared_as_text():
    call = ToolCall(id="1", name="run", arguments="{broken")
    assert len(group_answers([said("a", None, calls=(call,)), said("b", None, calls=(call,))], LITERAL)) == 1


def test_a_free_text_that_nobody_extracted_still_is_an_answer():
    member = Completion(query_id="q", expert_id="a", text="<think>hm</think> Hello")
    assert group_answers([member], AnswerKind.FREE)[0].key == "answer:hello"
    assert group_answers([member], NUMBER) == ()
