"""The decoding loop by itself: how it draws, what it holds back, when it stops, how rows are put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.backends._transformers_decode import Row, _draw, _safe_end, decode, micro_batches
from router_service.backends._transformers_model import ResidentBase
from router_service.types import Sampling
from tests.router_service.backends.tiny_models import ask, save_model


@pytest.mark.parametrize(
    ("temperature", "top_p", "wanted"), [(1.0, None, (0.5, 0.3, 0.2)), (1.0, 0.6, (0.625, 0.375, 0))]
)
def test_draws_follow_the_distribution(temperature: float, top_p: float | None, wanted: tuple[float, ...]) -> None:
    import torch

    sampling = Sampling(temperature=temperature, top_p=top_p)
    row = Row(assignment=ask("x"), samples=(0,), prompt=(1,), sampling=sampling, limit=1, seed=7)
    logprobs = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = [_draw(logprobs, row) for _ in range(4000)]
    assert [drawn.count(token) / 4000 for token in range(3)] == pytest.approx(wanted, abs=0.03)
    cold = replace(row, sampling=Sampling(temperature=0.5))
    squares = [p * p / 0.38 for p in (0.5, 0.3, 0.2)]
    drawn = [_draw(logprobs, cold) for _ in range(4000)]
    assert [drawn.count(token) / 4000 for token in range(3)] == pytest.approx(squares, abs=0.03)


@given(st.text(alphabet="ab", max_size=12), st.text(alphabet="ab", min_size=1, max_size=4))
def test_nothing_is_shown_that_may_become_a_stop_text(text: str, stop: str) -> None:
    end = _safe_end(text, len(text), stop)
    assert not any(stop.startswith(text[at:]) for at in range(end) if len(text) - at < len(stop))
    assert end == len(text) or stop.startswith(text[end:])


@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), max_size=30),
    size=st.integers(1, 8),
    max_tokens=st.integers(1, 600),
)
def test_micro_batches_hold_every_row_once_within_bounds(
    sizes: list[tuple[int, int]], size: int, max_tokens: int
) -> None:
    rows = [
        Row(assignment=ask("x"), samples=(0,), prompt=(1,) * n, sampling=Sampling(), limit=limit) for n, limit in sizes
    ]
    groups = list(micro_batches(rows, size=size, max_tokens=max_tokens))
    assert sorted(map(id, rows)) == sorted(id(row) for group in groups for row in group)
    for group in groups:
        assert 1 <= len(group) <= size
        cells = len(group) * max(len(row.prompt) + row.limit for row in group)
        assert cells <= max_tokens or len(group) == 1
    lengths = [len(row.prompt) for group in groups for row in group]
    assert lengths == sorted(lengths)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResidentBase:
    folder = save_model(tmp_path_factory.mktemp("decode") / "m")
    return ResidentBase.load(Path(folder), dtype="float32", device="cpu")


def row_of(base: ResidentBase, text: str, *, limit: int = 20, **sampling: object) -> Row:
    prompt = base.encode(ask(text).query.messages, persona=None)
    return Row(assignment=ask(text), samples=(0,), prompt=prompt, sampling=Sampling(**sampling), limit=limit)


def test_it_stops_at_the_next_step_once_cancelled(base: ResidentBase) -> None:
    row = row_of(base, "never ending")
    decode(base, [row], on_progress=lambda _: None, is_cancelled=lambda row: row.n_written == 3)
    assert (row.n_written, row.finish_reason) == (3, None)


@dataclass
class Counting:
    """The model of `base` that counts the positions it reads."""

    base: ResidentBase
    n_read: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.base, name)

    @property
    def model(self) -> Counting:
        return self

    @property
    def config(self) -> object:
        return self.base.model.config

    def __call__(self, **inputs: object) -> object:
        self.n_read += inputs["input_ids"].numel()
        return self.base.model(**inputs)


def test_equal_prompts_and_shared_beginnings_are_read_once(base: ResidentBase) -> None:
    def n_read(*texts: str) -> int:
        counting = Counting(base)
        rows = [row_of(base, text, limit=1) for text in texts]
        decode(counting, rows, on_progress=lambda _: None, is_cancelled=lambda _: False)
        return counting.n_read

    alone = n_read("a beginning of many words, A")
    assert n_read(*["a beginning of many words, A"] * 5) == alone
    assert n_read(*(f"a beginning of many words, {end}" for end in "ABCDE")) < 2 * alone
    assert n_read("short", "prompt", "differs") > 2 * n_read("short")


def test_finished_rows_are_dropped(base: ResidentBase) -> None:
    """One long row among short ones costs its own steps, not theirs."""
    counting = Counting(base)
    rows = [row_of(base, text, limit=limit) for text, limit in (("a", 2), ("b", 2), ("c", 2), ("d", 12))]
    decode(counting, rows, on_progress=lambda _: None, is_cancelled=lambda _: False)
    assert [row.n_written for row in rows] == [2, 2, 2, 12]
    assert counting.n_read == 4 * len(rows[0].prompt) + 4 * 1 + 10
