"""Endless seeded streams of problems for the task families: from reasoning-gym where it has them, else made here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final

__all__ = [
    "Problem",
    "arithmetic",
    "family",
    "from_tables",
    "number_sorting",
    "number_words",
    "reversal",
    "roman",
    "to_roman",
    "to_words",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One underlying problem: what makes it unique, what its wordings fill in, its answer.

    `key` is the same for every wording and for every order in which operands that may be exchanged are named. `form`
    picks the family's group of wordings; `skills` are what it needs besides the family's own.
    """

    key: str
    form: str
    slots: Mapping[str, str]
    answer: str
    skills: tuple[str, ...] = ()


# --- made here ------------------------------------------------------------------------------------------------------

_ROMAN: Final = ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
_ROMAN_MAX: Final = 399
_UNIT_WORDS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TEN_WORDS: Final = "twenty thirty forty fifty sixty seventy eighty ninety"


def to_roman(number: int) -> str:
    """The subtractive Roman numeral of `number`, 1 to 399."""
    numeral = ""
    for value, letters in _ROMAN:
        repeats, number = divmod(number, value)
        numeral += letters * repeats
    return numeral


def to_words(number: int) -> str:
    """The English words of `number`, 0 to 999,999: hyphens below a hundred, no "and"."""
    if number < 20:
        return _UNIT_WORDS.split()[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TEN_WORDS.split()[tens - 2] + (f"-{to_words(unit)}" if unit else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    head, rest = divmod(number, size)
    return f"{to_words(head)} {name}" + (f" {to_words(rest)}" if rest else "")


def roman(seed: int) -> Iterator[Problem]:
    """Numbers from 1 to 399, to be written as Roman numerals."""
    rng = Random(seed)
    while True:
        number = rng.randint(1, _ROMAN_MAX)
        yield Problem(key=str(number), form="to_roman", slots={"n": str(number)}, answer=to_roman(number))


def number_words(seed: int) -> Iterator[Problem]:
    """Numbers from 100 to 9,999 in words, to be written in digits."""
    rng = Random(seed)
    while True:
        number = rng.randint(100, 9_999)
        yield Problem(key=str(number), form="to_digits", slots={"words": to_words(number)}, answer=str(number))


def from_tables(
    tables: Mapping[str, Mapping[str, str]], skills: Mapping[str, tuple[str, ...]]
) -> Callable[[int], Iterator[Problem]]:
    """A stream over tables of word and answer; a table's name is the form, and has its own skills."""
    entries = [(form, word, answer) for form, table in tables.items() for word, answer in table.items()]

    def problems(seed: int) -> Iterator[Problem]:
        rng = Random(seed)
        while True:
            form, word, answer = rng.choice(entries)
            yield Problem(key=f"{form}/{word}", form=form, slots={"w": word}, answer=answer, skills=skills[form])

    return problems


# --- from reasoning-gym ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _GymItem:
    """One entry of a reasoning-gym generator, with its metadata as text lookups."""

    question: str
    answer: str
    metadata: Mapping[str, object]

    def text(self, name: str) -> str:
        return str(self.metadata[name])

    def words(self, name: str) -> list[str]:
        words = self.metadata[name]
        return [str(word).lower() for word in words] if isinstance(words, list) else []


def _gym_items(dataset: str, seed: int, **options: object) -> Iterator[_GymItem]:
    import reasoning_gym

    # An item's own seed is the stream's seed + its index: seeds are scattered, lest two streams that were started with
    # neighbouring seeds give the same problems, shifted by one.
    source = reasoning_gym.create_dataset(dataset, seed=seed * 7919 % 2**31, size=2**31, **options)
    for index in count():
        item = source[index]
        yield _GymItem(question=item["question"], answer=str(item["answer"]), metadata=item["metadata"])


def arithmetic(seed: int) -> Iterator[Problem]:
    """Two-digit additions and subtractions (`chain_sum`); a sum counts as the same with its operands exchanged."""
    for item in _gym_items("chain_sum", seed, min_terms=2, max_terms=2, min_digits=2, max_digits=2):
        left, sign, right = item.text("expression").split()
        is_sum = sign == "+"
        yield Problem(
            key="+".join(sorted((left, right))) if is_sum else f"{left}-{right}",
            form=sign,
            slots={"a": left, "b": right},
            answer=item.answer,
            skills=("addition",) if is_sum else ("subtraction",),
        )


def number_sorting(seed: int) -> Iterator[Problem]:
    """Three different numbers below a hundred to be sorted, up or down (`number_sorting`)."""
    sizes = {"min_numbers": 3, "max_numbers": 3, "max_decimals": 0, "min_value": 1, "max_value": 99}
    for item in _gym_items("number_sorting", seed, **sizes):
        numbers = [str(round(float(number))) for number in item.words("original_numbers")]
        direction = item.text("direction")
        if len(set(numbers)) == len(numbers):
            yield Problem(
                key=" ".join(sorted(numbers)),
                form=direction,
                slots={"numbers": ", ".join(numbers)},
                answer=", ".join(sorted(numbers, key=int, reverse=direction == "descending")),
            )


def reversal(seed: int) -> Iterator[Problem]:
    """Three or four different words to be listed backwards (`word_sequence_reversal`)."""
    for item in _gym_items("word_sequence_reversal", seed, min_words=3, max_words=4):
        words = item.words("words")
        if len(set(words)) == len(words) and max(map(len, words)) <= 8:
            yield Problem(
                key=" ".join(min(words, words[::-1])),
                form="reverse",
                slots={"words": ", ".join(words)},
                answer=", ".join(reversed(words)),
            )


def family(seed: int) -> Iterator[Problem]:
    """How two of three relatives are related (`family_relationships`, asked in its own words)."""
    for item in _gym_items("family_relationships", seed, min_family_size=3, max_family_size=3):
        story, _, question = item.question.partition("\n\n")
        yield Problem(
            key=f"{story} {item.text('person1')} {item.text('person2')}",
            form="story",
            slots={"story": story, "ask": question},
            answer=item.answer,
        )
