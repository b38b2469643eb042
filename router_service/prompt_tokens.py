"""How many tokens a text or a query will take at most, before anything is sent and without any vocabulary."""

from __future__ import annotations

import functools
import math
import re

from router_service.types import AudioPart, Expert, ImagePart, Message, Query, TextPart

__all__ = ["estimate_tokens", "persona_tokens", "text_tokens"]

_LETTERS_PER_TOKEN = 4.0
"""Of a word; a word is one token at least. With its space that is some 1.4 times what English prose really takes."""
_WORD_LETTERS = 12
"""What a run of letters has beyond so many is taken for no word."""
_STRANGE_LETTERS_PER_TOKEN = 1.6
"""Letters in no order (identifiers, encoded data), as vocabularies of 50,000 entries split them."""
_CAPITALS_PER_TOKEN = 1.5
"""Letters of a word in capitals, which vocabularies hold fewer of."""
_TOKENS_PER_INNER_CAPITAL = 0.6
"""More for each change of case inside a run of letters, as in base64."""
_SPACES_PER_TOKEN = 3.5
"""Most spaces are part of the word that follows."""
_BYTES_PER_FOREIGN_TOKEN = 1.25
"""UTF-8 bytes a token in characters of three bytes and more (Chinese, Korean, emoji); one of two bytes is a token."""
_MESSAGE_TOKENS = 8
"""Role marks and separators of a chat template, per message; once more for the turn that is opened."""
_IMAGE_TOKENS = 1600
"""About what hosted models charge for one large image."""
_AUDIO_BYTES_PER_TOKEN = 250
"""Some 32 tokens a second of speech at 64 kbit/s."""

_WORD = re.compile(rb"A?a+|A+")
"""A word in a run's form: small letters, the first perhaps a capital, or capitals alone."""
_FORMS = bytes(0x61 if chr(c).islower() else 0x41 if chr(c).isupper() else 0x20 for c in range(128)) + b" " * 128
"""Every small letter as "a", every capital as "A", all else as a space: texts have few different runs of letters then,
and each form's tokens are worked out once."""
_REMEMBERED_LETTERS = 32
_REMEMBERED_FORMS = 4096
"""Longer runs of letters are rare and take their room, and what has so many forms is no prose: counted anew each time.
"""
_FOREIGN = bytes(range(0x80, 0x100))
_TWO_BYTE_LEADS = bytes(range(0xC2, 0xE0))
_DECIMALS = 6
"""Fractions of tokens are summed in the order of a text's runs: what that order moves is rounded away."""


def estimate_tokens(query: Query) -> int:
    """Prompt tokens of the query, estimated on the careful side: text, names, images, audio, tools and the JSON schema
    of the answer; persona apart.

    Words count 4 letters to a token, letters in no order 1.6; each digit, mark of punctuation and line break is a
    token, and text outside ASCII counts by its bytes. No vocabulary is loaded, so this bounds what real texts take, not
    what the worst text could: short words of random letters take up to twice as many.
    """
    tokens = float(_MESSAGE_TOKENS)
    for message in query.messages:
        tokens += _MESSAGE_TOKENS + _message_tokens(message)
    for definition in (*query.tools, query.task_format.json_schema or ""):
        tokens += _text_tokens(definition)
    return math.ceil(round(tokens, _DECIMALS))


def text_tokens(text: str) -> int:
    """Tokens of a text, estimated on the same careful side, rounded up."""
    return math.ceil(round(_text_tokens(text), _DECIMALS))


def persona_tokens(expert: Expert) -> int:
    """Tokens of the system message that the expert's persona adds; 0 where it has none."""
    return _persona_tokens(expert.persona) if expert.persona else 0


@functools.lru_cache(maxsize=4096)
def _persona_tokens(persona: str) -> int:
    return math.ceil(round(_MESSAGE_TOKENS + _text_tokens(persona), _DECIMALS))


def _message_tokens(message: Message) -> float:
    tokens = _text_tokens(message.name or "")
    if isinstance(message.content, str):
        tokens += _text_tokens(message.content)
    else:
        tokens += sum(_part_tokens(part) for part in message.content)
    return tokens + sum(_text_tokens(call.name + call.arguments) + _MESSAGE_TOKENS for call in message.tool_calls)


def _part_tokens(part: TextPart | ImagePart | AudioPart) -> float:
    if isinstance(part, TextPart):
        return _text_tokens(part.text)
    return _IMAGE_TOKENS if isinstance(part, ImagePart) else len(part.data) * 0.75 / _AUDIO_BYTES_PER_TOKEN


class _RunTokens(dict[bytes, float]):
    """Tokens of a run of letters, given as its form in "a" and "A"; each of the usual forms is worked out once."""

    def __missing__(self, form: bytes) -> float:
        words = _WORD.findall(form)
        inner_capitals = len(words) - 1
        tokens = sum(_word_tokens(len(word), in_capitals=word.endswith(b"A")) for word in words)
        tokens += inner_capitals * _TOKENS_PER_INNER_CAPITAL
        if len(form) <= _REMEMBERED_LETTERS and len(self) < _REMEMBERED_FORMS:
            self[form] = tokens
        return tokens


_RUN_TOKENS = _RunTokens()


def _text_tokens(text: str) -> float:
    if not text:
        return 0.0
    data = text.encode("utf-8", errors="replace")
    forms = data.translate(_FORMS)
    letters = sum(map(_RUN_TOKENS.__getitem__, forms.split()))
    n_spaces = data.count(b" ")
    n_foreign = 0 if data.isascii() else _count(data, _FOREIGN)
    marks = forms.count(b" ") - n_spaces - n_foreign  # each a token of its own, as several vocabularies have it
    two_byte = _count(data, _TWO_BYTE_LEADS) if n_foreign else 0
    foreign = two_byte + (n_foreign - 2 * two_byte) / _BYTES_PER_FOREIGN_TOKEN
    return letters + n_spaces / _SPACES_PER_TOKEN + marks + foreign


def _word_tokens(length: int, *, in_capitals: bool) -> float:
    if in_capitals:
        return max(1.0, length / _CAPITALS_PER_TOKEN)
    beyond = max(0, length - _WORD_LETTERS)
    return max(1.0, (length - beyond) / _LETTERS_PER_TOKEN + beyond / _STRANGE_LETTERS_PER_TOKEN)


def _count(data: bytes, among: bytes) -> int:
    return len(data) - len(data.translate(None, among))
