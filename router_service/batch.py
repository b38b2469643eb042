"""Durable batches: a JSONL file of questions in, a JSONL file of answers out; a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

from router_service._batch_journal import Journal, dump_json, part_path, remove_file, write_in_pieces
from router_service._batch_lines import BatchLine, ChatParser, QuestionReader, fingerprint_file, read_lines
from router_service._batch_output import FinishedLine, malformed_line, plain_line, read_back
from router_service.config import EngineConfig
from router_service.dispatch.ledger import DeadlinesFrom
from router_service.errors import ConfigError, InvalidQuery
from router_service.types import Answered, Event, Expert, Failed, Query, RouteFailure, RouteResponse, Usage

__all__ = ["BatchEngine", "BatchJob", "BatchSummary", "batch_settings", "run_batch"]

Progress = Callable[[int, int], None]
"""Called with the lines finished and the lines in all."""

_PROBLEMS_SHOWN = 5


class BatchEngine(Protocol):
    """The part of the engine that a batch needs."""

    def stream(self, queries: Sequence[Query], *, deadlines_from: DeadlinesFrom) -> AsyncGenerator[Event, None]:
        """Events as they happen; exactly one `Answered` or `Failed` per query."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """One batch: where from, where to, and how.

    `settings` says what the answers depend on besides the input (name -> fingerprint); a journal of other settings
    is not continued. `window` is how many lines go to the engine at once: each expert is loaded once per window.
    `restarts` drops what an earlier run finished; `retries_failed` keeps all of it but the lines whose failure may be
    gone by now, and runs those again.
    """

    source: Path
    target: Path
    as_query: QuestionReader
    as_chat: ChatParser
    settings: Mapping[str, str] = field(default_factory=dict)
    window: int = 512
    is_strict: bool = False
    restarts: bool = False
    retries_failed: bool = False

    @property
    def journal_path(self) -> Path:
        """Where finished lines are kept until all are."""
        return self.target.with_name(self.target.name + ".journal")

    @property
    def receipt_path(self) -> Path:
        """What stays beside a finished output, so that running the same batch again does nothing."""
        return self.target.with_name(self.target.name + ".receipt")

    def lines(self) -> Iterator[BatchLine]:
        """The input's lines, read anew."""
        return read_lines(self.source, as_query=self.as_query, as_chat=self.as_chat)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """How a batch ended. `n_resumed` lines were finished by an earlier run; failed lines say why in the output.

    `n_retryable` of the failed lines may do better in a run with `retries_failed`. `usage` adds up the lines of the
    output; what a failed try had cost before another one is not in it.
    """

    target: Path
    n_lines: int
    n_failed: int
    n_retryable: int
    n_resumed: int
    usage: Usage

    @property
    def n_answered(self) -> int:
        """Lines with an answer."""
        return self.n_lines - self.n_failed


def batch_settings(config: EngineConfig, experts: Sequence[Expert]) -> dict[str, str]:
    """What a batch's answers depend on besides its input, for `BatchJob.settings`: configuration, experts, artefact."""
    from router_service.assembly import artefact_folder

    settings = {f"config.{name}": _digest(value) for name, value in config.model_dump(mode="json").items()}
    folder = artefact_folder(config)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder is not None else []
    return {
        **settings,
        "experts": _digest(experts),
        "artefact": _digest({path.name: fingerprint_file(path) for path in files}),
    }


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """What JSON cannot hold, as something it can, in an order that is the same in every process."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, frozenset):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else str(value)


async def run_batch(engine: BatchEngine, job: BatchJob, *, on_progress: Progress | None = None) -> BatchSummary:
    """Run every line that no earlier run finished, then write the output in input order, whole or not at all.

    Each finished line is on disk before it counts, so a kill at any moment loses none and none is run twice.
    Raises `ConfigError` where the input cannot be read, the output is another batch's or the input itself, or two
    processes run one batch; `InvalidQuery` for a malformed line of a strict job, before anything is run.
    """
    _check_job(job)
    header = {"input": fingerprint_file(job.source), **job.settings}
    n_lines = _scan(job)
    with Journal(job.journal_path, header, restarts=job.restarts) as journal:
        receipt = None if job.restarts else _valid_receipt(job, header)
        if receipt is not None and not (job.retries_failed and receipt["retryable"]):
            journal.remove()
            return _summary(job, receipt, n_resumed=n_lines)
        if receipt is not None:
            _reopen(job, journal, receipt)
        elif not len(journal):
            _begin(job, journal)
        if job.retries_failed:
            _forget_retryable(journal)
        n_resumed = len(journal)
        await _finish_lines(engine, job, journal, report=_report(on_progress, journal, n_lines))
        receipt = _write_output(job, journal, header)
        journal.remove()
    return _summary(job, receipt, n_resumed=n_resumed)


def _check_job(job: BatchJob) -> None:
    """Refuse files that cannot be what they are named as, before any of them is opened or read."""
    if job.restarts and job.retries_failed:
        raise ConfigError("a batch is either begun anew (restart) or goes on with its failed lines; leave one out")
    if not job.source.exists():
        return  # reading it says so
    if not job.source.is_file():
        raise ConfigError(
            f"the input {job.source} is not a regular file, and a batch reads its input several times; "
            "write it to a file first, and name that"
        )
    beside = (job.journal_path, job.receipt_path, part_path(job.target), part_path(job.receipt_path))
    for path in (job.target, *beside):
        if path.exists() and path.samefile(job.source):
            role = "" if path == job.target else f", which a batch to {job.target} writes on its way"
            raise ConfigError(f"{path} is the input itself{role}; name another output file")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} exists and is not a regular file; name an output file in a folder that exists")


def _scan(job: BatchJob) -> int:
    """The number of lines; a strict job refuses malformed ones here."""
    n_lines, problems = 0, []
    for line in job.lines():
        n_lines += 1
        if line.problem is not None:
            problems.append(line.problem)
    if job.is_strict and problems:
        more = f"\n  and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        shown = "".join(f"\n  {problem}" for problem in problems[:_PROBLEMS_SHOWN])
        raise InvalidQuery(f"{job.source} has malformed lines, and nothing was run:{shown}{more}")
    return n_lines


def _begin(job: BatchJob, journal: Journal) -> None:
    """A fresh start: an output that is not this batch's is never overwritten unasked."""
    if job.target.exists() and not job.restarts:
        journal.remove()
        raise ConfigError(
            f"{job.target} exists and is not the finished output of this input with these settings; "
            "give --restart to replace it, or name another output file"
        )
    job.receipt_path.unlink(missing_ok=True)


def _reopen(job: BatchJob, journal: Journal, receipt: Mapping[str, Any]) -> None:
    """Take the lines of a finished output back into the journal.

    The receipt is removed last: while it stands, the output counts and the journal does not.
    """
    retryable = frozenset(receipt["retryable"])
    with job.target.open("rb") as outputs:
        journal.extend(
            (line.number, _entry(read_back(json.loads(raw), is_retryable=line.number in retryable)))
            for line, raw in zip(job.lines(), outputs, strict=True)
            if not journal.has(line.number)
        )
    remove_file(job.receipt_path)


def _forget_retryable(journal: Journal) -> None:
    for number in [entry["line"] for entry in journal.entries() if entry.get("retryable")]:
        journal.forget(number)


def _report(on_progress: Progress | None, journal: Journal, n_lines: int) -> Callable[[], None]:
    def report() -> None:
        if on_progress is not None:
            on_progress(len(journal), n_lines)

    report()
    return report


async def _finish_lines(engine: BatchEngine, job: BatchJob, journal: Journal, *, report: Callable[[], None]) -> None:
    window: list[BatchLine] = []
    for line in job.lines():
        if journal.has(line.number):
            continue
        if line.query is None:
            journal.append(line.number, _entry(malformed_line(line)))
            report()
            continue
        window.append(line)
        if len(window) == job.window:
            await _run_window(engine, window, journal, report=report)
            window = []
    if window:
        await _run_window(engine, window, journal, report=report)


async def _run_window(
    engine: BatchEngine, window: Sequence[BatchLine], journal: Journal, *, report: Callable[[], None]
) -> None:
    by_id = {line.query.id: line for line in window if line.query is not None}
    queries = [line.query for line in window if line.query is not None]
    async with aclosing(engine.stream(queries, deadlines_from="first_call")) as events:
        async for event in events:
            end = _end(event)
            if end is not None:
                line = by_id[end.query_id]
                journal.append(line.number, _entry(_finished(line, end)))
                report()


def _end(event: Event) -> RouteResponse | RouteFailure | None:
    if isinstance(event, Answered):
        return event.response
    return event.failure if isinstance(event, Failed) else None


def _finished(line: BatchLine, end: RouteResponse | RouteFailure) -> FinishedLine:
    if line.form == "plain":
        return plain_line(line, end)
    from router_service._batch_chat import chat_line

    return chat_line(line, end)


def _entry(finished: FinishedLine) -> dict[str, Any]:
    """What the journal holds of a finished line."""
    return {
        "failed": finished.has_failed,
        "retryable": finished.is_retryable,
        "usage": _parts(finished.usage),
        "output": finished.output,
    }


def _write_output(job: BatchJob, journal: Journal, header: Mapping[str, str]) -> dict[str, Any]:
    """Write the output and then its receipt; returns the receipt."""
    counts: dict[str, Any] = {"lines": 0, "failed": 0}
    retryable: list[int] = []
    usage, checksum = Usage(), hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        nonlocal usage
        for entry in journal.entries():
            counts["lines"] += 1
            counts["failed"] += entry["failed"]
            if entry.get("retryable"):
                retryable.append(entry["line"])
            usage += _usage(entry["usage"])
            piece = dump_json(entry["output"])
            checksum.update(piece)
            yield piece

    write_in_pieces(job.target, pieces())
    counts["usage"] = _parts(usage)
    receipt = {"batch": header, "output": checksum.hexdigest(), "counts": counts, "retryable": retryable}
    write_in_pieces(job.receipt_path, iter([dump_json(receipt)]))
    return receipt


def _valid_receipt(job: BatchJob, header: Mapping[str, str]) -> dict[str, Any] | None:
    """The receipt, where the output beside it is the whole and unchanged result of this very batch."""
    try:
        receipt = json.loads(job.receipt_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(receipt, dict) or receipt.get("batch") != dict(header) or not job.target.exists():
        return None
    receipt.setdefault("retryable", [])  # one written before lines could be tried again
    return receipt if receipt.get("output") == fingerprint_file(job.target) else None


def _parts(usage: Usage) -> list[Any]:
    return [usage.completions, usage.prompt_tokens, usage.completion_tokens, usage.cost_usd]


def _usage(parts: Iterable[Any]) -> Usage:
    completions, prompt_tokens, completion_tokens, cost_usd = parts
    return Usage(
        completions=completions, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost_usd
    )


def _summary(job: BatchJob, receipt: Mapping[str, Any], *, n_resumed: int) -> BatchSummary:
    counts = receipt["counts"]
    return BatchSummary(
        target=job.target,
        n_lines=counts["lines"],
        n_failed=counts["failed"],
        n_retryable=len(receipt["retryable"]),
        n_resumed=n_resumed,
        usage=_usage(counts["usage"]),
    )
