"""Lays the members' completions out as drafts for an LLM to read: as data, without names, in drawn order, to size.

A draft may say anything, also "ignore the others": so each stands between marks that its author could not know, under
a number that tells nothing of who wrote it, at a place that the seed draws, and the prompts say that what stands
between the marks is data. Reasoning blocks are left out. Drafts share the reader's window fairly, and whoever has to be
cut is named in the notes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from aggregators.extract import without_thoughts
from router_service.prompt_tokens import text_tokens
from router_service.types import Completion, Panel, stable_seed

__all__ = ["Draft", "DraftSheet", "fair_shares", "lay_out"]

_CUT = "\n[...]\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One member's text as it is shown: `number` counts from 1 in the order shown; `is_cut` where some is missing."""

    number: int
    member: Completion
    shown: str
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSheet:
    """All drafts as one text for `$drafts`, the mark around each for `$mark`, and what the caller should know."""

    drafts: tuple[Draft, ...]
    text: str
    mark: str
    notes: tuple[str, ...] = ()

    def member(self, number: int) -> Completion | None:
        """Whose draft bears this number; None where there is none."""
        return self.drafts[number - 1].member if 1 <= number <= len(self.drafts) else None


def lay_out(
    panel: Panel, members: Sequence[Completion], *, stage: str, room_tokens: int, is_guarded: bool = True
) -> DraftSheet:
    """The members' texts without thoughts, each between marks; empty ones are skipped, and numbers have no gaps.

    A member of whom only the extracted answer is known drafts just that. The order is drawn from the panel's seed and
    `stage`, whatever the order of `members`. Short drafts stay whole, and long ones share what is left of
    `room_tokens` evenly; a draft that is cut keeps its beginning and, twice as long, its end, where the answer is.
    Without `is_guarded`, headings stand in the place of marks and the order is the members' (Mixture-of-Agents as
    released): for measuring what the guards are worth.
    """
    written = [(m, text) for m in members if (text := without_thoughts(m.text) or (m.extracted or "").strip())]
    if is_guarded:
        written.sort(key=lambda item: (item[0].expert_id, item[0].sample, item[1]))
        random.Random(stable_seed(panel.decision.seed, panel.query.id, stage)).shuffle(written)
    lengths = [text_tokens(text) for _, text in written]
    shares = fair_shares(lengths, room_tokens)
    drafts = []
    for number, ((member, text), length, share) in enumerate(zip(written, lengths, shares, strict=True), start=1):
        shown = text if length <= share else _cut(text, round(len(text) * share / length))
        drafts.append(Draft(number=number, member=member, shown=shown, is_cut=length > share))
    mark = _mark([text for _, text in written], panel)
    return DraftSheet(
        drafts=tuple(drafts),
        text="\n\n".join(_rendered(draft, mark if is_guarded else None) for draft in drafts),
        mark=mark,
        notes=_notes(drafts, stage),
    )


def fair_shares(lengths: Sequence[int], budget: int) -> list[int]:
    """How much of each length fits in `budget`: nothing is cut that is no longer than an even share of what is left."""
    shares = [0] * len(lengths)
    left = budget
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for done, index in enumerate(by_length):
        shares[index] = min(lengths[index], left // (len(lengths) - done))
        left -= shares[index]
    return shares


def _rendered(draft: Draft, mark: str | None) -> str:
    if mark is None:
        return f"Draft {draft.number}:\n{draft.shown}"
    return f"[{mark} draft {draft.number}]\n{draft.shown}\n[{mark} end of draft {draft.number}]"


def _mark(texts: Sequence[str], panel: Panel) -> str:
    """A word that no draft holds: it hangs on all drafts together, so the author of one could not foresee it."""
    seed = f"{panel.decision.seed}\x1f{panel.query.id}"
    for attempt in range(100):
        digest = hashlib.blake2b("\x1f".join([seed, str(attempt), *texts]).encode("utf-8", "replace"), digest_size=4)
        mark = digest.hexdigest().upper()
        if not any(mark in text for text in texts):
            return mark
    return mark


def _cut(draft: str, share: int) -> str:
    kept = max(0, share - len(_CUT))
    head = kept // 3
    tail = kept - head
    return draft[:head] + _CUT + (draft[-tail:] if tail else "")


def _notes(drafts: Sequence[Draft], stage: str) -> tuple[str, ...]:
    cut = [draft for draft in drafts if draft.is_cut]
    if not cut:
        return ()
    return (f"{len(cut)} of {len(drafts)} drafts were cut to fit into the window of {stage}'s expert",)
