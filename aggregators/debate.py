"""Lets the two leading answers be argued for by their experts, and a third expert judge, in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aggregators.ballot import gather_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Brief, Reply, brief, most_planned
from aggregators.debating import WORDS, Arguments, Side, longest_argument, sides_of, transcript, worded
from aggregators.equivalence import AnswerGroup, group_answers
from aggregators.judges import choose_judge
from aggregators.majority import Majority
from aggregators.picks import TIE, read_pick
from aggregators.prompting import Stage
from aggregators.standing import chosen_answer, kept_without_a_call, needs_no_call, vote_stands
from router_service.errors import ConfigError
from router_service.types import Answer, Ask, Panel, Usage

__all__ = ["Debate"]

_MOST_ROUNDS = 2
_NAME = "debate"
_TOO_LONG = "the debate does not fit into the windows of those who take part"
_UNDECIDED = "the judge found for neither side, or for another one in the other order: the weighted vote decides"


@AGGREGATORS.register("debate")
class Debate:
    """Only where answers differ: the two of most weight (the sum of P(correct) of those who hold them) are argued for.

    The likeliest expert of each side argues in `rounds` rounds, both at the same time and in at most 100 words; quotes
    are compared with the question and the drafts, and marked as verified or not (`aggregators.quotes`). The judge is
    `expert`, else the best-scored expert outside the panel, else that which is no debater. It reads the debate twice,
    the sides in both orders, and each verdict counts half; where that leaves them level, the answer of most weight
    stands. Debaters write at temperature 0.4, the judge at 0 (Khan et al. 2024). The calls are 2 x rounds + 2, and the
    answer is a member's, unchanged.

    A unanimous panel is kept, tool calls are voted on, and where a debater or both verdicts fail, the majority's answer
    stands, with a note.
    """

    keeps_text = True

    def __init__(
        self, *, expert: str | None = None, rounds: int = 1, max_tokens: int = 512, is_guarded: bool = True
    ) -> None:
        """`rounds` is 1 or 2; `max_tokens` limits an argument and a verdict (thoughts included). Without `is_guarded`
        drafts and arguments are shown as they are, for measuring what the guards are worth."""
        if not 1 <= rounds <= _MOST_ROUNDS:
            raise ConfigError(f"aggregator 'debate': rounds is {rounds}; allowed are 1 to {_MOST_ROUNDS}")
        if max_tokens < 1:
            raise ConfigError(f"aggregator 'debate': max_tokens is {max_tokens}; give 1 or more")
        self.expert = expert
        self.rounds = rounds
        self.max_tokens = max_tokens
        self.is_guarded = is_guarded

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """Two arguments a round and two verdicts, the debate before them as long as it may get; none where nobody
        differs, or where it does not fit."""
        if needs_no_call(panel):
            return ()
        return self._planned(panel, group_answers(panel.members, panel.query.task_format.kind))

    def degraded(self) -> Aggregator:
        """A single round; after that the majority."""
        if self.rounds == 1:
            return Majority()
        return Debate(expert=self.expert, rounds=1, max_tokens=self.max_tokens, is_guarded=self.is_guarded)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The text of the earliest member that holds the answer found right, unchanged."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator=_NAME)
        if kept is not None:
            return kept
        if len(groups) == 1:
            return chosen_answer(panel, groups[0], aggregator=_NAME)
        if not self._planned(panel, groups):
            return await vote_stands(panel, ask=ask, because=_TOO_LONG)
        sides = sides_of(panel, groups)
        arguments, replies = await self._argued(panel, sides, ask)
        problem = next((reply.problem for reply in replies if reply.problem is not None), None)
        if problem is None and len(arguments) == self.rounds:
            return await self._judged(panel, sides, arguments, spent=_usage(replies), ask=ask)
        because = f"in the debate {problem or 'somebody had no argument'}"
        return await vote_stands(panel, ask=ask, because=because, usage=_usage(replies))

    # --- arguing ---------------------------------------------------------------------------------------------------

    async def _argued(
        self, panel: Panel, sides: tuple[Side, Side], ask: Ask
    ) -> tuple[tuple[Arguments, ...], list[Reply]]:
        """The rounds that both sides argued in, and every reply."""
        rounds: tuple[Arguments, ...] = ()
        replies: list[Reply] = []
        for _ in range(self.rounds):
            briefs = [self._argument(panel, sides, rounds, own=own) for own in (0, 1)]
            said = await asyncio.gather(*(made.put(ask) for made in briefs if made is not None))
            replies += said
            texts = [worded(reply.text, panel) for reply in said]
            if len(texts) < 2 or not all(texts):
                break
            rounds = (*rounds, (texts[0], texts[1]))
        return rounds, replies

    def _argument(
        self, panel: Panel, sides: tuple[Side, Side], rounds: Sequence[Arguments], *, own: int
    ) -> Brief | None:
        """What the expert of side `own` is asked in the round after `rounds`; it always finds its own answer first."""
        number = len(rounds) + 1
        stage = self._stage(f"{number}/{own + 1}", "debate_argue_v1", temperature=0.4)
        drafts, key = transcript(panel, sides, rounds, first=own)
        parts = {"key": key, "round": str(number), "rounds": str(self.rounds), "words": str(WORDS)}
        return brief(panel, drafts, expert_id=sides[own].expert_id, stage=stage, parts=parts, order="given")

    # --- judging ---------------------------------------------------------------------------------------------------

    async def _judged(
        self, panel: Panel, sides: tuple[Side, Side], rounds: Sequence[Arguments], *, spent: Usage, ask: Ask
    ) -> Answer:
        briefs = [self._verdict(panel, sides, rounds, first=first) for first in (0, 1)]
        replies = await asyncio.gather(*(made.put(ask) for made in briefs if made is not None))
        usage = spent + _usage(replies)
        picks = [read_pick(reply.text, 2) for reply in replies]
        notes = sorted({note for made in briefs if made is not None for note in made.sheet.notes})
        if len(picks) < 2 or picks == [None, None]:
            problem = next((reply.problem for reply in replies if reply.problem), "no verdict can be read")
            return await vote_stands(panel, ask=ask, because=f"in the debate {problem}", usage=usage, notes=notes)
        share = (_for_the_first(picks[0]) + 1.0 - _for_the_first(picks[1])) / 2.0
        if self._judge(panel, sides) in {side.expert_id for side in sides}:
            notes.append("a debater was the judge, for nobody else may be asked")
        if share == 0.5:
            notes.append(_UNDECIDED)
        winner = sides[0 if share >= 0.5 else 1].group
        return chosen_answer(panel, winner, aggregator=_NAME, usage=usage, notes=notes)

    def _verdict(
        self, panel: Panel, sides: tuple[Side, Side], rounds: Sequence[Arguments], *, first: int
    ) -> Brief | None:
        """What the judge is asked, with side `first` in the first place."""
        stage = self._stage(f"verdict/{first + 1}", "debate_judge_v1", temperature=0.0)
        drafts, key = transcript(panel, sides, rounds, first=first)
        judge = self._judge(panel, sides)
        return brief(panel, drafts, expert_id=judge, stage=stage, parts={"key": key}, order="given")

    def _judge(self, panel: Panel, sides: tuple[Side, Side]) -> str:
        judge = choose_judge(panel, expert=self.expert)
        if self.expert is not None or judge not in {member.expert_id for member in panel.members}:
            return judge
        return choose_judge(panel, expert=None, avoid={side.expert_id for side in sides})

    # --- planning --------------------------------------------------------------------------------------------------

    def _planned(self, panel: Panel, groups: Sequence[AnswerGroup]) -> tuple[PlannedCall, ...]:
        """All calls, every argument as long as it may get; none where there are no two sides, or one does not fit."""
        if len(groups) < 2:
            return ()
        sides = sides_of(panel, groups)
        longest: list[Arguments] = [(longest_argument(), longest_argument())] * self.rounds
        briefs = [
            self._argument(panel, sides, longest[:done], own=own) for done in range(self.rounds) for own in (0, 1)
        ]
        briefs += [self._verdict(panel, sides, longest, first=first) for first in (0, 1)]
        stage = self._stage("planned", "", temperature=0.0)
        planned = tuple(most_planned(panel, made, stage=stage) for made in briefs if made is not None)
        return planned if len(planned) == len(briefs) else ()

    def _stage(self, name: str, prompt: str, *, temperature: float) -> Stage:
        return Stage(
            name=f"{_NAME}/{name}",
            prompt=prompt,
            max_tokens=self.max_tokens,
            temperature=temperature,
            is_guarded=self.is_guarded,
        )


def _for_the_first(pick: int | None) -> float:
    """What a verdict counts for the side in the first place: 1, 0, or a half where it is a tie or cannot be read."""
    return 0.5 if pick is None or pick == TIE else float(pick == 1)


def _usage(replies: Sequence[Reply]) -> Usage:
    return sum((reply.usage for reply in replies), start=Usage())
