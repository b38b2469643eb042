"""The reader of server-sent events: however the bytes are cut, the same events come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.backends._sse import SseParser

STREAM = (
    b': ping\r\n\r\nevent: x\r\ndata: {"a": 1}\r\n\r\n'
    b"data: two\ndata:lines\nid: 7\n\n\n\ndata: \xc3\xbc\n\ndata: unfinished\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    parser = SseParser()
    edges = [0, *sorted(cuts), len(STREAM)]
    events = [event for a, b in pairwise(edges) for event in parser.feed(STREAM[a:b])]
    assert events == ['{"a": 1}', "two\nlines", "ü"]


def test_a_line_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="no server-sent event: 'Bad Gateway'"):
        SseParser().feed(b"Bad Gateway\n")


def test_a_stream_without_end_is_an_error() -> None:
    parser = SseParser()
    with pytest.raises(ValueError, match="does not end"):
        for _ in range(20):
            parser.feed(b"data: " + b"x" * 1024 * 1024)
    parser = SseParser()
    with pytest.raises(ValueError, match="does not end"):
        for _ in range(20):
            parser.feed(b"data: " + b"x" * 1024 * 1024 + b"\n")
