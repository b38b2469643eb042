"""What a recruiter learned, as one file: experts, profiles, options, and what its strategy adds to them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts_registry.profiles import ProfileSet, profiles_from_text, profiles_text
from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError
from router_service.types import Expert, Profile

__all__ = ["Learned", "SavedRecruiter", "options_of"]

FORMAT_VERSION = 1
_FREE = frozenset({"k"})
"""Options that may differ from those fitted with: they are read when recruiting, never when fitting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What one strategy learned: JSON values and arrays (numbers or texts), by name."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def options_of(part: object) -> dict[str, Any]:
    """The options a part was made with: its `__init__` parameters, kept as attributes of the same names."""
    return {name: getattr(part, name) for name in inspect.signature(type(part)).parameters}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRecruiter:
    """The content of a recruiter's file."""

    name: str
    expert_ids: tuple[str, ...]
    profiles: Mapping[str, Profile]
    options: Mapping[str, Any]
    learned: Learned

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        fields = {
            "experts": list(self.expert_ids),
            "profiles": profiles_text(ProfileSet(profiles=self.profiles, created_at="-")),
            "options": _jsonable(self.options),
            "values": dict(self.learned.values),
        }
        _kind(self.name).save(path, fields, {f"a_{name}": np.asarray(a) for name, a in self.learned.arrays.items()})

    @classmethod
    def read(
        cls, path: str | Path, *, name: str, options: Mapping[str, Any], experts: Sequence[Expert]
    ) -> SavedRecruiter:
        """The file's content, checked to be this recruiter's, with these options (k apart), for these experts."""
        artefact = _kind(name).load(path)
        fields = artefact.fields
        _check_options(path, fields["options"], _jsonable(options))
        _check_experts(path, fields["experts"], [expert.id for expert in experts])
        arrays = {key.removeprefix("a_"): array for key, array in artefact.arrays.items()}
        return cls(
            name=name,
            expert_ids=tuple(fields["experts"]),
            profiles=profiles_from_text(fields["profiles"], str(path)).profiles,
            options=fields["options"],
            learned=Learned(values=fields["values"], arrays=arrays),
        )


def _kind(name: str) -> ArtefactKind:
    return ArtefactKind(f"recruiter_{name}", FORMAT_VERSION)


def _jsonable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back; values without a JSON form by their repr."""
    return {name: _json_value(value) for name, value in sorted(options.items()) if name not in _FREE}


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _check_options(path: str | Path, fitted: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted({*fitted, *now}):
        if fitted.get(name) != now.get(name):
            raise ConfigError(
                f"{path} was fitted with {name} = {fitted.get(name)!r}, and {now.get(name)!r} is configured; "
                "configure the same value, or fit again"
            )


def _check_experts(path: str | Path, fitted: Sequence[str], now: Sequence[str]) -> None:
    if list(fitted) == list(now):
        return
    missing, added = sorted(set(fitted) - set(now)), sorted(set(now) - set(fitted))
    said = [f"{word} {', '.join(ids)}" for word, ids in (("without", missing), ("with also", added)) if ids]
    raise ConfigError(
        f"{path} was fitted for other experts: the pool is now {' and '.join(said) or 'in another order'}; fit again"
    )
