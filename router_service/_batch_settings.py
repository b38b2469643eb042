"""What a batch's answers depend on besides its input: configuration, experts and artefact, each as a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

from router_service._batch_lines import fingerprint_file
from router_service.config import EngineConfig
from router_service.types import Expert

__all__ = ["batch_settings", "differences"]

_PLACES = frozenset({"config.pool", "config.artefact"})
"""Settings that say where something lies; what lies there has a fingerprint of its own."""


def batch_settings(config: EngineConfig, experts: Sequence[Expert]) -> dict[str, str]:
    """What a batch's answers depend on besides its input, for `BatchJob.settings`: configuration, experts, artefact.

    Not on which machines they are made: a batch may go on in one process or on a cluster.
    """
    from router_service.assembly import artefact_folder

    chosen = config.model_dump(mode="json", exclude={"cluster"})
    settings = {f"config.{name}": _digest(value) for name, value in chosen.items()}
    folder = artefact_folder(config)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder is not None else []
    return {
        **settings,
        "experts": _digest(experts),
        "artefact": _digest({path.name: fingerprint_file(path) for path in files}),
    }


def differences(found: Mapping[str, str], wanted: Mapping[str, str], *, is_elsewhere: bool = False) -> list[str]:
    """The names under which two headers differ, sorted; for a worker `is_elsewhere`, its input is the job's and its
    paths are its own."""
    left_out = _PLACES | {"input"} if is_elsewhere else frozenset()
    return sorted(key for key in {*found, *wanted} - left_out if found.get(key) != wanted.get(key))


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """What JSON cannot hold, as something it can, in an order that is the same in every process."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, frozenset):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else str(value)
