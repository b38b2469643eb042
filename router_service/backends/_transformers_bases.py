"""The base models in memory: read once, used by the thread that writes, given back when nobody uses them any more."""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from router_service.backends._transformers_files import base_reference, check_files, find_base
from router_service.backends._transformers_model import ResidentBase, pick_device
from router_service.errors import ConfigError
from router_service.types import Expert

__all__ = ["Bases", "free_memory"]


class Bases:
    """At most `most` base models, the least recently used one going first; safe to use from several threads.

    One model is read at a time, and it may be read while another one is used.
    """

    def __init__(self, *, most: int, threads: int, dtype: str, device: str) -> None:
        self._most = most
        self._threads = threads
        self._dtype = dtype
        self._device = device
        self._loading = threading.Lock()
        self._changed = threading.Condition()
        self._there: OrderedDict[Path, ResidentBase] = OrderedDict()
        self._in_use: Counter[Path] = Counter()
        self.base_loads: list[str] = []
        self.adapter_loads: list[str] = []
        self.switches = 0

    @property
    def there(self) -> tuple[ResidentBase, ...]:
        """What is in memory, the least recently used first."""
        return tuple(self._there.values())

    def load(self, expert: Expert, *, is_cancelled: Callable[[], bool] = lambda: False) -> Path:
        """Read the expert's base unless it is there; its folder. Nothing is kept where it was cancelled meanwhile.

        Raises `ConfigError` where there is no such base.
        """
        folder = find_base(expert)
        if folder is None:
            raise ConfigError(f"expert {expert.id!r}: the model {base_reference(expert)!r} was not found")
        with self._loading:
            if folder not in self._there and not is_cancelled():
                self._read(folder, is_cancelled)
        return folder

    @contextmanager
    def using(self, expert: Expert) -> Iterator[ResidentBase]:
        """The expert's base with its adapter active, read where it was not there; only one thread at a time may."""
        import torch

        torch.set_num_threads(self._threads)
        folder, base = self._take(expert)
        try:
            if expert.adapter and not base.has_attached(expert.adapter):
                check_files(expert)
                self._attach(base, expert.adapter, folder=folder)
            self.switches += base.activate(expert.adapter or None)
            yield base
        finally:
            del base
            with self._changed:
                self._in_use[folder] -= 1
                self._changed.notify_all()

    def release(self, folder: Path) -> None:
        """Give a base's memory back, once nobody uses it any more; nothing to do where it is not there."""
        with self._changed:
            self._there.pop(folder, None)
            self._changed.wait_for(lambda: not self._in_use[folder])
        free_memory()

    def clear(self) -> None:
        """Give all of them back."""
        with self._changed:
            self._there.clear()
        free_memory()

    def _take(self, expert: Expert) -> tuple[Path, ResidentBase]:
        while True:
            folder = self.load(expert)
            with self._changed:
                base = self._there.get(folder)
                if base is not None:  # else it was released again before it could be used
                    self._there.move_to_end(folder)
                    self._in_use[folder] += 1
                    return folder, base

    def _read(self, folder: Path, is_cancelled: Callable[[], bool]) -> None:
        import torch

        torch.set_num_threads(self._threads)
        while len(self._there) >= self._most:
            with self._changed:
                self._there.popitem(last=False)
            free_memory()
        base = ResidentBase.load(folder, dtype=self._dtype, device=pick_device(self._device))
        if is_cancelled():
            del base
            free_memory()
            return
        with self._changed:
            self._there[folder] = base
        self.base_loads.append(str(folder))

    def _attach(self, base: ResidentBase, adapter: str, *, folder: Path) -> None:
        try:
            base.attach(adapter)
        except Exception:
            # Half an adapter may hang on the base now: let the next call read a clean one.
            with self._changed:
                self._there.pop(folder, None)
            raise
        self.adapter_loads.append(adapter)


def free_memory() -> None:
    """Give freed models back to the system; torch is not imported just for that."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
