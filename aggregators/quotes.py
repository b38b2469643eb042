"""Checks what debaters quote, outside any LLM: a quote is in its source word for word, or it is marked as unverified.

After Khan et al. (2024), "Debating with More Persuasive LLMs Leads to More Truthful Answers": debaters put quotes
between tags, and the judge is told to trust only those that a comparison of texts has verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["checked", "is_verbatim"]

_QUOTE = re.compile(r"<\s*quote\s*>(.*?)(?:<\s*/\s*quote\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_FORGED = re.compile(r"<\s*/?\s*(?:un)?verified\b[^>]*>?|<\s*/?\s*quote\b[^>]*>?", re.IGNORECASE)
_AROUND = " \t\n\"'`“”‘’«»"


def is_verbatim(quote: str, source: str) -> bool:
    """Whether `quote` stands in `source` as whole words, every character the same but for white space.

    "cat sat" stands in "the cat sat"; "cats sat" and "at sat" do not. An empty quote stands nowhere.
    """
    wanted, text = " ".join(quote.split()), " ".join(source.split())
    if not wanted:
        return False
    before = r"(?<!\w)" if wanted[0].isalnum() else ""
    after = r"(?!\w)" if wanted[-1].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, text) is not None


def checked(argument: str, sources: Sequence[tuple[str, str]]) -> str:
    """The argument with every `<quote>` replaced: by `<verified from="NAME">` where it stands in a source of that name
    (`sources` are names and texts; the first such one), else by `<unverified>`. Tags of that kind that the argument
    brought along are removed."""
    parts, end = [], 0
    for quote in _QUOTE.finditer(argument):
        parts += [_unforged(argument[end : quote.start()]), _marked(_unforged(quote[1]), sources)]
        end = quote.end()
    return "".join([*parts, _unforged(argument[end:])])


def _unforged(text: str) -> str:
    """`text` without tags; where taking some out has put others together ("<veri<quote x>fied>"), without any "<"."""
    said = _FORGED.sub("", text)
    return said if _FORGED.search(said) is None else said.replace("<", "")


def _marked(quote: str, sources: Sequence[tuple[str, str]]) -> str:
    said = quote.strip(_AROUND)
    name = next((name for name, source in sources if is_verbatim(said, source)), None)
    return f"<unverified>{said}</unverified>" if name is None else f'<verified from="{name}">{said}</verified>'
