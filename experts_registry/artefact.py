"""The artefact: what `enlist profile` learnt of a pool, one folder that changes in one step, checked on load."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experts_registry.profiles import ProfileSet, fit_profiles, load_profiles, profiles_text
from experts_registry.records import outcome_lines, question_lines, read_outcomes, read_questions
from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.types import Outcome, Profile, Question

__all__ = ["Artefact", "artefact_version"]

FORMAT_VERSION = 1

_META = "meta.json"
_PROFILES = "profiles.json"
_QUESTIONS = "questions.jsonl"
_OUTCOMES = "outcomes.jsonl"
_FILES = (_PROFILES, _QUESTIONS, _OUTCOMES)
_LOAD_TRIES = 5
_PAUSE_S = 0.05
"""A reader whose files are replaced between two of its looks waits so long and looks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """Profiles with the fit questions and graded outcomes behind them; `created_at` is when it was saved (UTC), empty
    before.
    """

    profiles: Mapping[str, Profile]
    questions: tuple[Question, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    pool_name: str = ""
    created_at: str = field(default="", compare=False)

    @classmethod
    def fit(cls, outcomes: Sequence[Outcome], questions: Sequence[Question], *, pool_name: str) -> Artefact:
        """Fit profiles on graded outcomes; see `fit_profiles`."""
        return cls(
            profiles=fit_profiles(outcomes, questions),
            questions=tuple(questions),
            outcomes=tuple(outcomes),
            pool_name=pool_name,
        )

    @property
    def version(self) -> str:
        """A hash of the content, time of saving apart: equal versions recruit alike."""
        profiles = [(p.expert_id, p.overall, dict(p.skills), dict(p.categories)) for p in self.profiles.values()]
        digest = hashlib.blake2b(digest_size=8)
        for part in (repr(profiles), question_lines(self.questions), outcome_lines(self.outcomes)):
            digest.update(part.encode() + b"\x1e")
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Put this artefact in the place of the one in `folder`, if any; other files there stay. One writer at a time.

        The files are written beside the old ones, then `meta.json`, whose sums say which of the two belong to it, is
        replaced: the one step from the old artefact to the new. A reader, and whoever comes after a kill at any point,
        finds one of them whole.
        """
        created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        profiles = ProfileSet(profiles=self.profiles, pool_name=self.pool_name, created_at=created_at)
        files = {
            _PROFILES: profiles_text(profiles).encode(),
            _QUESTIONS: question_lines(self.questions).encode(),
            _OUTCOMES: outcome_lines(self.outcomes).encode(),
        }
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        meta = {
            "format_version": FORMAT_VERSION,
            "version": self.version,
            "created_at": created_at,
            "pool": self.pool_name,
            "sha256": sums,
        }
        for name, content in files.items():
            write_atomically(_staged(folder, name, sums[name]), content)
        write_atomically(folder / _META, json.dumps(meta, indent=1) + "\n")
        for name, sum_ in sums.items():
            _staged(folder, name, sum_).replace(folder / name)
        _remove_litter(folder)

    @classmethod
    def load(cls, folder: Path) -> Artefact:
        """The artefact in `folder`; raises `ConfigError` where there is none, or another format, or a damaged one."""
        problem = ""
        for attempt in range(_LOAD_TRIES):
            time.sleep(_PAUSE_S if attempt else 0)
            loaded = cls._read(folder)
            if isinstance(loaded, cls):
                return loaded
            problem = str(loaded)
        raise _unusable(folder, problem)

    @classmethod
    def _read(cls, folder: Path) -> Artefact | str:
        """The artefact, or what is wrong with its files at this moment."""
        meta = _read_meta(folder)
        places = {name: _place(folder, name, str(meta["sha256"].get(name))) for name in _FILES}
        found = {name: place for name, place in places.items() if place is not None}
        if len(found) < len(places):
            return f"{', '.join(name for name in _FILES if name not in found)} changed after it was written, or is gone"
        try:
            profiles = load_profiles(found[_PROFILES])
            questions = read_questions(found[_QUESTIONS])
            outcomes = read_outcomes(found[_OUTCOMES])
        except ConfigError as problem:
            return problem.message
        artefact = cls(
            profiles=profiles.profiles,
            questions=tuple(questions),
            outcomes=tuple(outcomes),
            pool_name=profiles.pool_name,
            created_at=profiles.created_at,
        )
        return artefact if artefact.version == meta["version"] else "it was replaced while it was read"


def artefact_version(folder: Path) -> str:
    """The version of the artefact in `folder`, read without the rest; raises `ConfigError` as loading it would."""
    return str(_read_meta(folder)["version"])


def _unusable(folder: Path, problem: str) -> ConfigError:
    return ConfigError(f"no usable artefact in {folder}: {problem}; make one with `enlist profile`")


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / _META
    try:
        meta = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _unusable(folder, f"{path} is missing") from None
    except OSError as unreadable:
        raise _unusable(folder, f"cannot read {path} ({unreadable.strerror})") from None
    except ValueError as damaged:
        raise _unusable(folder, f"{path} is damaged ({damaged})") from None
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if version != FORMAT_VERSION or not isinstance(meta.get("sha256"), dict) or "version" not in meta:
        raise ConfigError(
            f"{path} has artefact format {version!r}, and this version reads {FORMAT_VERSION}; "
            "make it again with `enlist profile`"
        )
    return dict(meta)


def _staged(folder: Path, name: str, sum_: str) -> Path:
    """Where a file lies from before `meta.json` is replaced until the file takes its own name."""
    return folder / f".{name}.{sum_[:16]}"


def _place(folder: Path, name: str, sum_: str) -> Path | None:
    """The file with this content: under its own name, or still staged after a kill; None where there is neither."""
    for path in (folder / name, _staged(folder, name, sum_)):
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest() == sum_:
                return path
        except OSError:
            continue
    return None


def _remove_litter(folder: Path) -> None:
    """What killed writers left: files that were staged, and what `write_atomically` had begun."""
    for name in (*_FILES, _META):
        for pattern in (f".{name}.*", f"..{name}.*"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
