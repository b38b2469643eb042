"""Lets one LLM conduct: it reads the drafts, asks experts for what is missing, and gives the final answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aggregators.ballot import gather_votes
from aggregators.base import AGGREGATORS, Aggregator, PlannedCall
from aggregators.briefs import Brief, brief, fullest_call, most_planned, planned_call, put
from aggregators.conducting import (
    Consultation,
    ExpertCall,
    FinalAnswer,
    experts_text,
    history_text,
    read_turn,
    rounds_text,
)
from aggregators.drafts import lay_out
from aggregators.extract import extract, without_thoughts
from aggregators.judges import best_writer
from aggregators.majority import Majority
from aggregators.prompting import Stage, child_query, reply_tokens
from aggregators.standing import kept_without_a_call, needs_no_call, vote_stands
from aggregators.writing import written_answer
from router_service.errors import ConfigError
from router_service.types import Answer, Ask, Completion, Expert, Panel, Usage, stable_seed

__all__ = ["Conductor"]

_NAME = "conductor"
_MOST_ROUNDS = 15
_REPLY_TOKENS = 1024
_MOST_EXPERTS = 8
"""Experts that are listed: those the recruiter scored highest for the query."""
_FITS_NOT = "question, drafts and experts do not fit into the conductor's window"


@dataclass(slots=True, kw_only=True)
class _Session:
    """What has happened so far: the rounds, the experts' replies as drafts, what was spent and noted."""

    rounds: list[Consultation] = field(default_factory=list)
    replies: list[Completion] = field(default_factory=list)
    usage: Usage = Usage()
    notes: list[str] = field(default_factory=list)


@AGGREGATORS.register("conductor")
class Conductor:
    """Up to `rounds` turns of the conductor, each of which calls one expert or gives the final answer (Suzgun and Kalai
    2024, "Meta-Prompting", with the panel's drafts to begin with).

    Experts go by numbers in a drawn order, described as the pool file describes them, and see nothing but the
    instruction that they are given. The conductor is told to have two of them confirm independently. At most
    2 x rounds - 1 calls; temperature 0.1, nucleus 0.95, 1024 tokens a turn. Only what follows ">> FINAL ANSWER:"
    becomes the answer, so it comes at once and is not streamed as it is written.

    A unanimous panel is kept, tool calls are voted on, and where the conductor fails, does not settle in time or leaves
    nothing to read, the majority's answer stands, with a note.
    """

    keeps_text = False
    order_matters = True

    def __init__(
        self,
        *,
        expert: str | None = None,
        rounds: int = 4,
        max_tokens: int = _REPLY_TOKENS,
        is_guarded: bool = True,
    ) -> None:
        """`expert` conducts; without it the recruit most likely to be right among those that finished. `rounds` is 1
        to 15 (the paper's); `max_tokens` limits a turn and an expert's reply (a turn has as many as the query asks for,
        where that is more).

        Without `is_guarded` drafts and replies are shown as they are, for measuring what the guards are worth.
        """
        if not 1 <= rounds <= _MOST_ROUNDS:
            raise ConfigError(f"aggregator 'conductor': rounds is {rounds}; allowed are 1 to {_MOST_ROUNDS}")
        if max_tokens < 1:
            raise ConfigError(f"aggregator 'conductor': max_tokens is {max_tokens}; give 1 or more")
        self.expert = expert
        self.max_tokens = max_tokens
        self.rounds = rounds
        self.is_guarded = is_guarded

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """Every turn and, but for the last, the dearest expert that it may call; instructions and replies as long as
        they may get."""
        if needs_no_call(panel):
            return ()
        listed = _listed(panel)
        asked = _dearest(panel, listed)
        said = "7" * (2 * max(reply_tokens(panel, expert_id, stage=self._expert_stage(0)) for expert_id in listed))
        call = ExpertCall(number=len(listed), instruction=said)
        session, calls = _Session(), list[PlannedCall]()
        for number in range(1, self.rounds + 1):
            made = self._turn(panel, session, number=number)
            if made is None and not calls:
                return ()
            stage = self._stage(panel, number)
            if made is None:
                calls.append(fullest_call(panel, self._conductor(panel), stage=stage))
            else:
                calls.append(most_planned(panel, made, stage=stage))
            if number < self.rounds:
                calls.append(planned_call(panel, asked, child_query(panel, said, stage=self._expert_stage(0))))
            session.rounds.append(Consultation(call=call, outcome=f"its reply is draft {len(panel.members) + number}"))
            session.replies.append(Completion(query_id=panel.query.id, expert_id=asked, text=said))
        return tuple(calls)

    def degraded(self) -> Aggregator:
        """Half as many rounds, down to a single turn; after that the majority."""
        if self.rounds == 1:
            return Majority()
        return Conductor(
            expert=self.expert, rounds=self.rounds // 2, max_tokens=self.max_tokens, is_guarded=self.is_guarded
        )

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The final answer; its supporters are the members that hold it, or all of them where none does."""
        groups = await gather_votes(panel)
        kept = await kept_without_a_call(panel, groups, ask=ask, aggregator=_NAME)
        if kept is not None:
            return kept
        session = _Session()
        written, problem = await self._conducted(panel, session, ask)
        if written is None:
            return await vote_stands(panel, ask=ask, because=problem, usage=session.usage, notes=session.notes)
        return await written_answer(panel, written, aggregator=_NAME, usage=session.usage, notes=session.notes)

    async def _conducted(self, panel: Panel, session: _Session, ask: Ask) -> tuple[Completion | None, str]:
        """The turn that settles, its text being the final answer; or None, and why there is none."""
        for number in range(1, self.rounds + 1):
            made = self._turn(panel, session, number=number)
            if made is None:
                return None, _FITS_NOT
            reply = await made.put(ask)
            session.usage += reply.usage
            session.notes += [note for note in made.sheet.notes if note not in session.notes]
            if reply.completion is None or reply.problem is not None:
                return None, str(reply.problem)
            turn = read_turn(reply.text)
            if isinstance(turn, FinalAnswer):
                if extract(turn.text, panel.query.task_format) is None:
                    return None, f"no answer can be read out of what {made.expert_id} settled on"
                return replace(reply.completion, text=turn.text), ""
            if number < self.rounds:
                await self._consult(panel, session, turn, ask=ask)
        return None, f"{self._conductor(panel)} did not settle on an answer within {self.rounds} rounds"

    async def _consult(self, panel: Panel, session: _Session, call: ExpertCall | None, *, ask: Ask) -> None:
        """Put the conductor's call to the expert, and write down what came of it."""
        listed = _listed(panel)
        if call is None:
            outcome = "neither a call of an expert nor a final answer could be read in your reply."
        elif not 1 <= call.number <= len(listed):
            outcome = f"there is no such expert, only Expert 1 to Expert {len(listed)}."
        else:
            stage = self._expert_stage(len(session.rounds) + 1)
            query = child_query(panel, call.instruction, stage=stage)
            reply = await put(query, expert_id=listed[call.number - 1], ask=ask)
            session.usage += reply.usage
            said = [replace(reply.completion, text=without_thoughts(reply.text))] if reply.completion else []
            drafted = _drafted(panel, [replace(one, extracted=None, tool_calls=()) for one in said if reply.text])
            session.replies += drafted
            shown = len(_drafted(panel, panel.members)) + len(session.replies)
            outcome = f"its reply is draft {shown}." if drafted else "it did not answer."
        session.rounds.append(Consultation(call=call, outcome=outcome))

    def _turn(self, panel: Panel, session: _Session, *, number: int) -> Brief | None:
        listed = _listed(panel)
        parts = {
            "history": history_text(session.rounds),
            "experts": experts_text([panel.experts.get(expert_id) for expert_id in listed]),
            "rounds_left": rounds_text(self.rounds - number),
        }
        drafts = [*_drafted(panel, panel.members), *session.replies]
        return brief(
            panel,
            drafts,
            expert_id=self._conductor(panel),
            stage=self._stage(panel, number),
            parts=parts,
            order="given",
        )

    def _stage(self, panel: Panel, number: int) -> Stage:
        return Stage(
            name=f"{_NAME}/{number}",
            prompt="conductor_v1",
            max_tokens=max(self.max_tokens, panel.query.sampling.max_tokens or 0),
            temperature=0.1,
            top_p=0.95,
            is_guarded=self.is_guarded,
        )

    def _expert_stage(self, number: int) -> Stage:
        return Stage(name=f"{_NAME}/{number}/expert", max_tokens=self.max_tokens)

    def _conductor(self, panel: Panel) -> str:
        return self.expert or best_writer(panel)


def _drafted(panel: Panel, members: Sequence[Completion]) -> list[Completion]:
    """Those that have something to show, in the order that the seed draws: the same in every round."""
    sheet = lay_out(panel, members, stage=_NAME, room_tokens=1 << 30)
    return [draft.member for draft in sheet.drafts]


def _listed(panel: Panel) -> list[str]:
    """The experts that may be called, by number from 1: the best scored ones, in an order that tells nothing."""
    wanted = panel.query.modalities
    able = [one.id for one in panel.experts.values() if one.is_enabled and wanted <= one.modalities]
    known = able or sorted({member.expert_id for member in panel.members})
    scores = panel.decision.scores
    best = sorted(known, key=lambda expert_id: (-scores.get(expert_id, float("-inf")), expert_id))[:_MOST_EXPERTS]
    random.Random(stable_seed(panel.decision.seed, panel.query.id, "experts")).shuffle(best)
    return best


def _dearest(panel: Panel, listed: Sequence[str]) -> str:
    """The expert whose call may cost most: one of unknown price first."""

    def rank(expert_id: str) -> float:
        expert: Expert | None = panel.experts.get(expert_id)
        if expert is None or expert.prices is None:
            return float("inf")
        return expert.prices.input_usd_per_mtok + expert.prices.output_usd_per_mtok

    return max(listed, key=rank)
