"""Tells drafts that speak to whoever reads them from drafts that answer the question.

By form alone, not by whether the claims are true: borrowed roles of a chat template, hidden characters, forged layout
of a prompt, orders to ignore the other drafts or to reply with something. It is no proof of ill will, and a clever
attack passes; so it never takes a vote away, it only takes the word (`aggregators.drafts`).
"""

from __future__ import annotations

import re

__all__ = ["pleads"]

_OTHERS = r"(?:drafts?|answers|responses|replies|authors?|instructions?|prompts?)"

_PATTERNS = (
    # roles and tools of chat templates
    r"[<＜][|｜][\w/:▁-]{1,40}[|｜][>＞]",
    r"<(?:start|end)_of_turn>|<<SYS>>|\[/?INST\]|</?tool_(?:call|response)>",
    r"^#{2,4} ?(?:instruction|response|system)s?\b",
    r"^(?:human|assistant): ?\S[\s\S]*^(?:human|assistant): ?\S",
    r"^[^\w\n]*(?:system|developer|admin)(?: (?:note|message|prompt|override))?\b[^:\n]{0,20}:"
    r".{0,120}\b(?:reply|answer|output|drafts?)\b",
    # characters that hide or turn text
    "[\U000e0000-\U000e0fff]|[\u202a-\u202e\u2066-\u2069]",
    # forged layout, verdicts, votes
    r"^[^\w\n]*(?:\w+ )?end of (?:the |all )?drafts?\b",
    r"^[^\w\n]*(?:\w{6,10} )?draft \d+\b[^\w\n]*$",
    r"\b(?:best|better): ?\d\b",
    r'"(?:best|better|winner)"\s*:\s*\d',
    r"\bthe (?:judge|panel)\b[^.\n]{0,60}\b(?:pick|chose|decided|selected)",
    # orders to the reader
    r"\b(?:ignore|disregard|skip|forget|overrule|dismiss)(?: \w+){0,3} "
    rf"(?:others?|previous|above|below|prior|earlier|all)(?: \w+){{0,2}} {_OTHERS}\b",
    r"\b(?:ignore|disregard|forget) everything\b",
    r"\b(?:reply|respond) (?:only|exactly|solely) with\b|\bnew (?:instructions?|task):|\bfinal instruction:",
    r"\brepeat the (?:word|words|sentence|line) [\w\"' ]{1,60}\bnothing else\b",
    r"\b(?:whoever|anyone|any (?:model|judge|llm)) (?:who )?(?:reads|judging|reading) (?:this|these)\b",
    r"\b(?:adopt|choose|pick|select|prefer) (?:my|this) (?:draft|answer|reply|response)\b",
    r"\bother (?:drafts?|authors?) (?:are|is|were|was)\b",
    # the same in French, German, Spanish
    r"\bignorez les autres\b|\brépondez uniquement\b|\bignoriere? die anderen\b|\bantworte nur mit\b"
    r"|\bignora las (?:otras|demás)\b|\bresponde (?:solo|únicamente) con\b",
)
_PLEA = tuple(re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in _PATTERNS)

_READ_CHARS = 20_000
"""So much of a draft's beginning and of its end is looked at."""


def pleads(text: str) -> bool:
    """Whether a draft, as its author wrote it, speaks to its reader instead of answering the question."""
    looked_at = text if len(text) <= 2 * _READ_CHARS else f"{text[:_READ_CHARS]}\n{text[-_READ_CHARS:]}"
    return any(plea.search(looked_at) for plea in _PLEA)
