"""What the embedders with a model share: optional packages, found or named, and texts that any tokeniser takes."""

from __future__ import annotations

import importlib
from types import ModuleType

from router_service.errors import ConfigError


def require(module: str, *, embedder: str = "MiniLM", extra: str = "local") -> ModuleType:
    """The imported module; `ConfigError` naming the extra where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise missing_package(missing.name or module, embedder=embedder, extra=extra) from missing


def missing_package(package: str, *, embedder: str, extra: str) -> ConfigError:
    """The error for a package that is not installed, with the two ways on."""
    return ConfigError(
        f"the {embedder} embedder needs the package {package!r}, which is not installed; "
        f'run `pip install "enlist[{extra}]"`, or choose the embedder `hashing`, which needs no model'
    )


def encodable(text: str) -> str:
    """The text with lone surrogates replaced, which no tokeniser takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
