"""One batch, where from, where to and how, and what its files must not be."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from router_service._batch_files import part_path
from router_service._batch_lines import BatchLine, ChatParser, LineParser, QuestionReader, read_lines
from router_service._batch_receipt import receipt_path
from router_service._batch_worker import WorkOptions
from router_service.errors import ConfigError, InvalidQuery

__all__ = ["BatchJob", "check_files", "check_log", "require_no_problem"]

_PROBLEMS_SHOWN = 5
_OLD_KIND = "enlist-batch-journal"
_OLD_START_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """One batch: where from, where to, and how.

    `settings` says what the answers depend on besides the input (name -> fingerprint); a job of other settings is not
    continued. `restarts` drops what an earlier run finished; `retries_failed` keeps all of it but the lines whose
    failure may be gone by now, and runs those again.
    """

    source: Path
    target: Path
    as_query: QuestionReader
    as_chat: ChatParser
    settings: Mapping[str, str] = field(default_factory=dict)
    work: WorkOptions = WorkOptions()
    is_strict: bool = False
    restarts: bool = False
    retries_failed: bool = False

    @property
    def store_path(self) -> Path:
        """The job store of a batch that is given no other: it is there until the output is."""
        return self.target.with_name(self.target.name + ".job")

    @property
    def receipt_path(self) -> Path:
        """What stays beside a finished output, so that running the same batch again does nothing."""
        return receipt_path(self.target)

    @property
    def job_id(self) -> str:
        """The batch's id in a store: one job per output file of a host."""
        named = f"{socket.gethostname()}:{self.target.absolute()}".encode("utf-8", "surrogateescape")
        return "batch_" + hashlib.sha256(named).hexdigest()[:24]

    @property
    def parser(self) -> LineParser:
        """What makes a question of a line."""
        return LineParser(as_query=self.as_query, as_chat=self.as_chat)

    def lines(self) -> Iterator[BatchLine]:
        """The input's lines, read anew."""
        return read_lines(self.source, as_query=self.as_query, as_chat=self.as_chat)


def check_files(job: BatchJob) -> None:
    """Refuse files that cannot be what they are named as, before any of them is opened or read, as `ConfigError`."""
    if job.restarts and job.retries_failed:
        raise ConfigError("a batch is either begun anew (restart) or goes on with its failed lines; leave one out")
    if not job.target.parent.is_dir():
        raise ConfigError(
            f"cannot write {job.target}: its folder is not there; choose an output in a folder that exists"
        )
    if not job.source.exists():
        return  # reading it says so
    if not job.source.is_file():
        raise ConfigError(
            f"the input {job.source} is not a regular file, and a batch reads its input several times; "
            "write it to a file first, and name that"
        )
    for path in (job.target, *_beside(job)):
        if path.exists() and path.samefile(job.source):
            role = "" if path == job.target else f", which a batch to {job.target} writes on its way"
            raise ConfigError(f"{path} is the input itself{role}; name another output file")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} exists and is not a regular file; name an output file in a folder that exists")
    _check_old_journal(job)


def check_log(job: BatchJob, log: Path) -> None:
    """Refuse a decision log that would be written into one of the batch's own files, as `ConfigError`."""
    for path in (job.source, job.target, *_beside(job)):
        if log.absolute() == path.absolute() or (log.exists() and path.exists() and log.samefile(path)):
            raise ConfigError(f"the decision log {log} is {path}, a file of this batch itself; name another log file")


def _beside(job: BatchJob) -> list[Path]:
    store = job.store_path
    logs = (store.with_name(store.name + "-wal"), store.with_name(store.name + "-shm"))
    return [store, *logs, job.receipt_path, part_path(job.target)]


def _check_old_journal(job: BatchJob) -> None:
    """An unfinished batch of a version that kept journals is not asked again unasked."""
    journal = job.target.with_name(job.target.name + ".journal")
    try:
        with journal.open("rb") as file:
            start = json.loads(file.readline(_OLD_START_BYTES))
    except (OSError, ValueError):
        return
    if not isinstance(start, dict) or start.get("kind") != _OLD_KIND:
        return
    if job.restarts:
        journal.unlink()
        return
    raise ConfigError(
        f"{journal} is an unfinished batch of an earlier version of enlist, which this one cannot go on with. Finish "
        "it with that version, give --restart to drop what it finished and begin anew, or name another output file"
    )


def require_no_problem(job: BatchJob) -> None:
    """Raise `InvalidQuery` where a line is malformed, naming the first ones."""
    problems = [line.problem for line in job.lines() if line.problem is not None]
    if problems:
        more = f"\n  and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        shown = "".join(f"\n  {problem}" for problem in problems[:_PROBLEMS_SHOWN])
        raise InvalidQuery(f"{job.source} has malformed lines, and nothing was run:{shown}{more}")
