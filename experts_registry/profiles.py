"""Fits profiles from graded outcomes, and keeps them in versioned JSON files."""

from __future__ import annotations

import datetime
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError
from router_service.types import Outcome, Profile, Question, Tally

__all__ = ["ProfileSet", "fit_profiles", "load_profiles", "profiles_from_text", "profiles_text"]

FORMAT_VERSION = 1

_Grades = defaultdict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSet:
    """Profiles by expert id, with where they come from: the pool, the time of fitting (UTC)."""

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    pool_name: str = ""
    created_at: str = ""


def fit_profiles(outcomes: Iterable[Outcome], questions: Iterable[Question]) -> dict[str, Profile]:
    """One profile per expert that has an outcome: tallies overall, per skill and per category of the questions.

    Only graded outcomes count: a question that an expert was not asked is neither won nor lost. Every sample is a
    trial; a skill listed twice on a question counts twice, as in Symbolic-MoE's released code. The order of rows is
    irrelevant (grades are summed exactly), and no expert's profile depends on another's outcomes. Raises
    `ConfigError` for an outcome whose question is not given.
    """
    known = {question.id: question for question in questions}
    by_expert: defaultdict[str, list[Outcome]] = defaultdict(list)
    strangers: set[str] = set()
    for outcome in outcomes:
        by_expert[outcome.expert_id].append(outcome)
        if outcome.question_id not in known:
            strangers.add(outcome.question_id)
    if strangers:
        raise ConfigError(
            f"{len(strangers)} graded question(s) are not among the {len(known)} given, for instance "
            f"{min(strangers)!r}; fit on the questions that the outcomes were made with"
        )
    return {expert_id: _fit_one(expert_id, rows, known) for expert_id, rows in sorted(by_expert.items())}


def _fit_one(expert_id: str, outcomes: Sequence[Outcome], questions: Mapping[str, Question]) -> Profile:
    overall: list[float] = []
    skills: _Grades = defaultdict(list)
    categories: _Grades = defaultdict(list)
    for outcome in outcomes:
        question = questions[outcome.question_id]
        overall.append(outcome.correct)
        for skill in question.skills:
            skills[skill].append(outcome.correct)
        if question.category is not None:
            categories[question.category].append(outcome.correct)
    return Profile(
        expert_id=expert_id, overall=_tally(overall), skills=_tallies(skills), categories=_tallies(categories)
    )


def _tally(grades: Sequence[float]) -> Tally:
    return Tally(wins=math.fsum(grades), trials=len(grades))


def _tallies(grades: Mapping[str, Sequence[float]]) -> dict[str, Tally]:
    return {name: _tally(grades[name]) for name in sorted(grades)}


# --- files ---------------------------------------------------------------------------------------------------------


class _ProfileEntry(StrictModel):
    overall: tuple[float, int]
    skills: dict[str, tuple[float, int]] = Field(default_factory=dict)
    categories: dict[str, tuple[float, int]] = Field(default_factory=dict)


class _ProfileFile(StrictModel):
    format_version: Literal[1]
    created_at: str
    pool: str
    fingerprint: str = ""  # earlier files have one, which nobody reads
    profiles: dict[str, _ProfileEntry]


def profiles_text(profiles: ProfileSet) -> str:
    """The content of a profile file, for `load_profiles`; an empty `created_at` becomes now.

    ASCII, for half a surrogate pair in a skill's name has no UTF-8.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = {
        "format_version": FORMAT_VERSION,
        "created_at": profiles.created_at or now,
        "pool": profiles.pool_name,
        "profiles": {expert_id: _as_json(profile) for expert_id, profile in profiles.profiles.items()},
    }
    return json.dumps(content, indent=1) + "\n"


def load_profiles(path: Path) -> ProfileSet:
    """The profiles in a file with `profiles_text`; raises `ConfigError` for another version or a damaged file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no profile file {path}; make one with `enlist profile`") from None
    except (OSError, ValueError) as damaged:
        raise _unreadable(str(path), damaged) from None
    return profiles_from_text(text, str(path))


def profiles_from_text(text: str, source: str) -> ProfileSet:
    """The profiles in a text of `profiles_text`; raises `ConfigError`, naming `source`, as `load_profiles` does."""
    try:
        content = json.loads(text)
    except ValueError as damaged:
        raise _unreadable(source, damaged) from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{source} has profile format {version!r}, and this version reads {FORMAT_VERSION}; "
            "make it again with `enlist profile`"
        )
    file = parse_model(_ProfileFile, content, source)
    return ProfileSet(
        profiles={expert_id: _as_profile(expert_id, entry) for expert_id, entry in file.profiles.items()},
        pool_name=file.pool,
        created_at=file.created_at,
    )


def _unreadable(source: str, damage: Exception) -> ConfigError:
    return ConfigError(f"cannot read profiles from {source}: {damage}; make them again with `enlist profile`")


def _as_json(profile: Profile) -> dict[str, object]:
    return {
        "overall": _pair(profile.overall),
        "skills": {name: _pair(tally) for name, tally in profile.skills.items()},
        "categories": {name: _pair(tally) for name, tally in profile.categories.items()},
    }


def _pair(tally: Tally) -> list[float]:
    return [tally.wins, tally.trials]


def _as_profile(expert_id: str, entry: _ProfileEntry) -> Profile:
    return Profile(
        expert_id=expert_id,
        overall=_as_tally(entry.overall),
        skills={name: _as_tally(pair) for name, pair in entry.skills.items()},
        categories={name: _as_tally(pair) for name, pair in entry.categories.items()},
    )


def _as_tally(pair: tuple[float, int]) -> Tally:
    return Tally(wins=pair[0], trials=pair[1])
