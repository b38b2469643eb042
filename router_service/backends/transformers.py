"""The embedded engine: open models run in this process, many LoRA experts on one base model in memory."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from router_service.backends._text_requests import refusals_of
from router_service.backends._transformers_decode import Row, decode, micro_batches
from router_service.backends._transformers_files import base_reference, check_files, find_base
from router_service.backends._transformers_model import ResidentBase, pick_device
from router_service.backends._transformers_rows import completions_of, rows_of
from router_service.backends.base import BACKENDS, Backend
from router_service.errors import ConfigError, ExpertRefused, ExpertUnavailable, RouterError
from router_service.types import Completion, Expert, ExpertBatch, TokenDelta

__all__ = ["LoadReport", "Transformers"]

_DTYPES = ("float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

Piece = Completion | TokenDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What was read into memory so far: folders of bases and of adapters, each time they were read, in order.

    `switches` counts how often an adapter became the active one; asking for the one that is active is no switch.
    """

    base_loads: tuple[str, ...] = ()
    adapter_loads: tuple[str, ...] = ()
    switches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One `complete` in progress: who is asked what, where pieces go, and the flag that ends it early."""

    expert: Expert
    batch: ExpertBatch
    put: Callable[[Piece], None]
    is_cancelled: threading.Event


@BACKENDS.register("transformers")
class Transformers(Backend):
    """Runs experts with torch and transformers in one worker thread; experts that share a base share its memory.

    An expert's `model` (for an adapter expert its `lora_base`) is `builtin:smollm2-135m-instruct`, a folder, or a hub
    id in the local cache; its `adapter` is a folder in PEFT's format. Options of an expert: `allows_download`
    (bool: the hub may be asked for files) and `accepts_base` (the name of another base that its adapter may name).
    """

    is_batched: ClassVar[bool] = True

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
        self._threads = threads or _cores()
        self._batch_size = batch_size
        self._max_batch_tokens = max_batch_tokens
        self._max_resident_bases = max_resident_bases
        self._dtype = dtype
        self._device = device
        self._worker: ThreadPoolExecutor | None = None
        self._calls: set[threading.Event] = set()
        self._resident: OrderedDict[Path, ResidentBase] = OrderedDict()
        self._base_loads: list[str] = []
        self._adapter_loads: list[str] = []
        self._switches = 0

    @property
    def load_report(self) -> LoadReport:
        """Model and adapter loads and switches since this backend was made."""
        return LoadReport(
            base_loads=tuple(self._base_loads), adapter_loads=tuple(self._adapter_loads), switches=self._switches
        )

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` where packages, options, weights or adapter cannot work; loads no weights."""
        check_files(expert)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Piece]:
        """See `Backend.complete`; the worker thread stops at the next token when the iterator is closed."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        is_cancelled = threading.Event()

        def put(piece: Piece) -> None:
            if not is_cancelled.is_set():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        call = _Call(expert=expert, batch=batch, put=put, is_cancelled=is_cancelled)
        self._calls.add(is_cancelled)
        work = loop.run_in_executor(self._thread(), self._run, call)
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            if work.cancelled():
                raise _closed(expert)
            work.result()
        finally:
            self._calls.discard(is_cancelled)
            is_cancelled.set()
            if not work.cancel() and not work.cancelled():
                work.exception()  # nobody waits for it any more; asyncio would log it as forgotten

    async def aclose(self) -> None:
        """End all calls, free models and thread; a call that was open raises `ExpertUnavailable`."""
        for is_cancelled in self._calls:
            is_cancelled.set()
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.shutdown, wait=True, cancel_futures=True)
        self._resident.clear()
        _free_memory()

    def _thread(self) -> ThreadPoolExecutor:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transformers")
        return self._worker

    # --- in the worker thread --------------------------------------------------------------------------------------

    def _run(self, call: _Call) -> None:
        expert = call.expert
        try:
            self._answer(call)
        except ConfigError as error:
            raise ExpertUnavailable(error.message, expert_id=expert.id, retryable=False) from error
        except RouterError:
            raise
        except Exception as error:  # torch and its loaders raise of every kind, out of memory among them
            detail = str(error).strip() or "no message"
            raise ExpertUnavailable(
                f"expert {expert.id!r} failed in the embedded engine ({type(error).__name__}: {detail}); where memory "
                "ran out, lower the backend's batch_size or max_batch_tokens, or choose a smaller model",
                expert_id=expert.id,
                retryable=False,
            ) from error

    def _answer(self, call: _Call) -> None:
        if call.is_cancelled.is_set():
            raise _closed(call.expert)
        base = self._ready_base(call.expert)
        rows: list[Row] = []
        for assignment in call.batch.assignments:
            try:
                rows += rows_of(call.expert, assignment, base)
            except ExpertRefused as refused:
                for refusal in refusals_of(assignment, refused):
                    call.put(refusal)
        for group in micro_batches(rows, size=self._batch_size, max_tokens=self._max_batch_tokens):
            began = time.perf_counter()
            decode(
                base,
                group,
                on_progress=partial(_report, call, began=began),
                is_cancelled=call.is_cancelled.is_set,
            )
            if call.is_cancelled.is_set():
                raise _closed(call.expert)

    def _ready_base(self, expert: Expert) -> ResidentBase:
        """The base of `expert` in memory, with its adapter active."""
        import torch

        torch.set_num_threads(self._threads)
        folder = find_base(expert)
        if folder is None:
            raise ConfigError(f"expert {expert.id!r}: the model {base_reference(expert)!r} was not found")
        base = self._resident.get(folder) or self._load(folder)
        self._resident.move_to_end(folder)
        if expert.adapter and not base.has_attached(expert.adapter):
            check_files(expert)
            self._attach(base, expert.adapter, folder=folder)
        self._switches += base.activate(expert.adapter or None)
        return base

    def _load(self, folder: Path) -> ResidentBase:
        while len(self._resident) >= self._max_resident_bases:
            self._resident.popitem(last=False)
            _free_memory()
        base = ResidentBase.load(folder, dtype=self._dtype, device=pick_device(self._device))
        self._resident[folder] = base
        self._base_loads.append(str(folder))
        return base

    def _attach(self, base: ResidentBase, adapter: str, *, folder: Path) -> None:
        try:
            base.attach(adapter)
        except Exception:
            # Half an adapter may hang on the base now: let the next call read a clean one.
            del self._resident[folder]
            raise
        self._adapter_loads.append(adapter)


def _report(call: _Call, row: Row, *, began: float) -> None:
    """Pass on a row's new text where it is streamed, and its completions once it is finished."""
    query = row.assignment.query
    is_first = row.samples[0] == row.assignment.first_sample
    if row.assignment.streams and is_first and (text := row.new_text()):
        call.put(TokenDelta(query_id=query.id, text=text))
    if row.finish_reason is not None:
        for completion in completions_of(row, expert_id=call.expert.id, latency_s=time.perf_counter() - began):
            call.put(completion)


def _closed(expert: Expert) -> ExpertUnavailable:
    return ExpertUnavailable(
        f"expert {expert.id!r} was stopped before it had answered: the embedded engine was closed; ask again",
        expert_id=expert.id,
        retryable=True,
    )


def _cores() -> int:
    """The cores this process may use; all of the machine's where the system cannot say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _let_waiting_threads_sleep() -> None:
    """Ask OpenMP not to spin where torch's threads wait for one another; it reads this when torch is imported.

    Spinning threads keep the one they wait for off the core as soon as anything else runs on the machine: with two
    threads on two busy cores this made generating five times faster. What the environment says already is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _free_memory() -> None:
    """Give freed models back to the system; torch is not imported just for that."""
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
