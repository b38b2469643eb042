"""Server-sent events, read strictly: bytes in, the data of each event out, and an error for a line that is none."""

from __future__ import annotations

__all__ = ["SseParser"]

_FIELDS = frozenset({"data", "event", "id", "retry"})
_MAX_PENDING = 16 * 1024 * 1024
"""Bytes without a line end, or of one event's data, after which a stream is taken for broken."""


class SseParser:
    """Takes a stream's bytes as they come (HTML standard, section 9.2.6); a stream never ends within an event."""

    def __init__(self) -> None:
        self._pending = b""
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events completed by this piece; raises `ValueError` for a line that is no SSE line."""
        lines = (self._pending + piece).replace(b"\r\n", b"\n").split(b"\n")
        self._pending = lines.pop()
        if len(self._pending) > _MAX_PENDING:
            raise ValueError("a line of the stream does not end")
        events = []
        for line in lines:
            text = line.rstrip(b"\r").decode("utf-8", errors="replace")
            if text:
                self._take(text)
            elif self._data:
                events.append("\n".join(self._data))
                self._data, self._size = [], 0
        return events

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        if not name:
            return  # a comment, as heartbeats are
        if name not in _FIELDS:
            raise ValueError(f"the stream holds a line that is no server-sent event: {line[:80]!r}")
        if name == "data":
            self._data.append(value.removeprefix(" "))
            self._size += len(value)
            if self._size > _MAX_PENDING:
                raise ValueError("an event of the stream does not end")
