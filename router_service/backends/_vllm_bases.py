"""What is known of each base before it is resident: where its files are, which adapters it must take, what it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from router_service.backends._transformers_files import adapter_rank, adapter_targets, check_adapter
from router_service.backends._vllm_devices import EngineDevice
from router_service.backends._vllm_options import LORA_RANKS, Adapters, VllmOptions, memory_gib, model_key
from router_service.backends._vllm_resident import Learned
from router_service.backends.base import Footprint
from router_service.errors import ConfigError
from router_service.types import Expert

__all__ = ["Bases", "adapter_folder"]

_MAX_WORKS: Final = 256
"""Batches at once in one engine: it mixes what comes, and lets wait what does not fit."""
_TOKENS_PER_S: Final = {True: 50.0, False: 2000.0}
"""A guess for a processor and for a GPU, until a model has worked for a while."""
_GIB: Final = 1 << 30


@dataclass(slots=True)
class _Base:
    """A base's folder once it is found, and its adapters by their folders, each as a set of one."""

    folder: Path | None = None
    adapters: dict[str, Adapters] = field(default_factory=dict)

    @property
    def weights_gib(self) -> float:
        files = [] if self.folder is None else self.folder.glob("*.safetensors")
        return sum(file.stat().st_size for file in files) / _GIB


class Bases:
    """The bases of all experts seen so far, by the key of the engine they run in."""

    def __init__(self) -> None:
        self._bases: dict[str, _Base] = {}

    def learn(self, expert: Expert, options: VllmOptions, *, folder: Path | None = None) -> None:
        """Keep what an expert's files say; raises `ConfigError` for an adapter that cannot run on the base."""
        base = self._base(expert, options)
        base.folder = folder or base.folder
        adapter = adapter_folder(expert)
        if adapter is None or adapter in base.adapters:
            return
        check_adapter(expert, base=base.folder, options=options)
        rank = adapter_rank(Path(adapter))
        if rank > LORA_RANKS[-1]:
            raise ConfigError(
                f"expert {expert.id!r}: its adapter {adapter} has rank {rank}, and vLLM takes {LORA_RANKS[-1]} at "
                "most; train it with a lower rank, or run it with the backend transformers"
            )
        base.adapters[adapter] = Adapters(count=1, rank=rank, targets=adapter_targets(Path(adapter)))

    def all_adapters(self, expert: Expert, options: VllmOptions) -> Adapters:
        """What the engine of this expert must have room for."""
        seen = self._base(expert, options).adapters.values()
        return Adapters(
            count=len(seen),
            rank=max((adapter.rank for adapter in seen), default=0),
            targets=frozenset().union(*(adapter.targets for adapter in seen)),
        )

    def adapter_folders(self, expert: Expert, options: VllmOptions) -> tuple[str, ...]:
        """The adapters of all experts that share this one's engine, in the order in which they were seen."""
        return tuple(self._base(expert, options).adapters)

    def adapter(self, expert: Expert, options: VllmOptions) -> Adapters:
        """The expert's own adapter, or none; raises `ConfigError` where it cannot run on the base."""
        self.learn(expert, options)
        return self._base(expert, options).adapters.get(adapter_folder(expert) or "", Adapters())

    def footprint(
        self, expert: Expert, options: VllmOptions, *, place: EngineDevice | None, learned: Learned
    ) -> Footprint:
        """By the expert's entry and the size of its files, then by what was seen of its model.

        Times are guessed as start-up plus reading: 5 s per GiB for a processor, 1 s for a GPU (its graphs are captured
        once more), and for waking 0.1 s per GiB from the machine's memory or 1 s from disk.
        """
        base, model = self._base(expert, options), model_key(expert, options)
        is_processor = place is not None and place.is_processor
        load_s = (10.0 + 5.0 * base.weights_gib) if is_processor else (30.0 + base.weights_gib)
        wake_s = 1.0 + base.weights_gib * (0.1 if options.sleep_level == 1 else 1.0)
        can_sleep = options.sleep_level > 0 and not is_processor and learned.sleeps is not False
        return Footprint(
            model=model,
            turn=model,
            memory_gib=memory_gib(expert, options, folder=base.folder, device=place),
            load_s=learned.load_s or load_s,
            wake_s=(learned.wake_s or wake_s) if can_sleep else None,
            tokens_per_s=learned.tokens_per_s or _TOKENS_PER_S[is_processor],
            max_works=_MAX_WORKS,
        )

    def _base(self, expert: Expert, options: VllmOptions) -> _Base:
        return self._bases.setdefault(model_key(expert, options), _Base())


def adapter_folder(expert: Expert) -> str | None:
    """The folder of the expert's adapter in full; None where it has none."""
    return str(Path(expert.adapter).resolve()) if expert.adapter else None
