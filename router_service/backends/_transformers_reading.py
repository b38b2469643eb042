"""Reads given texts with a causal language model: how likely each is as the answer to its query, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from router_service.backends._text_requests import require_text_alone
from router_service.backends._transformers_decode import Batch, LanguageModel
from router_service.backends._transformers_model import ResidentBase
from router_service.backends._transformers_rows import prompt_of, room_after
from router_service.types import Expert, Query, TextScore

__all__ = ["ReadRow", "read", "read_rows_of"]

_MOST_LOGITS: Final = 1 << 26
"""Logits held at once (256 MiB in float32): a long text is read in pieces, whatever the size of the vocabulary."""


@dataclass(slots=True, kw_only=True, eq=False)
class ReadRow:
    """One text being read after its prompt, both as token ids; `logprob_sum` (nats, temperature 1) once it is read."""

    prompt: tuple[int, ...]
    text: tuple[int, ...]
    logprob_sum: float = 0.0

    @property
    def limit(self) -> int:
        """The tokens that it takes after its prompt."""
        return len(self.text)

    @property
    def score(self) -> TextScore:
        """What was read."""
        return TextScore(logprob_sum=self.logprob_sum, tokens=len(self.text))


def read_rows_of(expert: Expert, texts: Sequence[tuple[Query, str]], base: ResidentBase) -> list[ReadRow]:
    """One row per text. Raises `ExpertRefused` where this expert cannot read one of them: image, audio, tools, a
    conversation that its chat template does not take, a text that leaves no token of its window."""
    rows = []
    for query, said in texts:
        require_text_alone(expert, query)
        row = ReadRow(prompt=prompt_of(expert, query, base), text=base.encode_text(said))
        if row.text:
            room_after(expert, base, n_prompt=len(row.prompt) + len(row.text))
        rows.append(row)
    return rows


def read(
    language_model: LanguageModel,
    rows: Sequence[ReadRow],
    *,
    is_cancelled: Callable[[ReadRow], bool],
    most_logits: int = _MOST_LOGITS,
) -> None:
    """Set every row's `logprob_sum`; none may be empty. Stops early once all of them are cancelled.

    Prompts are padded on the left and texts on the right, so that each text follows its own prompt; equal prompts are
    read once. What is found does not depend on the rows beside it, up to the rounding of the matrix products.
    """
    import torch

    with torch.inference_mode():
        width = max(len(row.text) for row in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        is_text = torch.zeros((len(rows), width), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row.text)] = torch.tensor(row.text)
            is_text[i, : len(row.text)] = True
        ids, is_text = ids.to(language_model.device), is_text.to(language_model.device)
        batch = Batch(language_model, [row.prompt for row in rows])
        logits = batch.logits[:, None]  # what may come first, after the prompt
        sums = torch.zeros(len(rows), dtype=torch.float64, device=ids.device)
        piece = max(1, most_logits // (len(rows) * logits.shape[-1]))
        done = 0
        while True:
            ahead = slice(done, done + logits.shape[1])
            found = logits.float().log_softmax(-1).gather(-1, ids[:, ahead, None]).squeeze(-1)
            sums += found.double().masked_fill(~is_text[:, ahead], 0.0).sum(1)
            done += logits.shape[1]
            if done >= width or all(map(is_cancelled, rows)):
                break
            logits = batch.read(ids[:, done - 1 : min(done - 1 + piece, width - 1)])
        for row, total in zip(rows, sums.tolist(), strict=True):
            row.logprob_sum = total
