"""Lays the members' completions out as drafts for an LLM to read: as data, without names, in drawn order, to size.

A draft may say anything, also "ignore the others": so each stands quoted (`aggregators.quoting`) between marks that its
author could not know, under a number that tells nothing of who wrote it, at a place that the seed draws, and the
prompts say that what stands between the marks is data. Reasoning blocks are left out. Drafts share the reader's window
fairly, and whoever has to be cut is named in the notes.

A draft that speaks to its reader instead of answering (`aggregators.pleading`) is shown by its answer alone wherever
another draft does not: its word is taken, not its vote, and the notes say so.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aggregators.extract import without_thoughts
from aggregators.pleading import pleads
from aggregators.quoting import clean, quoted
from router_service.prompt_tokens import text_tokens
from router_service.types import Completion, Panel, stable_seed

__all__ = ["Draft", "DraftSheet", "fair_shares", "lay_out"]

_CUT = "\n[...]\n"

_LEAST_TOKENS = 24
"""A draft cut to less says nothing any more."""

_MARK_LETTERS = str.maketrans("0123456789abcdef", "BCDFGHJKLMNPQRST")
"""Marks are letters alone, lest a number or an option be read into them, and spell nothing."""

_GAP_TOKENS = 2
"""The empty line between two drafts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One member's text as it is shown: `number` counts from 1 in the order shown; `is_cut` where some is missing,
    `is_reduced` where only its answer is shown."""

    number: int
    member: Completion
    shown: str
    is_cut: bool = False
    is_reduced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSheet:
    """All drafts as one text for `$drafts`, the mark around each for `$mark`, and what the caller should know.

    Where the room is too small to say anything, `is_legible` is False and the text may exceed it: do not send it.
    """

    drafts: tuple[Draft, ...]
    text: str
    mark: str
    notes: tuple[str, ...] = ()
    is_legible: bool = True

    def member(self, number: int) -> Completion | None:
        """Whose draft bears this number; None where there is none."""
        return self.drafts[number - 1].member if 1 <= number <= len(self.drafts) else None


def lay_out(
    panel: Panel,
    members: Sequence[Completion],
    *,
    stage: str,
    room_tokens: int,
    is_guarded: bool = True,
    order: Literal["drawn", "given"] = "drawn",
) -> DraftSheet:
    """The members' texts without thoughts, each between marks; empty ones are skipped, and numbers have no gaps.

    A member of whom only the extracted answer is known drafts just that. The order is drawn from the panel's seed and
    `stage`, whatever the order of `members`, unless it is `given`. Short drafts stay whole, and long ones share what is
    left of `room_tokens` (marks included) evenly; one that is cut keeps its beginning and, twice as long, its end,
    where the answer is. Without `is_guarded`, headings stand in the place of marks, nothing is quoted, and the order is
    the members' (Mixture-of-Agents as released): for measuring what the guards are worth.
    """
    written = _written(members, is_guarded=is_guarded)
    if is_guarded and order == "drawn":
        written.sort(key=lambda draft: (draft.member.expert_id, draft.member.sample, draft.shown))
        random.Random(stable_seed(panel.decision.seed, panel.query.id, stage)).shuffle(written)
    mark = _mark([draft.shown for draft in written], panel)
    frame = _Frame(mark if is_guarded else None)
    drafts = _numbered_and_cut(written, room_tokens, frame)
    return DraftSheet(
        drafts=tuple(drafts),
        text="\n\n".join(frame.around(draft.number, draft.shown) for draft in drafts),
        mark=mark,
        notes=_notes(drafts, stage),
        is_legible=all(not draft.is_cut or text_tokens(draft.shown) >= _LEAST_TOKENS for draft in drafts),
    )


def _written(members: Sequence[Completion], *, is_guarded: bool) -> list[Draft]:
    """The drafts whole, unnumbered as yet; guarded, they are cleaned, and those that plead reduced to their answers."""
    said = [(m, text) for m in members if (text := without_thoughts(m.text) or (m.extracted or "").strip())]
    if not is_guarded:
        return [Draft(number=0, member=member, shown=text) for member, text in said]
    pleading = [pleads(text) for _, text in said]
    drafts = []
    for (member, text), is_plea in zip(said, pleading, strict=True):
        answer = (member.extracted or "").strip()
        is_reduced = is_plea and not all(pleading) and 0 < len(answer) < len(text)
        if shown := clean(answer if is_reduced else text):
            drafts.append(Draft(number=0, member=member, shown=shown, is_reduced=is_reduced))
    return drafts


def _numbered_and_cut(written: Sequence[Draft], room_tokens: int, frame: _Frame) -> list[Draft]:
    wanted = [text_tokens(frame.around(n, draft.shown)) + _GAP_TOKENS for n, draft in enumerate(written, start=1)]
    drafts = []
    for number, share in enumerate(fair_shares(wanted, room_tokens), start=1):
        draft, is_cut = written[number - 1], wanted[number - 1] > share
        shown = _fitted(draft.shown, number, share=share - _GAP_TOKENS, frame=frame) if is_cut else draft.shown
        drafts.append(replace(draft, number=number, shown=shown, is_cut=is_cut))
    return drafts


def fair_shares(lengths: Sequence[int], budget: int) -> list[int]:
    """How much of each length fits in `budget`: nothing is cut that is no longer than an even share of what is left."""
    shares = [0] * len(lengths)
    left = max(0, budget)
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for done, index in enumerate(by_length):
        shares[index] = min(lengths[index], left // (len(lengths) - done))
        left -= shares[index]
    return shares


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around a draft: marks and quoting, or a heading where it has no mark."""

    mark: str | None

    def around(self, number: int, text: str) -> str:
        if self.mark is None:
            return f"Draft {number}:\n{text}"
        return f"[{self.mark} draft {number}]\n{quoted(text)}\n[{self.mark} end of draft {number}]"


def _mark(texts: Sequence[str], panel: Panel) -> str:
    """A word that no draft holds: it hangs on all drafts together, so the author of one could not foresee it."""
    seed = f"{panel.decision.seed}\x1f{panel.query.id}"
    held = [text.upper() for text in texts]
    for attempt in range(100):
        digest = hashlib.blake2b("\x1f".join([seed, str(attempt), *texts]).encode("utf-8", "replace"), digest_size=4)
        mark = digest.hexdigest().translate(_MARK_LETTERS)
        if not any(mark in text for text in held):
            return mark
    return mark


def _fitted(text: str, number: int, *, share: int, frame: _Frame) -> str:
    """As much of a text as fits, framed, into `share` tokens; nothing where the frame alone does not."""
    return _longest(
        lambda chars: _cut(text, chars), len(text), lambda cut: text_tokens(frame.around(number, cut)) <= share
    )


def _longest(cut: Callable[[int], str], chars: int, fits: Callable[[str], bool]) -> str:
    """By halving: the cut that keeps most characters and still fits."""
    low, high = 0, chars
    while low < high:
        middle = (low + high + 1) // 2
        if fits(cut(middle)):
            low = middle
        else:
            high = middle - 1
    return cut(low) if low else ""


def _cut(draft: str, kept: int) -> str:
    head = kept // 3
    tail = kept - head
    return draft[:head] + _CUT + (draft[-tail:] if tail else "")


def _notes(drafts: Sequence[Draft], stage: str) -> tuple[str, ...]:
    notes = []
    if cut := sum(draft.is_cut for draft in drafts):
        notes.append(f"{cut} of {len(drafts)} drafts were cut to fit into the window of {stage}'s expert")
    if reduced := sum(draft.is_reduced for draft in drafts):
        notes.append(f"{reduced} of {len(drafts)} drafts spoke to their reader and were shown by their answers alone")
    return tuple(notes)
