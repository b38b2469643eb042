"""Reads marked parts out of what an LLM wrote, however loosely it kept to the form: steps, and a final answer.

What was written is only ever searched, never run: the released code of Multi-expert Prompting hands model output to
Python's `eval`.
"""

from __future__ import annotations

import re

from aggregators.extract import without_thoughts

__all__ = ["after_last", "steps"]

_STEP = re.compile(
    r"^[\s>#*_-]{0,8}step\s{0,3}(\d{1,2})[*_]{0,3}\s{0,3}[:.)\u2013-]?[*_]{0,3}", re.IGNORECASE | re.MULTILINE
)

_MOST_MARKS = 50
"""Marks looked at from the end."""


def after_last(text: str, mark: re.Pattern[str]) -> str | None:
    """What stands after the last `mark` that anything stands after; None where there is none. Thoughts are left out."""
    for _, rest in reversed(_parts(without_thoughts(text), mark)[-_MOST_MARKS:]):
        if rest.strip("*_#> \n\t"):
            return rest
    return None


def steps(text: str) -> dict[int, str]:
    """The text under each heading "Step N", by its number, up to the next heading; of two with one number the last.

    Steps may be missing, bold, or headings of Markdown; one with nothing under it is left out.
    """
    found = {int(heading[1]): step for heading, step in _parts(without_thoughts(text), _STEP)}
    return {number: step for number, step in found.items() if step}


def _parts(said: str, mark: re.Pattern[str]) -> list[tuple[re.Match[str], str]]:
    """Every place of `mark`, and what stands between it and the next, stripped."""
    found = list(mark.finditer(said))
    ends = [match.start() for match in found[1:]] + [len(said)]
    return [(match, said[match.end() : end].strip()) for match, end in zip(found, ends, strict=False)]
