"""The artefact: what `enlist profile` learnt of a pool, one folder that is replaced in one step and checked on load."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experts_registry.profiles import (
    ProfileSet,
    data_fingerprint,
    fit_profiles,
    load_profiles,
    merge_profiles,
    save_profiles,
)
from experts_registry.records import outcome_lines, question_lines, read_outcomes, read_questions
from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.types import Outcome, Profile, Question

__all__ = ["Artefact"]

FORMAT_VERSION = 1

_META = "meta.json"
_PROFILES = "profiles.json"
_QUESTIONS = "questions.jsonl"
_OUTCOMES = "outcomes.jsonl"
_FILES = (_PROFILES, _QUESTIONS, _OUTCOMES)
_LOAD_TRIES = 5
_PAUSE_S = 0.05
"""A writer needs two renames to replace a folder; a reader that comes in between waits so long and looks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """Profiles with the fit questions and graded outcomes behind them.

    `fingerprint` is that of questions and outcomes; `created_at` is when it was saved (UTC), empty before.
    """

    profiles: Mapping[str, Profile]
    questions: tuple[Question, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    pool_name: str = ""
    fingerprint: str = ""
    created_at: str = field(default="", compare=False)

    @classmethod
    def fit(cls, outcomes: Sequence[Outcome], questions: Sequence[Question], *, pool_name: str) -> Artefact:
        """Fit profiles on graded outcomes; see `fit_profiles`."""
        return cls(
            profiles=fit_profiles(outcomes, questions),
            questions=tuple(questions),
            outcomes=tuple(outcomes),
            pool_name=pool_name,
            fingerprint=data_fingerprint(outcomes, questions),
        )

    @property
    def version(self) -> str:
        """A hash of the content, time of saving apart: equal versions recruit alike."""
        profiles = [(p.expert_id, p.overall, dict(p.skills), dict(p.categories)) for p in self.profiles.values()]
        digest = hashlib.blake2b(digest_size=8)
        for part in (repr(profiles), question_lines(self.questions), outcome_lines(self.outcomes)):
            digest.update(part.encode() + b"\x1e")
        return digest.hexdigest()

    def merged(self, new: Artefact) -> Artefact:
        """With the experts of `new` added or replaced (profiles and outcomes) and its questions added.

        Raises `ConfigError` where a question id stands for different questions in the two.
        """
        questions = {question.id: question for question in self.questions}
        clashes = [q.id for q in new.questions if questions.setdefault(q.id, q) != q]
        if clashes:
            raise ConfigError(
                f"{len(clashes)} question id(s) stand for other questions in the artefact, for instance "
                f"{clashes[0]!r}; profile with the artefact's own questions, or start a new one"
            )
        outcomes = tuple(o for o in self.outcomes if o.expert_id not in new.profiles) + new.outcomes
        return replace(
            self,
            profiles=merge_profiles(self.profiles, new.profiles),
            questions=tuple(questions.values()),
            outcomes=outcomes,
            fingerprint=data_fingerprint(outcomes, questions.values()),
            created_at="",
        )

    def save(self, folder: Path) -> None:
        """Write the folder anew and put it in the old one's place; other files in the old one are kept.

        `load` never returns half of one and half of the other.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.new-"))
        try:
            new.chmod(0o755)
            self._write(new)
            _keep_other_files(folder, new)
            _swap(folder, new)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        profiles = ProfileSet(
            profiles=self.profiles,
            pool_name=self.pool_name,
            fingerprint=self.fingerprint,
            created_at=created_at,
        )
        save_profiles(folder / _PROFILES, profiles)
        write_atomically(folder / _QUESTIONS, question_lines(self.questions))
        write_atomically(folder / _OUTCOMES, outcome_lines(self.outcomes))
        meta = {
            "format_version": FORMAT_VERSION,
            "version": self.version,
            "created_at": created_at,
            "pool": self.pool_name,
            "fingerprint": self.fingerprint,
            "sha256": {name: _sha256(folder / name) for name in _FILES},
        }
        write_atomically(folder / _META, json.dumps(meta, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Artefact:
        """The artefact in `folder`; raises `ConfigError` where there is none, or another format, or a damaged one."""
        problem = ""
        for attempt in range(_LOAD_TRIES):
            if attempt and not folder.is_dir() and not list(folder.parent.glob(f".{folder.name}.*")):
                break
            if attempt:
                time.sleep(_PAUSE_S)
            try:
                loaded = cls._read(folder)
            except FileNotFoundError as missing:
                problem = f"{missing.filename} is missing"
            else:
                if isinstance(loaded, cls):
                    return loaded
                problem = str(loaded)
        raise ConfigError(f"no usable artefact in {folder}: {problem}; make one with `enlist profile`")

    @classmethod
    def _read(cls, folder: Path) -> Artefact | str:
        """The artefact, or what is wrong with the folder at this moment."""
        meta = _read_meta(folder / _META)
        changed = [name for name in _FILES if _sha256(folder / name) != meta["sha256"].get(name)]
        if changed:
            return f"{', '.join(changed)} changed after it was written"
        try:
            profiles = load_profiles(folder / _PROFILES)
            questions = read_questions(folder / _QUESTIONS)
            outcomes = read_outcomes(folder / _OUTCOMES)
        except ConfigError as problem:
            return problem.message
        artefact = cls(
            profiles=profiles.profiles,
            questions=tuple(questions),
            outcomes=tuple(outcomes),
            pool_name=profiles.pool_name,
            fingerprint=profiles.fingerprint,
            created_at=profiles.created_at,
        )
        return artefact if artefact.version == meta["version"] else "it was replaced while it was read"


def _read_meta(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        meta = json.loads(text)
    except ValueError as damaged:
        raise ConfigError(f"{path} is damaged: {damaged}; make the artefact again with `enlist profile`") from None
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if version != FORMAT_VERSION or not isinstance(meta.get("sha256"), dict) or "version" not in meta:
        raise ConfigError(
            f"{path} has artefact format {version!r}, and this version reads {FORMAT_VERSION}; "
            "make it again with `enlist profile`"
        )
    return dict(meta)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _keep_other_files(old: Path, new: Path) -> None:
    if not old.is_dir():
        return
    for path in old.iterdir():
        if path.is_file() and not (new / path.name).exists():
            shutil.copy2(path, new / path.name)


def _swap(folder: Path, new: Path) -> None:
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old-"))
    folder.rename(old / folder.name)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
