"""The embedded engine: open models run in this process, many LoRA experts on one base model in memory."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from router_service.backends._transformers_bases import Bases
from router_service.backends._transformers_calls import Call, Calls, Piece, Reading, Writing, work_together
from router_service.backends._transformers_files import base_reference, check_files
from router_service.backends.base import BACKENDS, Device, Footprint, ResidentBackend
from router_service.errors import ConfigError, ExpertUnavailable
from router_service.types import Expert, ExpertBatch, Query, TextScore

__all__ = ["LoadReport", "Transformers"]

T = TypeVar("T")
_DTYPES = ("float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What was read into memory so far: folders of bases and of adapters, each time they were read, in order.

    `switches` counts how often an adapter became the active one; asking for the one that is active is no switch.
    """

    base_loads: tuple[str, ...] = ()
    adapter_loads: tuple[str, ...] = ()
    switches: int = 0


_LOAD_S = 3.0
_TOKENS_PER_S = 300.0
"""Of a small model on a processor; the runner measures both from the first load and batch on."""


@BACKENDS.register("transformers")
class Transformers(ResidentBackend):
    """Runs experts with torch and transformers in one worker thread; experts that share a base share its memory.

    It is one device that holds `max_resident_bases` models, and reads the next one beside a running one where that
    leaves room. Calls that wait for the same adapter are written together.

    An expert's `model` (for an adapter expert its `lora_base`) is `builtin:smollm2-135m-instruct`, a folder, or a hub
    id in the local cache; its `adapter` is a folder in PEFT's format. Options of an expert: `allows_download`
    (bool: the hub may be asked for files) and `accepts_base` (the name of another base that its adapter may name).
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        batch_size: int = 32,
        max_batch_tokens: int = 65_536,
        max_resident_bases: int = 1,
        dtype: str = "float32",
        device: str = "auto",
    ) -> None:
        """`threads` is torch's number within one operation (None: the cores this process may use); `batch_size` the
        rows written at once, fewer where prompts and limits together exceed `max_batch_tokens`; `max_resident_bases`
        the base models kept in memory, the least recently used one going first; `device` auto, cpu or cuda[:N]."""
        for name, value in (
            ("threads", threads),
            ("batch_size", batch_size),
            ("max_batch_tokens", max_batch_tokens),
            ("max_resident_bases", max_resident_bases),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"backend 'transformers': {name} is {value}; give 1 or more")
        if dtype not in _DTYPES:
            raise ConfigError(f"backend 'transformers': dtype is {dtype!r}; allowed: {', '.join(_DTYPES)}")
        if not _DEVICE.fullmatch(device):
            raise ConfigError(f"backend 'transformers': device is {device!r}; allowed: auto, cpu, cuda, cuda:N")
        _let_waiting_threads_sleep()
        self._batch_size = batch_size
        self._max_batch_tokens = max_batch_tokens
        self._device = Device(name=device, max_models=max_resident_bases)
        self._bases = Bases(most=max_resident_bases, threads=threads or _cores(), dtype=dtype, device=device)
        self._calls = Calls()
        self._folders: dict[str, Path] = {}
        self._worker: ThreadPoolExecutor | None = None
        self._reader: ThreadPoolExecutor | None = None

    @property
    def load_report(self) -> LoadReport:
        """Model and adapter loads and switches since this backend was made."""
        bases = self._bases
        return LoadReport(
            base_loads=tuple(bases.base_loads), adapter_loads=tuple(bases.adapter_loads), switches=bases.switches
        )

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` where packages, options, weights or adapter cannot work; loads no weights."""
        check_files(expert)

    def devices(self) -> tuple[Device, ...]:
        """The one device of the options; which one `auto` is shows when torch is first needed."""
        return (self._device,)

    def footprint(self, expert: Expert) -> Footprint:
        """The base is the model; what runs at once has the same adapter, in as many calls as one batch has rows."""
        return Footprint(
            model=_model_of(expert),
            turn=expert.adapter or "",
            memory_gib=expert.memory_gib,
            load_s=_LOAD_S,
            tokens_per_s=_TOKENS_PER_S,
            max_works=self._batch_size,
        )

    async def load(self, expert: Expert, *, device: str) -> None:
        """Read the expert's base in a thread of its own; adapters are read when they are first asked."""
        is_cancelled = threading.Event()
        if self._reader is None:
            self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers-load")
        try:
            folder = await asyncio.get_running_loop().run_in_executor(
                self._reader, lambda: self._bases.load(expert, is_cancelled=is_cancelled.is_set)
            )
        except ConfigError as error:
            raise ExpertUnavailable(error.message, expert_id=expert.id, retryable=False) from error
        except Exception as error:  # torch and its loaders raise of every kind
            message = f"expert {expert.id!r}: its model could not be read ({type(error).__name__}: {error})"
            raise ExpertUnavailable(message, expert_id=expert.id, retryable=False) from error
        finally:
            is_cancelled.set()
        self._folders[_model_of(expert)] = folder

    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        """Give the base's memory back as soon as no call uses it; it cannot sleep."""
        folder = self._folders.pop(model, None)
        if folder is not None:
            await asyncio.to_thread(self._bases.release, folder)

    def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Piece]:
        """See `Backend.complete`; the worker thread leaves the call's rows at the next token when the iterator is
        closed. A base that was not loaded before is read now."""
        call = Writing(expert=expert, batch=batch, loop=asyncio.get_running_loop())
        return self._pieces(call)

    async def score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """See `ScoringBackend.score`; texts of one adapter are read together, whoever asks. A base that was not loaded
        before is read now."""
        call = Reading(expert=expert, texts=tuple(texts), loop=asyncio.get_running_loop())
        async with aclosing(self._pieces(call)) as scores:
            return [score async for score in scores]

    async def aclose(self) -> None:
        """End all calls, free models and threads; a call that was open raises `ExpertUnavailable`."""
        self._calls.stop_all()
        threads = [thread for thread in (self._worker, self._reader) if thread is not None]
        self._worker = self._reader = None
        for thread in threads:
            await asyncio.to_thread(thread.shutdown, wait=True, cancel_futures=True)
        self._calls.end_all()
        self._folders.clear()
        self._bases.clear()

    async def _pieces(self, call: Call[T]) -> AsyncGenerator[T]:
        """What comes of a call, piece by piece, until it ends."""
        self._calls.enter(call)
        call.loop.call_soon(self._work_next)  # after those that come at the same moment
        try:
            while (piece := await call.pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self._calls.leave(call)

    def _work_next(self) -> None:
        """Have the working thread take whoever is next in line; once per call, so that nobody is forgotten."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers")
        self._worker.submit(self._work)

    def _work(self) -> None:
        calls = self._calls.take()
        if calls:
            work_together(calls, self._bases, size=self._batch_size, max_tokens=self._max_batch_tokens)


def _model_of(expert: Expert) -> str:
    """One name per base, however its folder is spelt."""
    reference = base_reference(expert)
    return str(Path(reference).resolve()) if Path(reference).is_dir() else reference


def _cores() -> int:
    """The cores this process may use; all of the machine's where the system cannot say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _let_waiting_threads_sleep() -> None:
    """Ask OpenMP not to spin where torch's threads wait for one another; it reads this when torch is imported.

    Spinning threads keep the one they wait for off the core as soon as anything else runs on the machine: with two
    threads on two busy cores this made generating five times faster. What the environment says already is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
