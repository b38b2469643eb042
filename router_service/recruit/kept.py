"""Recruiters kept fitted beside an artefact: taken back where all that they learned from is as it was."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.recruit.base import SavableRecruiter
from router_service.types import Expert

__all__ = ["KeptRecruiters", "Origin", "pool_digest"]

_log = logging.getLogger(__name__)

_FOLDER = "recruiters"
_NOT_LEARNED_FROM = frozenset({"is_enabled", "backend", "address", "options", "persona", "sampling"})
"""Fields of an expert that say how it is reached and asked. Who is switched off is looked at when recruiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a recruiter learned from, its own options apart; equal origins teach the same."""

    artefact: str
    """`Artefact.version`."""
    experts: str
    """`pool_digest` of the pool."""
    embedder: str | None = None
    """Fingerprint of the embedder, for a recruiter that goes by embeddings."""
    enlist: str = ""
    """Version of this package: another one may learn otherwise."""


class KeptRecruiters:
    """The subfolder `recruiters` of an artefact: `NAME.npz` is what a recruiter saved, `NAME.json` its origin with the
    sum of that file, so that files of two fits are never mixed. Options are checked by the recruiter's own `load`."""

    def __init__(self, artefact_folder: Path) -> None:
        self._folder = artefact_folder / _FOLDER

    def take(self, name: str, recruiter: SavableRecruiter, *, origin: Origin, experts: Sequence[Expert]) -> bool:
        """Load what is kept into the recruiter; False where nothing is, or, which is logged, nothing that fits."""
        path = self._path(name)
        note = path.with_suffix(".json")
        if not note.exists():
            return False
        try:
            problem = _difference(_read_note(note), origin) or _damage(path, note)
            if not problem:
                recruiter.load(path, experts=experts)
                return True
        except ConfigError as refused:
            problem = refused.message
        _log.info("recruiter %r is fitted anew, for the one kept in %s does not fit: %s", name, path.parent, problem)
        return False

    def keep(self, name: str, recruiter: SavableRecruiter, *, origin: Origin) -> Path:
        """Write what the recruiter learned, in the place of what is kept under this name; returns the file."""
        path = self._path(name)
        recruiter.save(path)
        note = {
            "origin": asdict(origin),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_atomically(path.with_suffix(".json"), json.dumps(note, indent=1) + "\n")
        return path

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"


def pool_digest(experts: Sequence[Expert]) -> str:
    """A hash of what recruiters may learn of the experts themselves: ids in order, prices, sizes, limits."""
    fields = [field.name for field in dataclasses.fields(Expert) if field.name not in _NOT_LEARNED_FROM]
    rows = [[_plain(getattr(expert, name)) for name in fields] for expert in experts]
    return hashlib.blake2b(repr((fields, rows)).encode(), digest_size=8).hexdigest()


def _plain(value: object) -> object:
    """The value with sets in order: their own changes from one process to the next."""
    return sorted(map(str, value)) if isinstance(value, frozenset) else value


def _read_note(path: Path) -> dict[str, object]:
    try:
        note = json.loads(path.read_bytes())
        return {"sha256": str(note["sha256"]), **dict(note["origin"])}
    except (OSError, ValueError, TypeError, KeyError) as damage:
        raise ConfigError(f"{path} cannot be read ({damage!r})") from None


def _difference(kept: dict[str, object], origin: Origin) -> str:
    """What it was fitted on that is otherwise now; empty where nothing is."""
    found = [
        f"{name} was {kept.get(name)!r} and is {now!r}" for name, now in asdict(origin).items() if kept.get(name) != now
    ]
    return "; ".join(found)


def _damage(path: Path, note: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as missing:
        return f"{path} cannot be read ({missing.strerror})"
    is_whole = hashlib.sha256(content).hexdigest() == _read_note(note)["sha256"]
    return "" if is_whole else f"{path.name} and {note.name} are not of the same fit"
