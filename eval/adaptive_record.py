"""The file that says whose profile is an estimate from adaptively chosen questions, and how sure it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from eval.adaptive import Estimate, ExpertEstimate, StratumEstimate
from experts_registry.profiles import ProfileSet, profiles_from_text, profiles_text
from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.types import Profile

__all__ = ["estimate_record", "forget_estimates", "read_estimated_profiles", "write_estimates"]

_FORMAT_VERSION = 1


class _Entry(StrictModel):
    n_outcomes: int
    n_asked: int
    n_bank: int
    confidence: float
    overall: dict[str, Any]
    categories: dict[str, dict[str, Any]]


class _File(StrictModel):
    format_version: Literal[1]
    experts: dict[str, _Entry]
    profiles: dict[str, Any]


def estimate_record(estimate: ExpertEstimate) -> dict[str, Any]:
    """An estimate as JSON: the overall accuracy and each category's with their error bars, the profile left out."""
    return {
        "n_asked": estimate.n_asked,
        "n_bank": estimate.n_bank,
        "confidence": estimate.confidence,
        "overall": _bar(estimate.overall),
        "categories": {name: _stratum(stratum) for name, stratum in estimate.strata.items()},
    }


def write_estimates(path: Path, estimates: Sequence[ExpertEstimate], *, n_outcomes: Mapping[str, int]) -> None:
    """Put these estimates among the earlier ones in the file; an expert's newer one takes the place of its older.

    `n_outcomes` is how many outcomes each expert has: an estimate holds until there are others.
    """
    file = _read(path)
    records = {name: entry.model_dump() for name, entry in file.experts.items()} if file is not None else {}
    profiles = _profiles(file, path)
    for estimate in estimates:
        name = estimate.profile.expert_id
        records[name] = {"n_outcomes": n_outcomes[name], **estimate_record(estimate)}
        profiles[name] = estimate.profile
    _write(path, records, profiles)


def forget_estimates(path: Path, expert_ids: Collection[str]) -> None:
    """Take these experts' estimates out of the file: they became others, whatever number of outcomes they get."""
    file = _read(path)
    if file is not None and set(expert_ids) & set(file.experts):
        records = {name: entry.model_dump() for name, entry in file.experts.items() if name not in expert_ids}
        _write(path, records, {name: p for name, p in _profiles(file, path).items() if name not in expert_ids})


def _write(path: Path, records: Mapping[str, Any], profiles: Mapping[str, Profile]) -> None:
    content = {
        "format_version": _FORMAT_VERSION,
        "experts": records,
        "profiles": json.loads(profiles_text(ProfileSet(profiles=profiles))),
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def read_estimated_profiles(path: Path, *, n_outcomes: Mapping[str, int]) -> dict[str, Profile]:
    """The estimated profiles of the experts that have as many outcomes as when they were estimated; none where there is
    no such file. Raises `ConfigError` for a damaged one."""
    file = _read(path)
    if file is None:
        return {}
    current = {name for name, entry in file.experts.items() if n_outcomes.get(name) == entry.n_outcomes}
    return {name: profile for name, profile in _profiles(file, path).items() if name in current}


def _read(path: Path) -> _File | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as damage:
        raise ConfigError(
            f"cannot read {path}: {damage}; remove it, and profile the experts it was about again"
        ) from None
    return parse_model(_File, content, str(path))


def _profiles(file: _File | None, path: Path) -> dict[str, Profile]:
    if file is None:
        return {}
    return dict(profiles_from_text(json.dumps(file.profiles), str(path)).profiles)


def _bar(estimate: Estimate) -> dict[str, float]:
    return {"accuracy": estimate.accuracy, "low": estimate.low, "high": estimate.high}


def _stratum(stratum: StratumEstimate) -> dict[str, Any]:
    return {
        **_bar(stratum.estimate),
        "n_asked": stratum.n_asked,
        "best_known": stratum.incumbent or None,
        "best_known_accuracy": stratum.incumbent_accuracy,
        "verdict": stratum.verdict,
    }
