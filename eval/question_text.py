"""Says when two questions are the same text: what splits and leak audits go by."""

from __future__ import annotations

import unicodedata

__all__ = ["normalised_text"]

_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "−": "-", "\u00ad": None}
)
_CLOSING = ".?!:"


def normalised_text(text: str) -> str:
    """`text` without what two copies of a question may differ in: case, white space, typographic quotes and dashes,
    compatibility characters (NFKC) and the punctuation at the end. Signs within stay: "2 + 2" is not "2 - 2".
    """
    plain = unicodedata.normalize("NFKC", text.translate(_PLAIN)).casefold()
    return " ".join(plain.split()).rstrip(_CLOSING + " ")
