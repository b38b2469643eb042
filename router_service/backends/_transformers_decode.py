"""Writes texts with a causal language model, many rows at a time: prefill, cached steps, per-row seeds and stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from router_service.backends._text_requests import is_greedy
from router_service.types import Assignment, Sampling

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "LanguageModel", "Row", "decode", "micro_batches"]

_SHARED_FROM_TOKENS: Final = 8
"""A common beginning of all prompts shorter than this is not worth a forward pass of its own."""

_DROP_SHARE: Final = 4
"""Finished rows are dropped once they are this fraction (1/4) of the batch: each drop copies the whole cache."""

_TOP_FIRST: Final = 1024
"""Tokens looked at for the nucleus before the whole vocabulary is sorted."""


class LanguageModel(Protocol):
    """What decoding needs of a model in memory: a causal LM of transformers, its tokenizer and its end tokens."""

    model: Any
    tokenizer: Any
    end_ids: frozenset[int]
    device: str


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One text being written: for one sample of an assignment, or for several that must come out the same.

    `limit` is the most tokens it may have; `tokens` holds what was written without the end token, `n_written` counts
    that one too; `logprob_sum` adds up the model's log-probabilities (nats, temperature 1) of all written tokens.
    """

    assignment: Assignment
    samples: tuple[int, ...]
    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int
    seed: int = 0
    tokens: list[int] = field(default_factory=list)
    n_written: int = 0
    logprob_sum: float = 0.0
    text: str = ""
    finish_reason: str | None = None
    shown: int = 0
    generator: torch.Generator | None = None

    @property
    def is_greedy(self) -> bool:
        """True where the most probable token is always taken."""
        return is_greedy(self.sampling)

    @property
    def is_plain(self) -> bool:
        """True where the model's own best token is the answer: greedy, and no penalties."""
        return self.is_greedy and not self.sampling.presence_penalty and not self.sampling.frequency_penalty

    def take(self, token: int, *, logprob: float, language_model: LanguageModel) -> None:
        """Add the next token; sets `finish_reason` at an end token, a stop text or the limit."""
        self.n_written += 1
        self.logprob_sum += logprob
        if token in language_model.end_ids:
            self.finish_reason = "stop"
        else:
            self.tokens.append(token)
            if len(self.tokens) >= self.limit:
                self.finish_reason = "length"
        if self.finish_reason or self.sampling.stop or self.assignment.streams:
            self._read(language_model.tokenizer)

    def _read(self, tokenizer: Any) -> None:
        self.text = tokenizer.decode(self.tokens, skip_special_tokens=True)
        found = [at for stop in self.sampling.stop if (at := self.text.find(stop)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish_reason = "stop"

    def new_text(self) -> str:
        """The text not shown yet; what may still turn into a stop text or another character is held back."""
        end = len(self.text)
        if self.finish_reason is None:
            end = len(self.text.rstrip("\ufffd"))
            end = min((_safe_end(self.text, end, stop) for stop in self.sampling.stop), default=end)
        piece = self.text[self.shown : end]
        self.shown = max(self.shown, end)
        return piece


def _safe_end(text: str, end: int, stop: str) -> int:
    """Where the longest tail of `text[:end]` starts that is the beginning of `stop`; `end` where there is none."""
    for size in range(min(len(stop) - 1, end), 0, -1):
        if text[:end].endswith(stop[:size]):
            return end - size
    return end


class _Cells(Protocol):
    """What takes cells of cache: a prompt, and at most `limit` tokens after it."""

    prompt: tuple[int, ...]

    @property
    def limit(self) -> int: ...


R = TypeVar("R", bound=_Cells)


def micro_batches(rows: Iterable[R], *, size: int, max_tokens: int) -> Iterator[list[R]]:
    """Rows in order of prompt length, in groups of at most `size` rows and `max_tokens` cells of cache.

    A row that alone needs more than `max_tokens` gets a group of its own.
    """
    group: list[R] = []
    reach = 0
    for row in sorted(rows, key=lambda row: len(row.prompt)):
        wider = max(reach, len(row.prompt) + row.limit)
        if group and (len(group) == size or wider * (len(group) + 1) > max_tokens):
            yield group
            group, wider = [], len(row.prompt) + row.limit
        group.append(row)
        reach = wider
    if group:
        yield group


def decode(
    language_model: LanguageModel,
    rows: Sequence[Row],
    *,
    on_progress: Callable[[Row], None],
    is_cancelled: Callable[[Row], bool],
) -> None:
    """Write every row to its end; `on_progress` is called after each token of a row that is streamed or finished. A row
    that is cancelled is left at the next token.

    What a row says does not depend on the rows beside it, up to the rounding of the matrix products.
    """
    import torch

    with torch.inference_mode():
        live = list(rows)
        batch = Batch(language_model, [row.prompt for row in live])
        while True:
            tokens = _write(live, batch.logits, language_model=language_model, on_progress=on_progress)
            going = [i for i, row in enumerate(live) if row.finish_reason is None and not is_cancelled(row)]
            if not going:
                return
            if (len(live) - len(going)) * _DROP_SHARE >= len(live):
                batch.keep(going)
                live = [live[i] for i in going]
                tokens = [tokens[i] for i in going]
            batch.step(tokens)


def _write(
    rows: Sequence[Row], logits: torch.Tensor, *, language_model: LanguageModel, on_progress: Callable[[Row], None]
) -> list[int]:
    """Choose the next token of every row that is still being written; returns one token per row."""
    logprobs = logits.float().log_softmax(-1)
    best, tokens = logprobs.max(-1)
    values: list[float] = best.tolist()
    chosen: list[int] = tokens.tolist()
    for i, row in enumerate(rows):
        if row.finish_reason is not None:
            continue
        if not row.is_plain:
            chosen[i] = _draw(logprobs[i], row)
            values[i] = float(logprobs[i, chosen[i]])
        row.take(chosen[i], logprob=values[i], language_model=language_model)
        if row.finish_reason is not None or row.assignment.streams:
            on_progress(row)
    return chosen


def _draw(logprobs: torch.Tensor, row: Row) -> int:
    """One token for a row with a temperature or penalties, from the row's own random numbers.

    `logprobs` is [vocab]. Penalties as in the OpenAI API: a token's score falls by `presence + count * frequency` once
    it has been written. Nucleus: the fewest most probable tokens that hold `top_p` (arXiv:1904.09751). The draw
    inverts the distribution in order of token number, so that near-ties in the ranking hardly ever move it.
    """
    import torch

    scores = logprobs.double().cpu()
    sampling = row.sampling
    if row.tokens and (sampling.presence_penalty or sampling.frequency_penalty):
        seen, counts = torch.tensor(row.tokens).unique(return_counts=True)
        scores[seen] -= (sampling.presence_penalty or 0.0) + counts * (sampling.frequency_penalty or 0.0)
    if row.is_greedy:
        return int(scores.argmax())
    probabilities = (scores / (sampling.temperature or 1.0)).softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1.0:
        probabilities = _nucleus(probabilities, sampling.top_p)
    if row.generator is None:
        row.generator = torch.Generator().manual_seed(row.seed)
    cumulated = probabilities.cumsum(0)
    point = torch.rand((), generator=row.generator, dtype=torch.float64) * cumulated[-1]
    return min(int(torch.searchsorted(cumulated, point, right=True)), int(probabilities.nonzero()[-1]))


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    import torch

    top, ids = probabilities.topk(min(_TOP_FIRST, probabilities.numel()))
    if float(top.sum()) < top_p:
        top, ids = probabilities.sort(descending=True)
    is_kept = top.cumsum(0) - top < top_p
    is_kept[0] = True
    return torch.zeros_like(probabilities).index_copy_(0, ids[is_kept], top[is_kept])


def _n_shared(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all prompts begin with alike: what the first and the last in sorting order share, all do."""
    first, last = min(prompts), max(prompts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


class Batch:
    """The tensors of the rows being written or read: key-value cache, mask [rows, width], position [rows, 1], logits
    [rows, vocab] of the next token.

    Prompts are padded on the left. Equal prompts are read once, and so is a beginning that all of them share.
    """

    def __init__(self, language_model: LanguageModel, prompts: Sequence[tuple[int, ...]]) -> None:
        import torch
        from transformers import DynamicCache

        self._language_model = language_model
        self.cache = DynamicCache(config=language_model.model.config)
        unique = list(dict.fromkeys(prompts))
        n_shared = self._read_shared(unique)
        width = max(map(len, unique)) - n_shared
        ids = torch.zeros((len(unique), width), dtype=torch.long)
        mask = torch.zeros((len(unique), width), dtype=torch.long)
        for i, prompt in enumerate(unique):
            ids[i, width - (len(prompt) - n_shared) :] = torch.tensor(prompt[n_shared:])
            mask[i, width - (len(prompt) - n_shared) :] = 1
        positions = (n_shared + mask.cumsum(-1) - 1).clamp(min=0)
        self.mask = torch.cat([torch.ones((len(unique), n_shared), dtype=torch.long), mask], dim=1).to(self._device)
        self.position = positions[:, -1:].to(self._device)
        self.logits = self._forward(ids.to(self._device), positions.to(self._device))[:, -1]
        if len(unique) < len(prompts):
            place = {prompt: i for i, prompt in enumerate(unique)}
            self.keep([place[prompt] for prompt in prompts])

    @property
    def _device(self) -> str:
        return self._language_model.device

    def _read_shared(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """Read the beginning that all prompts share, once; returns its length in tokens."""
        import torch

        # Every prompt keeps one token to read, and a layer with a sliding window would count the padding after the
        # shared part as text.
        n_shared = min(_n_shared(prompts), min(map(len, prompts)) - 1)
        if len(prompts) == 1 or n_shared < _SHARED_FROM_TOKENS or any(self.cache.is_sliding):
            return 0
        ids = torch.tensor([prompts[0][:n_shared]], device=self._device)
        self.mask = torch.ones_like(ids)
        self._forward(ids, torch.arange(n_shared, device=self._device)[None])
        self.cache.batch_repeat_interleave(len(prompts))
        return n_shared

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, *, n_logits: int = 1) -> torch.Tensor:
        output = self._language_model.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=n_logits,
        )
        logits: torch.Tensor = output.logits
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only (or several times with one), in this order."""
        import torch

        index = torch.tensor(rows, device=self._device)
        self.cache.batch_select_indices(index)
        self.mask, self.position, self.logits = self.mask[index], self.position[index], self.logits[index]

    def step(self, tokens: Sequence[int]) -> None:
        """Read one more token per row."""
        import torch

        self.logits = self.read(torch.tensor(tokens, device=self._device)[:, None])[:, -1]

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """Read some more tokens per row, `ids` [rows, tokens]; returns the logits [rows, tokens, vocab] after each.

        A row that ends before the others is padded on the right: what it reads after its end nobody looks at.
        """
        import torch

        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        positions = self.position + torch.arange(1, ids.shape[1] + 1, device=self._device)
        self.position = positions[:, -1:]
        return self._forward(ids, positions, n_logits=ids.shape[1])
