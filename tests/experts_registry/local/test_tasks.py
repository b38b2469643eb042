"""Task families: deterministic, disjoint splits, and answers that an independent check agrees with."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from experts_registry.local import wordlists
from experts_registry.local.problems import to_roman, to_words
from experts_registry.local.tasks import (
    DEFAULT_SEEDS,
    SPLITS,
    TASKS,
    generate,
    is_correct,
)
from experts_registry.local.weights import ADAPTERS
from experts_registry.records import read_questions, write_questions
from router_service.types import AnswerKind, Question

N = 25
ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def questions(task: str) -> list[Question]:
    return [question for split in SPLITS for question in generate(task, split, n=N)]


def numbers_in(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def roman_value(numeral: str) -> int:
    values = [ROMAN_VALUES[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in pairwise([*values, 0]))


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_gives_the_same_questions_and_another_one_others(task: str) -> None:
    assert generate(task, "fit", n=N, seed=5) == generate(task, "fit", n=N, seed=5)
    assert generate(task, "fit", n=N, seed=5) != generate(task, "fit", n=N, seed=6)
    assert generate(task, "fit", n=N) == generate(task, "fit", n=N, seed=DEFAULT_SEEDS["fit"])
    assert generate(task, "fit", n=N)[:7] == generate(task, "fit", n=7)


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_problem_whatever_the_seed_and_wording(task: str) -> None:
    seen = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in (1, 2, 3):
            seen[split] |= {q.id.rsplit("-", 1)[1] for q in generate(task, split, n=N, seed=seed)}
    assert not seen["train"] & seen["fit"]
    assert not seen["train"] & seen["test"]
    assert not seen["fit"] & seen["test"]


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_question_text(task: str) -> None:
    texts = [" ".join(re.findall(r"[\w+-]+", q.text.lower())) for q in questions(task)]
    assert len(set(texts)) == len(texts)


def test_a_sum_is_one_problem_in_either_order_and_a_list_in_either_direction() -> None:
    sums = [sorted(numbers_in(q.text)) for q in questions("arithmetic") if "addition" in q.skills]
    assert len({tuple(operands) for operands in sums}) == len(sums)
    lists = [tuple(sorted(q.answer.split(", "))) for q in questions("number_sorting")]
    assert len(set(lists)) == len(lists)


@pytest.mark.parametrize("task", TASKS)
def test_questions_are_short_and_well_formed(task: str) -> None:
    found = questions(task)
    assert len({q.id for q in found}) == len(found)
    for question in found:
        assert question.category == task
        assert question.answer_kind in {AnswerKind.NUMBER, AnswerKind.LITERAL}
        assert 2 <= len(question.skills) <= 4
        assert len(set(question.skills)) == len(question.skills)
        assert len(question.text) <= 160
        assert "{" not in question.text


def test_every_wording_is_used() -> None:
    asked = " ".join(q.text for q in generate("arithmetic", "train", n=100))
    for opening in ("What is the sum of", "Add ", "Calculate ", "Subtract ", " minus "):
        assert opening in asked


def test_arithmetic_answers() -> None:
    for question in questions("arithmetic"):
        first, second = numbers_in(question.text)
        if question.text.startswith("Subtract"):
            first, second = second, first
        assert int(question.answer) == (first + second if "addition" in question.skills else first - second)


def test_roman_answers_read_back_as_the_number() -> None:
    for question in questions("roman"):
        assert [roman_value(question.answer)] == numbers_in(question.text)
    assert all(roman_value(to_roman(number)) == number for number in range(1, 400))
    assert len({to_roman(number) for number in range(1, 400)}) == 399


def test_number_words() -> None:
    assert to_words(0) == "zero"
    assert to_words(16) == "sixteen"
    assert to_words(42) == "forty-two"
    assert to_words(100) == "one hundred"
    assert to_words(907) == "nine hundred seven"
    assert to_words(9999) == "nine thousand nine hundred ninety-nine"
    assert to_words(70_015) == "seventy thousand fifteen"
    assert len({to_words(number) for number in range(10_000)}) == 10_000
    for question in questions("number_words"):
        assert to_words(int(question.answer)) in question.text


def test_sorting_and_reversal_answers() -> None:
    for question in questions("number_sorting"):
        ordered = numbers_in(question.answer)
        assert sorted(ordered) == sorted(numbers_in(question.text))
        falls = any(words in question.text for words in ("descending", "largest to", "high to"))
        assert ordered == sorted(ordered, reverse=falls)
    for question in questions("reversal"):
        asked = question.text.split(": ")[1].split(", ")
        assert asked[::-1] == question.answer.split(", ")


def test_family_answers_follow_from_the_story() -> None:
    for question in questions("family"):
        parents = question.text.split(" is married to ")
        couple = {parents[0], parents[1].split(".")[0]}
        child = re.search(r"child called (\w+)", question.text)[1]
        asked = re.search(r"(?:relation is|is|How is) (\w+) (?:related )?to (\w+)", question.text.split(". ", 2)[2])
        person, other = asked[1], asked[2]
        if person == child:
            assert question.answer in {"son", "daughter"}
        elif other == child:
            assert question.answer in {"father", "mother"}
        else:
            assert {person, other} == couple
            assert question.answer in {"husband", "wife"}


def test_word_forms() -> None:
    answers = {}
    for question in (q for split in SPLITS for q in generate("word_forms", split, n=50)):
        kind = question.skills[-1]
        answers[kind, re.findall(r'"(\w+)"|One (\w+)', question.text)[0]] = question.answer
    assert {kind for kind, _ in answers} == {"plural nouns", "past tense", "present participle"}
    assert all(answer.endswith("ing") for (kind, _), answer in answers.items() if kind == "present participle")
    assert wordlists.PLURALS["child"] == "children"
    assert wordlists.PAST_TENSES["go"] == "went"
    assert wordlists.CAPITALS["New Zealand"] == "Wellington"


def test_a_fact_may_be_said_in_a_sentence_but_not_in_passing() -> None:
    question = next(q for q in questions("facts") if "antonyms" in q.skills)
    word = re.search(r'"([\w\\-]+)\[', question.answer)[1].replace("\\", "")
    for right in (word, word.title() + ".", f"The opposite is {word}.", f'The opposite of "x" is "{word}." This is so'):
        assert is_correct(question, right), right
    for wrong in ("", f"not-{word}", f"{word}ish", f"The opposite is un{word}.", f"It is bad. It is {word}."):
        assert not is_correct(question, wrong), wrong


def test_grading_numbers_and_literals() -> None:
    number = Question(id="x", text="?", answer="-12", answer_kind=AnswerKind.NUMBER)
    assert is_correct(number, "14 - 26 = -12")
    assert is_correct(number, "-12.")
    assert not is_correct(number, "12")
    assert not is_correct(number, "none")
    literal = Question(id="x", text="?", answer="XIV", answer_kind=AnswerKind.LITERAL)
    assert is_correct(literal, ' "xiv". ')
    assert not is_correct(literal, "XV")
    assert not is_correct(literal, "")


@pytest.mark.parametrize("task", TASKS)
def test_written_questions_can_be_read_back(task: str, tmp_path) -> None:
    found = generate(task, "test", n=3)
    write_questions(tmp_path / "q.jsonl", found)
    assert read_questions(tmp_path / "q.jsonl") == found
    assert {(question.category, question.split) for question in found} == {(task, "test")}


def test_the_shipped_artefact_was_made_with_these_questions() -> None:
    """Wordings, splits and seeds must stay: the shipped profiles and adapters were made with them."""
    shipped = read_questions(ADAPTERS.parent / "artefact" / "questions.jsonl")
    found = {q.id: q for task in TASKS for q in generate(task, "fit", n=25)}
    assert {q.id: q for q in shipped} == found


def test_what_cannot_be_generated_is_said() -> None:
    with pytest.raises(ValueError, match="unknown task 'chess'; there are arithmetic"):
        generate("chess", "fit", n=1)
    with pytest.raises(ValueError, match="unknown split 'dev'; there are train, fit, test"):
        generate("roman", "dev", n=1)
    with pytest.raises(ValueError, match=r"roman/test has only some \d+ different problems, and 500 were asked for"):
        generate("roman", "test", n=500)
