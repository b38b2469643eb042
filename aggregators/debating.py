"""The parts of a debate: who argues for what, arguments to size with their quotes checked, and the transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from aggregators.equivalence import AnswerGroup
from aggregators.extract import without_thoughts
from aggregators.leaning import by_weight, member_weight
from aggregators.quotes import checked
from aggregators.quoting import clean
from router_service.prompt_tokens import text_tokens
from router_service.types import Completion, Panel

__all__ = ["WORDS", "Arguments", "Side", "longest_argument", "sides_of", "transcript", "worded"]

WORDS: Final = 100
"""Of one argument, at most (Khan et al. 2024)."""

_ARGUMENT_TOKENS: Final = 400
"""What a hundred words take at most, marks of quotes included; longer words leave room for fewer."""

Arguments = tuple[str, str]
"""What the two sides said in one round, each for its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two answers that are debated; `member` is the completion of the expert that argues for it."""

    group: AnswerGroup
    member: Completion

    @property
    def expert_id(self) -> str:
        """Who argues."""
        return self.member.expert_id


def sides_of(panel: Panel, groups: Sequence[AnswerGroup]) -> tuple[Side, Side]:
    """The two heaviest of at least two groups, the heavier first; for each argues the member most likely to be right,
    of level ones the first by name."""
    first, second = by_weight(panel, groups)[:2]
    return _side(panel, first), _side(panel, second)


def _side(panel: Panel, group: AnswerGroup) -> Side:
    best = min(group.members, key=lambda m: (-member_weight(panel, m.expert_id), m.expert_id, m.sample))
    return Side(group=group, member=best)


def worded(reply: str, panel: Panel) -> str:
    """A debater's reply as it is shown: on one line, no more than `WORDS` words, its quotes checked against the
    conversation and all drafts."""
    sources = [("the question", "\n".join(message.text for message in panel.query.messages))]
    sources += [("a draft", without_thoughts(member.text)) for member in panel.members]
    words = clean(without_thoughts(reply)).split()[:WORDS]
    while words:
        argument = checked(" ".join(words), sources)
        if text_tokens(argument) <= _ARGUMENT_TOKENS:
            return argument
        words = words[: len(words) * 3 // 4]
    return ""


def longest_argument() -> str:
    """A stand-in for an argument that takes as many tokens as one may: each digit is estimated at a token."""
    return "7" * _ARGUMENT_TOKENS


def transcript(
    panel: Panel, sides: tuple[Side, Side], rounds: Sequence[Arguments], *, first: int
) -> tuple[list[Completion], str]:
    """What is shown of a debate, as drafts in the order given, and what each of them is; side `first` stands first."""
    seats = (first, 1 - first)
    drafts = [sides[seat].member for seat in seats]
    meanings = ["draft 1 is the first answer", "draft 2 is the second answer"]
    for number, arguments in enumerate(rounds, start=1):
        for seat, name in zip(seats, ("first", "second"), strict=True):
            drafts.append(replace(sides[seat].member, text=arguments[seat], extracted=None, tool_calls=()))
            meanings.append(f"draft {len(drafts)} was argued for the {name} answer in round {number}")
    return drafts, "; ".join(meanings) + "."
