"""Finds out which aggregator pays for which questions: beside votes over as many calls, on recorded completions.

Every candidate is tried on two kinds of panels, by the very code and prompts that serve:

- *natural* ones, the recorded completions that the configured recruiter would have asked for, each question judged by
  what the others taught. They decide. A candidate that makes c calls of its own over a panel of k is compared with the
  majority and the weighted vote over the k + c completions that recruiting would have given instead.
- *synthetic* ones, one right completion and two wrong ones (Symbolic-MoE's aggregator selection). They show who can
  rescue a lone right answer, not how often that is needed, and flatter LLMs: so they only screen. A candidate that asks
  LLMs and is no better than the vote there is not tried further.

Unlike the released code of Symbolic-MoE, thoughts are left out as in service, answers are graded as everywhere else,
and a question with too few completions makes no synthetic panel, instead of one filled up with empty texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aggregators.base import CallingAggregator
from aggregators.choices import (
    OVERALL,
    SELECTION_FORMAT,
    SELECTION_VERSION,
    Choice,
    ChoiceTable,
    read_choices,
    read_selection,
)
from eval._selection_panels import NaturalPanels, Trial
from eval._selection_tries import VOTES, Attempt, Attempts, EqualVotes, attempt_all
from eval._selection_verdicts import (
    ALPHA,
    MIN_TRIALS,
    CandidateEvidence,
    CellEvidence,
    decide,
    sign_test,
    wilson_interval,
)
from eval.aggregator_trials import draw_trials
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.config import EngineConfig
from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.types import Ask, Completion

__all__ = [
    "ALPHA",
    "MIN_TRIALS",
    "AggregatorSelection",
    "CandidateEvidence",
    "CellEvidence",
    "Screening",
    "SelectionJob",
    "select_aggregator",
    "sign_test",
    "wilson_interval",
]

Progress = Callable[[int, int], None]
"""Called with the trials finished and the trials in all, over all candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionJob:
    """Whom to try on what: `completions` holds what was recorded, by question id; `config` says who recruits, how
    many, and the seed."""

    pool: Pool
    artefact: Artefact
    completions: Mapping[str, Sequence[Completion]]
    candidates: tuple[Choice, ...]
    config: EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """How a candidate did on the synthetic panels; one that is `screened_out` was tried no further."""

    choice: Choice
    n: int
    accuracy: float
    ci95: tuple[float, float]
    own_calls: float
    fallbacks: int
    screened_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorSelection:
    """Who was chosen for what, and all evidence. `trials` names each natural panel (question, category, kind, and how
    many of its completions agree), `grades` and `own_calls` hold a value a trial for every candidate, by its name."""

    cells: tuple[CellEvidence, ...]
    screenings: tuple[Screening, ...]
    trials: tuple[Mapping[str, Any], ...]
    grades: Mapping[str, tuple[float, ...]]
    own_calls: Mapping[str, tuple[int, ...]]
    recruiter: str
    k: int
    seed: int = 0

    @property
    def table(self) -> ChoiceTable:
        """The choices alone, as the aggregator `selected` looks them up."""
        return ChoiceTable({cell.key: cell.chosen for cell in self.cells})

    @property
    def overall(self) -> CellEvidence:
        """The evidence over all panels."""
        return next(cell for cell in self.cells if cell.key == OVERALL)

    @property
    def document(self) -> dict[str, Any]:
        """The selection as JSON holds it."""
        return {
            "format": SELECTION_FORMAT,
            "version": SELECTION_VERSION,
            "recruiter": self.recruiter,
            "k": self.k,
            "seed": self.seed,
            "cells": [_cell_document(cell) for cell in self.cells],
            "screenings": [{**asdict(one), "choice": one.choice.document} for one in self.screenings],
            "trials": list(self.trials),
            "grades": dict(self.grades),
            "own_calls": dict(self.own_calls),
        }

    def save(self, path: str | Path) -> None:
        """Write the selection as JSON, whole or not at all; the aggregator `selected` reads it."""
        write_atomically(Path(path), json.dumps(self.document, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> AggregatorSelection:
        """Read a saved selection; raises `ConfigError` where the file is missing, broken or of another version."""
        read_choices(path)
        document = read_selection(path)
        try:
            return cls(
                cells=tuple(_cell(cell) for cell in document["cells"]),
                screenings=tuple(_screening(one) for one in document["screenings"]),
                trials=tuple(document["trials"]),
                grades={name: tuple(values) for name, values in document["grades"].items()},
                own_calls={name: tuple(values) for name, values in document["own_calls"].items()},
                recruiter=document["recruiter"],
                k=document["k"],
                seed=document["seed"],
            )
        except (KeyError, TypeError, AttributeError) as broken:
            raise ConfigError(
                f"aggregator selection {str(path)!r} is incomplete ({broken!r}); make it again with "
                f"`enlist aggregator select`"
            ) from broken


async def select_aggregator(job: SelectionJob, *, ask: Ask, progress: Progress | None = None) -> AggregatorSelection:
    """Try the votes and the candidates, and choose for every category and kind of answer (`decide` says how).

    `ask` pays for what candidates ask, over all of the artefact's questions. A trial that fails is a wrong one; an
    unknown aggregator or expert, or a broken set-up, raises, before any call where it can be known.
    """
    choices = tuple(dict.fromkeys((*VOTES, *job.candidates)))
    for choice in choices:
        choice.create()  # an unknown name or option shows before any call is made
    panels = NaturalPanels(job.pool, job.artefact, job.completions, config=job.config)
    synthetic = [
        Trial(question=question, panel=panel)
        for question, panel in draw_trials(
            job.artefact.questions, job.completions, seed=job.config.seed, experts=job.pool.enabled
        )
    ]
    natural = list((await panels.of_size(job.config.k)).values())
    work = _Work(panels, ask=ask, report=_counting(progress, (len(synthetic) + len(natural)) * len(choices)))
    screenings = await work.screened(choices, synthetic)
    kept = [one.choice for one in screenings if not one.screened_out]
    attempts = await work.compared(kept, natural, k=job.config.k)
    return AggregatorSelection(
        cells=decide([trial.cell for trial in natural], [_is_disputed(trial) for trial in natural], attempts),
        screenings=screenings,
        trials=tuple(_trial_document(trial) for trial in natural),
        grades={one.choice.name: tuple(a.grade for a in one.attempts) for one in attempts},
        own_calls={one.choice.name: tuple(a.calls for a in one.attempts) for one in attempts},
        recruiter=job.config.recruiter.name,
        k=job.config.k,
        seed=job.config.seed,
    )


class _Work:
    """Candidates put to trials, with one ask and one count of what is done."""

    def __init__(self, panels: NaturalPanels, *, ask: Ask, report: Callable[[], None]) -> None:
        self._panels = panels
        self._ask = ask
        self._report = report

    async def screened(self, choices: Sequence[Choice], trials: Sequence[Trial]) -> tuple[Screening, ...]:
        """Everybody on the synthetic panels."""
        results = [(choice, await self._attempts(choice, trials)) for choice in choices]
        vote = sum(attempt.grade for attempt in results[0][1])
        return tuple(_screened(choice, attempts, vote=vote) for choice, attempts in results)

    async def compared(self, choices: Sequence[Choice], trials: Sequence[Trial], *, k: int) -> list[Attempts]:
        """These on the natural panels, beside the votes over as many calls."""
        votes = EqualVotes(self._panels, k=k, ask=self._ask)
        return [await votes.beside(choice, trials, await self._attempts(choice, trials)) for choice in choices]

    async def _attempts(self, choice: Choice, trials: Sequence[Trial]) -> tuple[Attempt, ...]:
        return await attempt_all(
            choice,
            trials,
            made=lambda question_id: self._panels.taught(choice, question_id),
            ask=self._ask,
            report=self._report,
        )


def _screened(choice: Choice, attempts: Sequence[Attempt], *, vote: float) -> Screening:
    right, n = sum(attempt.grade for attempt in attempts), len(attempts)
    asks = isinstance(choice.create(), CallingAggregator) and any(attempt.calls for attempt in attempts)
    return Screening(
        choice=choice,
        n=n,
        accuracy=right / n if n else 0.0,
        ci95=wilson_interval(right, n),
        own_calls=sum(attempt.calls for attempt in attempts) / n if n else 0.0,
        fallbacks=sum(attempt.fell_back for attempt in attempts),
        screened_out=asks and n >= MIN_TRIALS and right <= vote,
    )


def _counting(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return report


# --- JSON ----------------------------------------------------------------------------------------------------------


def _is_disputed(trial: Trial) -> bool:
    return len({(member.extracted or "").strip() for member in trial.panel.members}) > 1


def _trial_document(trial: Trial) -> dict[str, Any]:
    category, kind = trial.cell
    return {
        "question": trial.question.id,
        "category": category,
        "kind": kind,
        "experts": [member.expert_id for member in trial.panel.members],
        "is_disputed": _is_disputed(trial),
    }


def _cell_document(cell: CellEvidence) -> dict[str, Any]:
    candidates = [
        {**asdict(one), "choice": one.choice.document, "p_value": one.p_value, "gain": one.gain}
        for one in cell.candidates
    ]
    return {**asdict(cell), "chosen": cell.chosen.document, "candidates": candidates}


def _cell(document: Mapping[str, Any]) -> CellEvidence:
    candidates = tuple(
        CandidateEvidence(
            **{
                **{name: value for name, value in one.items() if name not in ("p_value", "gain")},
                "choice": Choice.of_document(one["choice"]),
                "ci95": tuple(one["ci95"]),
            }
        )
        for one in document["candidates"]
    )
    return CellEvidence(**{**document, "chosen": Choice.of_document(document["chosen"]), "candidates": candidates})


def _screening(document: Mapping[str, Any]) -> Screening:
    return Screening(**{**document, "choice": Choice.of_document(document["choice"]), "ci95": tuple(document["ci95"])})
