"""Complexity-based voting: only the completions that took the most steps vote, or the fewest, as each expert is known.

Fu et al. 2023, "Complexity-Based Prompting for Multi-Step Reasoning", section 3: of N sampled chains the K with most
lines vote. There one model speaks; here several may, and length means another thing for each (`lengths`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS
from aggregators.lengths import LengthHabit, length_habits
from aggregators.portfolio import step_count
from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError, NotFittedError
from router_service.prompt_tokens import text_tokens
from router_service.types import Answer, Ask, Completion, FitData, Panel

__all__ = ["TopkComplexVote"]

KIND = ArtefactKind("aggregator_topk_complex_vote", 1)


@AGGREGATORS.register("topk_complex_vote")
class TopkComplexVote:
    """The votes of the `top` completions that are most promising by their length, or of the best `share` of them.

    How complex a completion is, is only ever compared with the same expert's: where it gave several with a text, by
    their rank in steps (non-empty lines) among these; else by how long it is (completion tokens; estimated from the
    text where they are unknown) against the lengths that expert was fitted on, less what the panel as a whole is
    longer, which is the question's doing. Both are brought to the range -1 to 1 and take the expert's sign of length,
    measured in `fit`. An expert whose length says nothing, or that was not there when it was fitted, has 0 and stands
    in the middle. Completions level with the last one that is kept are kept too, so where length says nothing of
    anybody all vote.

    On recorded outcomes (MMLU-Pro, 336 fit questions) length said something of 2 of 16 small models and 1 of 10 large
    ones, hardly more than chance would have it: there this vote is the majority's.

    Answers with equally many of these votes go by all votes, then by the earliest. Confidence is the winner's share
    of the votes that were kept; agreement counts every member, as always.
    """

    keeps_text = True

    def __init__(self, *, top: int | None = None, share: float = 0.6, level: float = 0.05) -> None:
        """`top` completions are kept, else the `share` of those that hold an answer, rounded up (Fu et al. keep 30 to
        40 of 50); `level` is the p value up to which a sign of length is believed."""
        if top is not None and top < 1:
            raise ConfigError(f"aggregator 'topk_complex_vote': top is {top}; keep 1 completion or more")
        if not 0.0 < share <= 1.0:
            raise ConfigError(f"aggregator 'topk_complex_vote': share is {share}; it lies above 0 and up to 1 (all)")
        if not 0.0 < level < 1.0:
            raise ConfigError(f"aggregator 'topk_complex_vote': level is {level}; it is a p value between 0 and 1")
        self.top, self.share, self.level = top, share, level
        self.habits_: Mapping[str, LengthHabit] | None = None

    def fit(self, data: FitData) -> TopkComplexVote:
        """Measure every expert's sign of length; returns itself. Without graded outcomes no length says anything."""
        self.habits_ = length_habits(data.outcomes, level=self.level)
        return self

    def save(self, path: str | Path) -> None:
        """Write what was measured to one file; `NotFittedError` before `fit`."""
        habits = {name: [habit.sign, habit.mean, habit.spread] for name, habit in self._fitted().items()}
        KIND.save(path, {"habits": habits, "level": self.level}, {})

    def load(self, path: str | Path) -> TopkComplexVote:
        """Take the state that `save` wrote; returns itself. `ConfigError` for another file, format or level."""
        saved = KIND.load(path)
        if saved.fields["level"] != self.level:
            raise ConfigError(f"{path} was fitted with level {saved.fields['level']}, and {self.level} is configured")
        habits = saved.fields["habits"].items()
        self.habits_ = {name: LengthHabit(sign=int(s), mean=m, spread=w) for name, (s, m, w) in habits}
        return self

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The kept completions' plurality answer; raises `AggregationError` where no member holds one."""
        habits = self._fitted()
        groups = await gather_votes(panel)
        voting = {id(member) for group in groups for member in group.members}
        voters = [member for member in panel.members if id(member) in voting]
        scores = promise_scores(voters, habits)
        kept = self.top or math.ceil(round(self.share * len(voters), 9))
        bar = sorted((scores[id(voter)] for voter in voters), reverse=True)[min(kept, len(voters)) - 1]
        votes = [sum(scores[id(member)] >= bar for member in group.members) for group in groups]
        best = max(range(len(groups)), key=lambda i: (votes[i], len(groups[i].members)))
        confidence = votes[best] / sum(votes)
        return answer_of(panel, groups[best], aggregator="topk_complex_vote", confidence=confidence)

    def _fitted(self) -> Mapping[str, LengthHabit]:
        if self.habits_ is None:
            raise NotFittedError(
                "aggregator 'topk_complex_vote' is not fitted; it learns from an artefact's outcomes (`enlist profile`)"
            )
        return self.habits_


def promise_scores(voters: Sequence[Completion], habits: Mapping[str, LengthHabit]) -> dict[int, float]:
    """How promising each voter's length is, from -1 to 1, by the completion's `id()`; 0 where it says nothing."""
    by_expert: dict[str, list[Completion]] = {}
    for voter in voters:
        if voter.expert_id in habits:
            by_expert.setdefault(voter.expert_id, []).append(voter)
    scores = dict.fromkeys(map(id, voters), 0.0)
    by_tokens: list[tuple[Completion, float]] = []
    for expert_id, own in by_expert.items():
        steps = [step_count(voter.text) for voter in own]
        if len(own) > 1 and len(set(steps)) > 1 and all(map(_has_chain, own)):
            scores.update({id(v): habits[expert_id].sign * _rank(n, steps) for v, n in zip(own, steps, strict=True)})
        else:
            by_tokens += [(voter, habits[expert_id].standing(tokens)) for voter in own if (tokens := _tokens(voter))]
    mean = math.fsum(standing for _, standing in by_tokens) / max(1, len(by_tokens))
    for voter, standing in by_tokens:
        scores[id(voter)] = habits[voter.expert_id].sign * math.erf((standing - mean) / math.sqrt(2.0))
    return scores


def _rank(steps: int, all_steps: Sequence[int]) -> float:
    """The mid-rank of `steps` among all, from above -1 to below 1: the share that is shorter less that which is
    longer."""
    return (sum(other < steps for other in all_steps) - sum(other > steps for other in all_steps)) / len(all_steps)


def _has_chain(completion: Completion) -> bool:
    """True where the text says more than the answer: where only answers were recorded, the steps are not known."""
    return completion.text.strip() not in ("", (completion.extracted or "").strip())


def _tokens(completion: Completion) -> int:
    """How long it is; 0 where nobody knows."""
    return completion.usage.completion_tokens or (text_tokens(completion.text) if _has_chain(completion) else 0)
