"""What a pool entry may ask of vLLM, and what an engine process is given: command, environment, engine arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from router_service.backends._options import read_options
from router_service.backends._transformers_files import WeightsOptions, base_reference, read_json
from router_service.backends._vllm_devices import EngineDevice
from router_service.config import is_secret_key
from router_service.errors import ConfigError
from router_service.types import Expert

__all__ = ["Adapters", "VllmOptions", "engine_environment", "engine_order", "memory_gib", "model_key", "vllm_options"]

LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes that an engine can be made for (vLLM 0.32, `vllm/config/lora.py`)."""

_GIB: Final = 1 << 30
_PROCESS_GIB: Final = 1.2
"""What an engine process on the processor takes beside weights and cache (measured with vLLM 0.32)."""
_PROCESSOR_CACHE_GIB: Final = 1.0
_PROCESSOR_BLOCK_TOKENS: Final = 32
"""Prompts share whole blocks of cache: with vLLM's 128 most chats on a processor would share none."""
_GPU_SHARE: Final = 0.9
"""vLLM's own share of a GPU's memory where nobody says."""
_NARROW: Final = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions(WeightsOptions):
    """What a pool entry may say in `options` for this backend: of its weights, and of the engine they run in.

    Experts of one base that say the same of the engine share it; others get an engine of their own. 0 and "" leave a
    choice to vLLM. `sleep_level` is how an engine that is to sleep does so: 1 keeps the weights in the machine's
    memory, 2 reads them again (with adapters it counts as 1), 0 never sleeps.
    """

    tensor_parallel_size: int = 1
    quantization: str = ""
    gpu_memory_utilization: float = 0.0
    kv_cache_gib: float = 0.0
    max_model_len: int = 0
    max_num_seqs: int = 0
    max_loras: int = 8
    load_format: str = "auto"
    dtype: str = "auto"
    enforce_eager: bool = False
    trust_remote_code: bool = False
    sleep_level: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The adapters that an engine must have room for: how many, the largest rank, and the layers they change."""

    count: int = 0
    rank: int = 0
    targets: frozenset[str] = frozenset()

    @property
    def max_rank(self) -> int:
        """The largest rank that an engine made for these takes."""
        return min(size for size in LORA_RANKS if size >= self.rank) if self.count else 0


def vllm_options(expert: Expert) -> VllmOptions:
    """The expert's options; raises `ConfigError` for one that is unknown, of another type or out of range."""
    options = read_options(expert, VllmOptions)
    lowest = {"tensor_parallel_size": 1, "max_loras": 1}
    for name in ("tensor_parallel_size", "kv_cache_gib", "max_model_len", "max_num_seqs", "max_loras"):
        value, least = getattr(options, name), lowest.get(name, 0)
        if value < least:
            raise ConfigError(f"expert {expert.id!r}: option {name!r} is {value}; give {least} or more")
    if not 0 <= options.gpu_memory_utilization <= 1:
        raise ConfigError(
            f"expert {expert.id!r}: option 'gpu_memory_utilization' is {options.gpu_memory_utilization}; give a share "
            "of the GPU's memory from 0 to 1 (0 leaves it to vLLM)"
        )
    if options.sleep_level not in (0, 1, 2):
        raise ConfigError(f"expert {expert.id!r}: option 'sleep_level' is {options.sleep_level}; allowed: 0, 1, 2")
    return options


def model_key(expert: Expert, options: VllmOptions) -> str:
    """The name of the engine an expert runs in: its base, and what its entry says of the engine."""
    about_weights = {field.name for field in fields(WeightsOptions)}
    said = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in about_weights and getattr(options, field.name) != field.default
    }
    reference = base_reference(expert)
    base = str(Path(reference).resolve()) if Path(reference).is_dir() else reference
    return f"{base} ({', '.join(f'{name}={value}' for name, value in sorted(said.items()))})" if said else base


def engine_order(
    expert: Expert, options: VllmOptions, *, folder: Path, device: EngineDevice, adapters: Adapters
) -> dict[str, Any]:
    """The first order to an engine process: arguments of vLLM's `EngineArgs`, those given only where it knows them
    (`wishes`), and how it is to sleep.

    Raises `ConfigError` where the device has fewer GPUs than the model is spread over.
    """
    if device.gpus and options.tensor_parallel_size > len(device.gpus):
        raise ConfigError(
            f"expert {expert.id!r} is spread over {options.tensor_parallel_size} GPUs (option tensor_parallel_size), "
            f"and the device {device.name!r} has {len(device.gpus)}; name a group of them in the backend's option "
            f"devices, as {{name: pair, gpus: '0,1'}}"
        )
    cache_gib = options.kv_cache_gib or (_PROCESSOR_CACHE_GIB if device.is_processor else 0.0)
    has_own_type = not device.is_processor or options.dtype != "auto"
    arguments: dict[str, Any] = {
        "model": str(folder),
        "tensor_parallel_size": options.tensor_parallel_size,
        "quantization": options.quantization or None,
        "load_format": options.load_format,
        # On processors without matrix units for it, bfloat16 takes eight times as long.
        "dtype": options.dtype if has_own_type else "float32",
        "enforce_eager": options.enforce_eager or device.is_processor,
        "trust_remote_code": options.trust_remote_code,
        "max_model_len": options.max_model_len or None,
        "max_num_seqs": options.max_num_seqs or None,
        "kv_cache_memory_bytes": int(cache_gib * _GIB) or None,
        "gpu_memory_utilization": _gpu_share(expert, options, device),
        "block_size": _PROCESSOR_BLOCK_TOKENS if device.is_processor else None,
        "disable_log_stats": True,
        **_lora_arguments(options, adapters, is_processor=device.is_processor),
    }
    return {
        "op": "start",
        "engine": {name: value for name, value in arguments.items() if value is not None},
        # Layers without an adapter stay as they are: it saves time, above all in the last one, and vLLM 0.32 cannot
        # read given texts (prompt_logprobs) on a processor where that one may have an adapter.
        "wishes": {"lora_target_modules": sorted(adapters.targets)} if adapters.count else {},
        # After level 2 vLLM reads weights by their own names, which layers with adapters have changed.
        "sleep_level": min(options.sleep_level, 1) if adapters.count else options.sleep_level,
    }


def _lora_arguments(options: VllmOptions, adapters: Adapters, *, is_processor: bool) -> dict[str, Any]:
    """On the processor there is a place for every adapter and one more, which stays empty: vLLM 0.32 lets requests
    without adapter, in a step with others, go through the last place there (github.com/vllm-project/vllm/pull/48421).
    """
    if not adapters.count:
        return {}
    places = adapters.count + 1 if is_processor else min(adapters.count, options.max_loras)
    return {
        "enable_lora": True,
        "max_lora_rank": adapters.max_rank,
        "max_loras": places,
        "max_cpu_loras": max(places, adapters.count),
    }


def _gpu_share(expert: Expert, options: VllmOptions, device: EngineDevice) -> float | None:
    """The share of each GPU's memory that the engine takes; None where vLLM decides."""
    if options.gpu_memory_utilization:
        return options.gpu_memory_utilization
    if device.is_processor or device.memory_gib is None or expert.memory_gib is None:
        return None
    used_gib = device.memory_gib * min(1.0, options.tensor_parallel_size / len(device.gpus))
    return min(1.0, expert.memory_gib / used_gib)


def engine_environment(
    device: EngineDevice, *, threads: int, python: str, own_python: str, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables an engine process gets: this one's, without secrets, and what device and threads ask for."""
    dropped = set() if python == own_python else {"PYTHONPATH", "PYTHONHOME"}
    kept = {name: value for name, value in inherited.items() if name not in dropped and not is_secret_key(name)}
    common = {
        # One process that ends with all it holds; what shares a model (tensor parallel) is its child all the same.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # weights are found, or downloaded, before an engine begins
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if not device.is_processor:
        return {**kept, **common, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(device.gpus)}
    return {
        **kept,
        **common,
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin while they wait take the core from the one they wait for as soon as anything else runs.
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # The model runs as it is (enforce_eager); compiling a few small functions only takes seconds and a compiler.
        "TORCHDYNAMO_DISABLE": "1",
    }


def memory_gib(
    expert: Expert, options: VllmOptions, *, folder: Path | None, device: EngineDevice | None
) -> float | None:
    """What the expert's engine takes: as its entry says, else by the size of its files; None where neither tells.

    On GPUs an engine takes its share of the memory at once, so there the entry's share counts, or else vLLM's own.
    """
    if expert.memory_gib is not None:
        return expert.memory_gib
    if device is not None and not device.is_processor:
        share = options.gpu_memory_utilization or _GPU_SHARE
        return None if device.memory_gib is None else share * device.memory_gib
    if folder is None:
        return None
    weights_gib = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / _GIB
    if options.dtype in ("auto", "float32") and not options.quantization and _stored_type(folder) in _NARROW:
        weights_gib *= 2
    return weights_gib + (options.kv_cache_gib or _PROCESSOR_CACHE_GIB) + _PROCESS_GIB


def _stored_type(folder: Path) -> str:
    config = read_json(folder / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "")
