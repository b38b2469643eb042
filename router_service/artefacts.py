"""What was learned, as one file: a JSON header (kind, format version) and arrays; written whole or not at all."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router_service.errors import ConfigError
from router_service.files import write_atomically

__all__ = ["Artefact", "ArtefactKind"]

_HEADER = "header"


@dataclass(frozen=True, slots=True)
class ArtefactKind:
    """One kind of artefact with the format version that this code writes and reads."""

    name: str
    version: int

    def save(self, path: str | Path, fields: Mapping[str, object], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write one `.npz`-shaped file at `path` (its folder is made); `fields` must be JSON values."""
        header = json.dumps({"kind": self.name, "version": self.version, "fields": dict(fields)}, ensure_ascii=False)
        packed = {_HEADER: np.frombuffer(header.encode("utf-8", "surrogatepass"), dtype=np.uint8), **arrays}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **packed)
        write_atomically(Path(path), file.getvalue())

    def load(self, path: str | Path) -> Artefact:
        """Read what `save` wrote; `ConfigError` where the file is missing, damaged, of another kind or version."""
        advice = f"fit the {self.name} again and save it"
        try:
            with np.load(Path(path), allow_pickle=False) as packed:
                arrays = {name: packed[name] for name in packed.files}
            header = json.loads(arrays.pop(_HEADER).tobytes().decode("utf-8", "surrogatepass"))
            kind, version, fields = header["kind"], header["version"], header["fields"]
        except FileNotFoundError as missing:
            raise ConfigError(f"no saved {self.name} at {path}; {advice}") from missing
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as damage:
            raise ConfigError(f"{path} is not a readable {self.name} ({damage}); {advice}") from damage
        if (kind, version) != (self.name, self.version):
            raise ConfigError(
                f"{path} holds a {kind} of format {version}, needed is a {self.name} of format {self.version}; {advice}"
            )
        return Artefact(path=str(path), fields=fields, arrays=arrays)


@dataclass(frozen=True, slots=True)
class Artefact:
    """What a file held, its kind and version checked."""

    path: str
    fields: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]

    def check_embedder(self, fingerprint: str) -> None:
        """`ConfigError` unless it was made with the embedder of this fingerprint: other vectors do not compare."""
        made_with = self.fields.get("embedder")
        if made_with != fingerprint:
            raise ConfigError(
                f"{self.path} was fitted with the embedder {made_with!r}, this one is {fingerprint!r}; "
                "choose that embedder, or fit again with this one"
            )
