"""Choice-shuffle: a choice question is asked again with its options in other orders, and all answers vote.

Nori et al. 2023, "Can Generalist Foundation Models Outcompete Special-Purpose Tuning?" (Medprompt), section 4.2: five
orders; it evens out a model's liking for a letter or a place.
"""

from __future__ import annotations

import asyncio
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Reply, planned_call, put
from aggregators.equivalence import AnswerGroup, canonical, vote_key
from aggregators.extract import extract
from aggregators.majority import Majority
from aggregators.option_orders import find_options, other_orders
from aggregators.prompting import Stage, child_query
from aggregators.standing import kept_without_a_call, needs_no_call, vote_stands
from router_service.errors import ConfigError
from router_service.types import Answer, AnswerKind, Ask, Panel, Query, Usage, stable_seed

__all__ = ["ChoiceShuffleVote"]

_NAME = "choice_shuffle_vote"
_STAGE = "choice_shuffle"
_FEWEST_ORDERS, _MOST_ORDERS = 2, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shuffled:
    """The question in another order: in place i stands option `order[i]`."""

    order: tuple[int, ...]
    query: Query

    def read(self, reply: Reply) -> str | None:
        """The letter that the answer has in the order of the panel's own question; None where none can be read."""
        said = reply.completion
        if said is None or not reply.text:
            return None
        letter = said.extracted or extract(said.text, self.query.task_format) or ""
        place = string.ascii_uppercase.find(canonical(letter, AnswerKind.CHOICE)) if letter else -1
        is_one = 0 <= place < len(self.order) and len(canonical(letter, AnswerKind.CHOICE)) == 1
        return string.ascii_uppercase[self.order[place]] if is_one else None


@AGGREGATORS.register("choice_shuffle_vote")
class ChoiceShuffleVote:
    """Each expert that holds an answer (or one that is named) is asked in `orders` - 1 more orders of the options, and
    each answer, mapped back to its letter, is one vote beside the panel's own.

    It only ever decides between answers that the panel holds, for the text of the answer is a member's, whose letters
    are those of the question as it was put; votes for other letters are told of in a note where they are the most.
    A unanimous panel is kept, and one with tool calls voted on. Where the options cannot be found in the last user
    message beyond doubt (`option_orders`), or no answer comes back, the majority's answer stands with a note.
    Confidence is the answer's share of all votes.
    """

    keeps_text = True

    def __init__(self, *, orders: int = 5, expert: str | None = None) -> None:
        """`orders` counts all, the panel's own included; `expert` is asked in the others, else the panel's own."""
        if not _FEWEST_ORDERS <= orders <= _MOST_ORDERS:
            raise ConfigError(
                f"aggregator {_NAME!r}: orders is {orders}; allowed are {_FEWEST_ORDERS} to {_MOST_ORDERS}, "
                "the order of the question itself included"
            )
        self.orders = orders
        self.expert = expert

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """One call for each expert and each further order."""
        if needs_no_call(panel):
            return ()
        return tuple(
            planned_call(panel, expert_id, shuffled.query)
            for shuffled in self._shuffled(panel)
            for expert_id in self._experts(panel)
        )

    def degraded(self) -> Aggregator:
        """Half of the further orders, rounded down; after the last one the majority."""
        further = (self.orders - 1) // 2
        return ChoiceShuffleVote(orders=further + 1, expert=self.expert) if further else Majority()

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer of the panel's with most votes in all orders; the panel's own votes, then the earliest, settle a
        tie."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator=_NAME)
        if kept is not None:
            return kept
        shuffled = self._shuffled(panel)
        if not shuffled:
            return await vote_stands(panel, ask=ask, because="the options cannot be put in another order without doubt")
        calls = [(each, expert_id) for each in shuffled for expert_id in self._experts(panel)]
        replies = await asyncio.gather(*(put(each.query, expert_id=expert_id, ask=ask) for each, expert_id in calls))
        usage = sum((reply.usage for reply in replies), Usage())
        letters = [letter for (each, _), reply in zip(calls, replies, strict=True) if (letter := each.read(reply))]
        notes = sorted({reply.problem for reply in replies if reply.problem is not None})
        if not letters:
            because = "no answer came back from another order"
            return await vote_stands(panel, ask=ask, because=because, usage=usage, notes=notes)
        return _counted(panel, groups, letters, usage=usage, notes=notes)

    def _experts(self, panel: Panel) -> tuple[str, ...]:
        """Whom to ask: the one that is named, else those that hold an answer."""
        if self.expert:
            return (self.expert,)
        voting = [member for member in panel.members if vote_key(member, AnswerKind.CHOICE) is not None]
        return tuple(dict.fromkeys(member.expert_id for member in voting))

    def _shuffled(self, panel: Panel) -> tuple[_Shuffled, ...]:
        """The question in every further order; none where it cannot be rewritten."""
        query = panel.query
        if query.task_format.kind is not AnswerKind.CHOICE or query.messages[-1].role != "user":
            return ()
        shown = find_options(query.text, query.task_format.options)
        if shown is None:
            return ()
        seed = stable_seed(panel.decision.seed, query.id, _STAGE)
        shuffled = []
        for number, order in enumerate(other_orders(shown, self.orders - 1, seed=seed), start=2):
            stage = Stage(name=f"{_STAGE}/{number}", keeps_format=True)
            child = child_query(panel, shown.reordered(order), stage=stage)
            options = tuple(query.task_format.options[place] for place in order) if query.task_format.options else ()
            child = replace(child, task_format=replace(query.task_format, options=options))
            shuffled.append(_Shuffled(order=order, query=child))
        return tuple(shuffled)


def _counted(
    panel: Panel, groups: Sequence[AnswerGroup], letters: Sequence[str], *, usage: Usage, notes: Sequence[str]
) -> Answer:
    """The vote over the panel's answers and the letters from the other orders."""
    elsewhere = Counter(letters)
    held = [canonical(group.first.extracted or "", AnswerKind.CHOICE) for group in groups]
    votes = [len(group.members) + elsewhere[letter] for group, letter in zip(groups, held, strict=True)]
    best = max(range(len(groups)), key=lambda i: (votes[i], len(groups[i].members)))
    strangers = {letter: count for letter, count in elsewhere.items() if letter not in held}
    stranger = max(strangers, key=lambda letter: (strangers[letter], letter), default=None)
    if stranger is not None and strangers[stranger] > votes[best]:
        notes = [*notes, f"with the options in other orders most votes went to {stranger}, which no member held"]
    confidence = votes[best] / (sum(votes) + sum(strangers.values()))
    answer = answer_of(panel, groups[best], aggregator=_NAME, confidence=confidence)
    return replace(answer, usage=usage, notes=tuple(notes))
