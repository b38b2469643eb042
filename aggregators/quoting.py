"""Makes a stranger's text safe to quote in a prompt: whatever it holds, a reader sees that it is quoted.

- Every line begins with ">", so no line of it can pass for one of the prompt's own: no heading, no mark, no "System:".
- The marks by which chat templates tell roles apart (`<|im_start|>`, `[INST]`, `<s>`, `<start_of_turn>`) get a space
  behind their bracket. Left whole, a tokenizer reads them as the real thing, wherever they stand.
- Characters that nobody sees (zero width, right-to-left overrides, tags, controls) are replaced by their count.
- Words said many times in a row are said once, with a count: models take what is repeated for true.

Nothing is left out unseen.
"""

from __future__ import annotations

import re

__all__ = ["clean", "quoted"]

_LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"  # controls; tab and line break are none here
    "\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # zero width, direction
    "\ud800-\udfff"  # halves of a character, which no encoder takes
    "\U000e0000-\U000e0fff"  # tags and their variation selectors: whole hidden texts
    "]+"
)
"""The joiners U+200C and U+200D stay, for scripts and emoji need them."""

_ROLE_MARK = re.compile(
    r"""
      [<＜](?=[|｜][\w/:▁-]{1,40}[|｜][>＞])                   # <|im_start|>, <|eot_id|>, and in full width
    | [<＜](?=/?(?:s|bos|eos|pad|unk|mask|cls|sep|user|system|assistant|human)[>＞])
    | [<＜](?=/?[a-z]+(?:_[a-z0-9]+)+[>＞])                      # <start_of_turn>, <tool_call>
    | [<＜](?=[<＜]/?SYS[>＞]{2})
    | \[(?=/?(?:INST|SYSTEM_PROMPT|[A-Z]+_TOOLS|TOOL_[A-Z]+)\])  # [INST], [/INST], [TOOL_CALLS]
    """,
    re.VERBOSE | re.IGNORECASE,
)

_REPEATED = re.compile(r"(?<!\S)(\S++(?:\s++\S++){0,39}?)((?:\s++\1(?!\S)){3,})", re.IGNORECASE)
"""Up to forty words, four times or more in a row."""
_LEAST_CHARS = 8
"""What is shorter is never folded: a row of zeros, dots, closing brackets."""


def clean(text: str) -> str:
    """`text` with plain line breaks, what is unseen shown, role marks broken, and repetitions counted."""
    said = _LINE_BREAKS.sub("\n", text)
    said = _UNSEEN.sub(lambda run: f"[{len(run[0])} unseen]", said)
    said = _ROLE_MARK.sub(lambda mark: mark[0] + " ", said)
    return _REPEATED.sub(_folded, said.strip())


def quoted(text: str) -> str:
    """`text`, cleaned already, with "> " before every line."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _folded(run: re.Match[str]) -> str:
    said, more = run[1], run[2]
    if len(said) < _LEAST_CHARS:
        return run[0]
    times = 1 + len(re.findall(r"\s" + re.escape(said) + r"(?!\S)", more, re.IGNORECASE))
    return f"{said} [said {times} times in a row]"
