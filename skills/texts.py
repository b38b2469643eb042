"""The text of a query that embedders read: the question itself, without the options that its format lists anyway."""

from __future__ import annotations

import re

from router_service.types import Query

__all__ = ["question_text"]

_LABEL = re.compile(r"^\s*[(\[]?[A-Za-z0-9]{1,2}[)\].:]\s+")


def question_text(query: Query) -> str:
    """The last user message up to its options; the whole of it where the format lists none, or where they differ.

    Questions are fitted on as they are written, options apart, so a query must be embedded like that too. The options
    are found by their lines: one after the other, each with a label ("A) ", "(2) ", "c. ") or bare. What stands after
    them, an instruction on how to answer, goes with them.
    """
    options = [" ".join(option.split()) for option in query.task_format.options]
    if not options:
        return query.text
    lines = query.text.splitlines()
    bare = [" ".join(_LABEL.sub("", line).split()) for line in lines]
    whole = [" ".join(line.split()) for line in lines]
    for start in range(1, len(lines) - len(options) + 1):
        here = range(start, start + len(options))
        if all(option in (bare[i], whole[i]) for option, i in zip(options, here, strict=True)):
            return "\n".join(lines[:start]).rstrip()
    return query.text
