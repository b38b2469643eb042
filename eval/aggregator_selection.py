"""Finds the aggregator that best tells one right completion from two wrong ones (Symbolic-MoE's aggregator selection).

Each question of which at least one right and two wrong completions are on record becomes one trial: a right and two
wrong ones, drawn and shuffled by the seed, are the panel that every candidate is given. Unlike the released code, the
candidates are the aggregators that serve, so the prompt, the thoughts left out and the answer format are those of
service; answers are graded as everywhere else; and a question with too few completions is left out, not filled up with
empty ones. The task is hard on votes on purpose (the right answer is outvoted wherever the wrong ones agree), so what
it shows is who can rescue a lone right answer, not how often that is needed.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aggregators.selected import SELECTION_FORMAT, SELECTION_VERSION, Choice, read_choice
from eval.aggregator_trials import draw_trials
from eval.grading import grade
from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.types import Ask, Completion, Panel, Question

__all__ = ["AggregatorSelection", "CandidateResult", "select_aggregator", "sign_test", "wilson_interval"]

MIN_TRIALS = 20
"""With fewer trials no candidate is chosen over the vote."""

ALPHA = 0.05
"""The chance, over all candidates together, of choosing one that is no better than the vote."""

_MAX_TRIALS_AT_ONCE = 64
_MAJORITY = Choice(aggregator="majority")

Progress = Callable[[int, int], None]
"""Called with the trials finished and the trials in all, over all candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateResult:
    """How a candidate did: a grade per trial (0 or 1), in the order of the selection's `question_ids`.

    `p_value` is that of the sign test against the majority vote, None for the vote itself; `fallbacks` counts trials
    in which another aggregator had to answer for it (a writer that failed).
    """

    choice: Choice
    grades: tuple[float, ...]
    p_value: float | None = None
    fallbacks: int = 0

    @property
    def accuracy(self) -> float:
        """The share of trials answered right; 0 without trials."""
        return sum(self.grades) / len(self.grades) if self.grades else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson_interval(sum(self.grades), len(self.grades))


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorSelection:
    """Which aggregator was chosen, why, and how every candidate did."""

    chosen: Choice
    reason: str
    results: tuple[CandidateResult, ...]
    question_ids: tuple[str, ...]
    seed: int = 0

    def save(self, path: str | Path) -> None:
        """Write the selection as JSON, whole or not at all; the aggregator `selected` reads it."""
        target = Path(path)
        document = {
            "format": SELECTION_FORMAT,
            "version": SELECTION_VERSION,
            "chosen": _choice_document(self.chosen),
            "reason": self.reason,
            "seed": self.seed,
            "question_ids": list(self.question_ids),
            "results": [_result_document(result) for result in self.results],
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
        part.replace(target)

    @classmethod
    def load(cls, path: str | Path) -> AggregatorSelection:
        """Read a saved selection; raises `ConfigError` where the file is missing, broken or of another version."""
        chosen = read_choice(path)
        document = json.loads(Path(path).read_text("utf-8"))
        try:
            return cls(
                chosen=chosen,
                reason=document["reason"],
                results=tuple(_result(result) for result in document["results"]),
                question_ids=tuple(document["question_ids"]),
                seed=document["seed"],
            )
        except (KeyError, TypeError) as broken:
            raise ConfigError(
                f"aggregator selection {str(path)!r} is incomplete ({broken!r}); make it again with "
                f"`enlist aggregator select`"
            ) from broken


async def select_aggregator(
    questions: Sequence[Question],
    completions: Mapping[str, Sequence[Completion]],
    *,
    candidates: Sequence[Choice],
    ask: Ask,
    seed: int = 0,
    progress: Progress | None = None,
) -> AggregatorSelection:
    """Try the candidates, and the majority vote, on one-right-two-wrong panels; choose one, or keep to the vote.

    `completions` holds what was recorded, by question id. A candidate is chosen where it has the highest accuracy of
    those that beat the vote on the same panels by a one-sided exact sign test (McNemar's) at `ALPHA`, divided by the
    number of candidates (Bonferroni). Below `MIN_TRIALS` trials the vote stays. A trial that fails is a wrong one; an
    unknown aggregator or expert, or a broken set-up, raises.
    """
    choices = tuple(dict.fromkeys((_MAJORITY, *candidates)))
    for choice in choices:
        choice.create()  # an unknown name or option shows before any call is made
    trials = draw_trials(questions, completions, seed=seed)
    report = _counting(progress, len(trials) * len(choices))
    results = [await _try(choice, trials, ask=ask, report=report) for choice in choices]
    vote = results[0]
    tested = [replace(result, p_value=sign_test(result.grades, vote.grades)) for result in results[1:]]
    chosen, reason = _verdict(vote, tested)
    return AggregatorSelection(
        chosen=chosen,
        reason=reason,
        results=(vote, *tested),
        question_ids=tuple(question.id for question, _ in trials),
        seed=seed,
    )


def wilson_interval(wins: float, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), 95 % for the default z; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = wins / trials, z * z / trials
    centre = rate + spread / 2
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def sign_test(grades: Sequence[float], others: Sequence[float]) -> float:
    """One-sided exact p-value that `grades` are no better than `others` on the same trials (McNemar, exact).

    Only trials in which the two differ count: P(X >= better) for X binomial with that many trials and p = 1/2.
    """
    better = sum(mine > other for mine, other in zip(grades, others, strict=True))
    different = better + sum(mine < other for mine, other in zip(grades, others, strict=True))
    return float(sum(math.comb(different, i) for i in range(better, different + 1)) / 2**different)


# --- trying and judging --------------------------------------------------------------------------------------------


def _counting(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return report


async def _try(
    choice: Choice,
    trials: Sequence[tuple[Question, Panel]],
    *,
    ask: Ask,
    report: Callable[[], None],
) -> CandidateResult:
    aggregator = choice.create()
    gate = asyncio.Semaphore(_MAX_TRIALS_AT_ONCE)

    async def one(question: Question, panel: Panel) -> tuple[float, bool]:
        async with gate:
            try:
                answer = await aggregator.aggregate(panel, ask=ask)
            except (ConfigError, UnknownNameError):
                raise
            except RouterError:
                return 0.0, False
            finally:
                report()
        return grade(answer.extracted, question), answer.aggregator != choice.aggregator

    outcomes = await asyncio.gather(*(one(question, panel) for question, panel in trials))
    return CandidateResult(
        choice=choice,
        grades=tuple(correct for correct, _ in outcomes),
        fallbacks=sum(fell_back for _, fell_back in outcomes) if choice.aggregator != "selected" else 0,
    )


def _verdict(vote: CandidateResult, tested: Sequence[CandidateResult]) -> tuple[Choice, str]:
    trials = len(vote.grades)
    if trials < MIN_TRIALS:
        return _MAJORITY, (
            f"only {trials} questions have one right and two wrong completions on record, {MIN_TRIALS} are needed"
        )
    level = ALPHA / max(1, len(tested))
    better = [result for result in tested if result.p_value is not None and result.p_value <= level]
    if not better:
        return (
            _MAJORITY,
            f"no candidate beats the vote's {vote.accuracy:.3f} on {trials} trials (sign test, {level:.4f})",
        )
    best = max(better, key=lambda result: result.accuracy)
    return best.choice, (
        f"{best.choice.name} is right on {best.accuracy:.3f} of {trials} trials, the vote on {vote.accuracy:.3f} "
        f"(sign test, p = {best.p_value:.2g})"
    )


# --- JSON ----------------------------------------------------------------------------------------------------------


def _choice_document(choice: Choice) -> dict[str, str | None]:
    return {"aggregator": choice.aggregator, "expert": choice.expert}


def _result_document(result: CandidateResult) -> dict[str, object]:
    low, high = result.interval
    return {
        **_choice_document(result.choice),
        "accuracy": result.accuracy,
        "ci95": [low, high],
        "p_value": result.p_value,
        "fallbacks": result.fallbacks,
        "grades": list(result.grades),
    }


def _result(document: Mapping[str, object]) -> CandidateResult:
    expert, p_value, grades = document["expert"], document["p_value"], document["grades"]
    if not isinstance(grades, list):
        raise TypeError("grades must be a list")
    return CandidateResult(
        choice=Choice(aggregator=str(document["aggregator"]), expert=str(expert) if expert else None),
        grades=tuple(float(value) for value in grades),
        p_value=float(str(p_value)) if p_value is not None else None,
        fallbacks=int(str(document["fallbacks"])),
    )
