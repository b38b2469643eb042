"""Reads which of several numbered drafts a judge has picked out of what it wrote."""

from __future__ import annotations

import re

from aggregators.extract import without_thoughts

__all__ = ["TIE", "read_pick"]

TIE = 0
"""What a judge picks that finds none better than the other."""

_STATED = re.compile(
    r"\b(?:best|better|winner|pick|choose|chosen|choice|prefer(?:red)?|verdict|answer)\b"
    r"[^\d\n]{0,40}?(?P<number>\b\d{1,3}\b|\btie\b)",
    re.IGNORECASE,
)
_PRAISED = re.compile(
    r"\bdraft\s*\#?(\d{1,3})\s+(?:is|was|seems|looks)\s+(?:the\s+)?(?:best|better|right|correct)\b", re.I
)
_NAMED = re.compile(r"(?<![\w.])(\d{1,3})(?![\w]|\.\d)")
_TIED = re.compile(r"\b(?:tie|tied|neither|equally good)\b", re.IGNORECASE)


def read_pick(text: str, n_drafts: int) -> int | None:
    """The number picked, from 1 to `n_drafts`; `TIE` for none; None where that cannot be told.

    A statement counts ("Best: 2", "Draft 2 is better"), the last where there are several; without one the only number
    in range that is named. Thoughts are left out first.
    """
    said = without_thoughts(text).replace("*", "").replace("`", "")
    stated = [(found.start(), found["number"].lower()) for found in _STATED.finditer(said)]
    stated += [(found.start(), found[1]) for found in _PRAISED.finditer(said)]
    for _, number in sorted(stated, reverse=True):
        if number == "tie":
            return TIE
        if 1 <= int(number) <= n_drafts:
            return int(number)
    if _TIED.search(said):
        return TIE
    named = {int(number) for number in _NAMED.findall(said) if 1 <= int(number) <= n_drafts}
    return named.pop() if len(named) == 1 else None
