"""The receipt beside a finished output, by which a finished batch is known again, and the writing of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from router_service._batch_files import dump_json, locked_part, write_whole
from router_service._batch_lines import BatchLine, fingerprint_file
from router_service._batch_output import is_cancelled, read_back
from router_service.store.base import FinishedEntry
from router_service.store.records import usage_from_parts, usage_parts
from router_service.types import Usage

__all__ = ["Receipt", "kept_lines", "receipt_path", "usage_of", "valid_receipt", "write_output"]

Receipt = Mapping[str, Any]
"""What was run (`batch`), the output's checksum, counts, and the numbers of the lines that may be tried again."""


def receipt_path(target: Path) -> Path:
    """Where the receipt of an output stands."""
    return target.with_name(target.name + ".receipt")


def valid_receipt(target: Path, header: Mapping[str, str]) -> Receipt | None:
    """The receipt, where the output beside it is the whole and unchanged result of the batch of this header."""
    try:
        receipt = json.loads(receipt_path(target).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(receipt, dict) or receipt.get("batch") != dict(header) or not target.exists():
        return None
    receipt.setdefault("retryable", [])  # one written before lines could be tried again
    return receipt if receipt.get("output") == fingerprint_file(target) else None


def kept_lines(target: Path, lines: Iterable[BatchLine], receipt: Receipt) -> Iterator[FinishedEntry]:
    """The lines of a finished output that are not to be tried again, as they were finished."""
    retryable = frozenset(receipt["retryable"])
    with target.open("rb") as outputs:
        for line, raw in zip(lines, outputs, strict=True):
            if line.number not in retryable:
                yield read_back(line.number, json.loads(raw), is_retryable=False)


async def write_output(target: Path, header: Mapping[str, str], entries: AsyncIterator[FinishedEntry]) -> Receipt:
    """Write the output and then its receipt, unless another process of the same batch does it just now; the receipt.

    Raises `StoreUnavailable` where the disk does not take them.
    """
    async with locked_part(target) as part:
        receipt = valid_receipt(target, header)
        if receipt is not None:
            return receipt
        counts: dict[str, int] = {"lines": 0, "failed": 0, "cancelled": 0}
        retryable: list[int] = []
        usage, checksum = Usage(), hashlib.sha256()
        async for entry in entries:
            counts["lines"] += 1
            counts["failed"] += entry.has_failed
            counts["cancelled"] += is_cancelled(entry)
            if entry.is_retryable:
                retryable.append(entry.number)
            usage += entry.usage
            piece = dump_json(entry.output)
            checksum.update(piece)
            part.write(piece)
        part.publish()
        receipt = {
            "batch": dict(header),
            "output": checksum.hexdigest(),
            "counts": {**counts, "usage": usage_parts(usage)},
            "retryable": retryable,
        }
        write_whole(receipt_path(target), dump_json(receipt))
        return receipt


def usage_of(receipt: Receipt) -> Usage:
    """What the lines of the output used."""
    return usage_from_parts(receipt["counts"]["usage"])
