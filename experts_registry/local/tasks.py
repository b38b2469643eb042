"""The generated task families of the built-in pool: questions with exact answers, seeded, in splits that never overlap.

A stable hash of the *problem*, not of its wording, decides which split it belongs to; so no rewording of a training
problem can turn up among the test questions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final, Literal

from experts_registry.local import problems, wordlists
from experts_registry.local.problems import Problem
from router_service.types import AnswerKind, Question

__all__ = ["DEFAULT_SEEDS", "SPLITS", "TASKS", "Split", "Task", "generate", "is_correct", "split_of"]

Split = Literal["train", "fit", "test"]

SPLITS: Final[tuple[Split, ...]] = ("train", "fit", "test")
DEFAULT_SEEDS: Final[Mapping[Split, int]] = MappingProxyType({"train": 11, "fit": 23, "test": 37})
"""The seed of each split wherever none is given: in the training script, for profiles, in the demo."""

_DRAWS_PER_QUESTION: Final = 60
"""Draws tried per wanted question before the family counts as exhausted in that split."""

_SENTENCE_ENDING: Final = "re:"
"""An answer that starts so is a regular expression which the whole reply has to match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A family: an endless seeded stream of problems, and the wordings in which each form of them is asked.

    `train_percent` of the problems are kept for training; the rest is halved between fit and test. In a family with
    `in_sentences` a reply may say the answer in a sentence ("The opposite of hot is cold.").
    """

    name: str
    answer_kind: AnswerKind
    skills: tuple[str, ...]
    wordings: Mapping[str, tuple[str, ...]]
    stream: Callable[[int], Iterator[Problem]]
    train_percent: int = 60
    in_sentences: bool = False


def split_of(task: str, key: str) -> Split:
    """Which split a problem belongs to, by the SHA-256 of its key and its family's `train_percent`."""
    percent = int(hashlib.sha256(f"{task}/{key}".encode()).hexdigest()[:8], 16) % 100
    trained = TASKS[task].train_percent
    if percent < trained:
        return "train"
    return "fit" if percent < (trained + 100) // 2 else "test"


def generate(task: str, split: Split, *, n: int, seed: int | None = None) -> list[Question]:
    """Draw `n` different problems of one family and split, each in one wording; a question's category is its family.

    A question's id is `<task>-<split>-<hash of the problem>`. Its `answer` is exact, or where it starts with `re:` a
    regular expression for the whole reply.
    `seed` defaults to `DEFAULT_SEEDS[split]`; more questions under the same seed begin with the same ones. Raises
    `ValueError` for an unknown task or split, and where the split has fewer than `n` problems.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    family = TASKS[task]
    rng = Random(f"{task}/{split}/{DEFAULT_SEEDS[split] if seed is None else seed}")
    found: dict[str, Question] = {}
    for draws, problem in enumerate(family.stream(rng.getrandbits(31))):
        if len(found) == n:
            break
        if draws >= _DRAWS_PER_QUESTION * max(n, 10):
            raise ValueError(f"{task}/{split} has only some {len(found)} different problems, and {n} were asked for")
        if problem.key not in found and split_of(task, problem.key) == split:
            found[problem.key] = _ask(family, problem, split=split, rng=rng)
    return list(found.values())


def _ask(family: Task, problem: Problem, *, split: Split, rng: Random) -> Question:
    digest = hashlib.sha256(problem.key.encode()).hexdigest()[:10]
    return Question(
        id=f"{family.name}-{split}-{digest}",
        text=rng.choice(family.wordings[problem.form]).format(**problem.slots),
        answer=_sentence_ending(problem.answer) if family.in_sentences else problem.answer,
        answer_kind=family.answer_kind,
        category=family.name,
        split=split,
        skills=family.skills + problem.skills,
    )


def _sentence_ending(answer: str) -> str:
    """Matches a reply that is `answer`, or whose first sentence ends in "is" and `answer`."""
    word = re.escape(answer)
    return rf'{_SENTENCE_ENDING}(?:[^.\n]*\bis )?(?:"{word}[.,]?".*|{word}(?:[.,;!\n].*)?)'


def is_correct(question: Question, text: str) -> bool:
    """Whether a reply is right, by its last line, without quotes and full stops around it; a number by the last one in
    the text.

    Made for the families here and for `evaluate.py` alone: the service's own grading extracts answers first, and this
    package may not import it.
    """
    answer = question.answer or ""
    if question.answer_kind is AnswerKind.NUMBER:
        numbers = re.findall(r"-?\d[\d,]*", text)
        return bool(numbers) and numbers[-1].replace(",", "") == answer
    lines = text.strip().splitlines()
    said = lines[-1].strip(" \t\"'`*.") if lines else ""
    if answer.startswith(_SENTENCE_ENDING):
        pattern = answer.removeprefix(_SENTENCE_ENDING)
        return re.fullmatch(pattern, said, re.IGNORECASE | re.DOTALL) is not None
    return said.casefold().split() == answer.casefold().split()


_FAMILIES: Final = (
    Task(
        name="arithmetic",
        answer_kind=AnswerKind.NUMBER,
        skills=("arithmetic", "mental calculation"),
        wordings={
            "+": (
                "What is {a} + {b}?",
                "Add {a} and {b}.",
                "Calculate {a} + {b}.",
                "What is the sum of {a} and {b}?",
            ),
            "-": (
                "What is {a} - {b}?",
                "Subtract {b} from {a}.",
                "Calculate {a} - {b}.",
                "What is {a} minus {b}?",
            ),
        },
        stream=problems.arithmetic,
    ),
    Task(
        name="roman",
        answer_kind=AnswerKind.LITERAL,
        skills=("roman numerals", "number conversion", "place value"),
        wordings={
            "to_roman": (
                "Write {n} as a Roman numeral.",
                "What is {n} in Roman numerals?",
                "Convert the number {n} to Roman numerals.",
                "Give the Roman numeral for {n}.",
            )
        },
        stream=problems.roman,
    ),
    Task(
        name="number_words",
        answer_kind=AnswerKind.NUMBER,
        skills=("number words", "number conversion", "place value"),
        wordings={
            "to_digits": (
                'Write "{words}" in digits.',
                "Which number is {words}?",
                "Convert to digits: {words}.",
                "How is {words} written with digits?",
            )
        },
        stream=problems.number_words,
    ),
    Task(
        name="word_forms",
        answer_kind=AnswerKind.LITERAL,
        skills=("grammar", "word forms"),
        wordings={
            "plural": (
                'What is the plural of "{w}"?',
                'Give the plural form of the noun "{w}".',
                "One {w}, two ... which word follows?",
            ),
            "past": (
                'What is the past tense of "{w}"?',
                'Give the simple past of the verb "{w}".',
                'Today I {w}. Which form of "{w}" did I do yesterday?',
            ),
            "participle": (
                'What is the -ing form of "{w}"?',
                'Give the present participle of the verb "{w}".',
            ),
        },
        stream=problems.from_tables(
            {"plural": wordlists.PLURALS, "past": wordlists.PAST_TENSES, "participle": wordlists.PARTICIPLES},
            {"plural": ("plural nouns",), "past": ("past tense",), "participle": ("present participle",)},
        ),
    ),
    Task(
        name="number_sorting",
        answer_kind=AnswerKind.LITERAL,
        skills=("sorting", "comparing numbers", "lists"),
        wordings={
            "ascending": (
                "Sort these numbers from smallest to largest: {numbers}",
                "Put these numbers in ascending order: {numbers}",
                "Order from low to high: {numbers}",
            ),
            "descending": (
                "Sort these numbers from largest to smallest: {numbers}",
                "Put these numbers in descending order: {numbers}",
                "Order from high to low: {numbers}",
            ),
        },
        stream=problems.number_sorting,
    ),
    Task(
        name="reversal",
        answer_kind=AnswerKind.LITERAL,
        skills=("reversing", "word order", "lists"),
        wordings={
            "reverse": (
                "Reverse this list of words: {words}",
                "Write these words in reverse order: {words}",
                "List these words from last to first: {words}",
            )
        },
        stream=problems.reversal,
    ),
    Task(
        name="family",
        answer_kind=AnswerKind.LITERAL,
        skills=("family relationships", "reading comprehension"),
        wordings={"story": ("{story} {ask}",)},
        stream=problems.family,
    ),
    Task(
        name="facts",
        answer_kind=AnswerKind.LITERAL,
        skills=("general knowledge",),
        wordings={
            "capital": (
                "What is the capital of {w}? Answer with the name only.",
                "Tell me the capital of {w}.",
                "What city is the capital of {w}? Answer with the name only.",
            ),
            "opposite": ("What is the opposite of {w}?", "What word is the opposite of {w}?"),
        },
        stream=problems.from_tables(
            {"capital": wordlists.CAPITALS, "opposite": wordlists.OPPOSITES},
            {"capital": ("geography", "capitals"), "opposite": ("vocabulary", "antonyms")},
        ),
        train_percent=20,
        in_sentences=True,
    ),
)

TASKS: Final[Mapping[str, Task]] = MappingProxyType({family.name: family for family in _FAMILIES})
"""The families by name; `facts` is the generalist's own, and no specialist is trained on it."""
