"""Has an expert write personas: second-person descriptions of who answers a kind of question best, kept in a pool file.

ExpertPrompting (Xu et al. 2023, arXiv 2305.14688) writes a description for every instruction, from three examples in
the prompt; here it is one for each category or skill, so that each is an expert that can be profiled.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from experts_registry.litellm_pool import is_model_list
from router_service.config import read_yaml
from router_service.errors import ConfigError, UnknownNameError
from router_service.files import write_atomically
from router_service.types import Query, Question, Sampling, TaskFormat, user_query

__all__ = ["group_questions", "persona_name", "pool_with_personas", "read_description", "write_pool", "writing_query"]

_PROMPT = Path(__file__).parent / "persona_writing_v1.md"
_MOST_TOKENS = 256
_TASK_CHARS = 1500
_DESCRIPTION_CHARS = 1200
_LEAST_WORDS = 8

_LABEL = re.compile(r"^[\s*_#\"']*description[\s*_]*:[\s*_\"']*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_HEADER = "# Written by `enlist pool personas`; the personas below are texts like any others, to be read and mended.\n"


def group_questions(
    questions: Sequence[Question], *, by: str, only: Sequence[str] = (), examples: int = 3
) -> dict[str, list[Question]]:
    """The first `examples` questions of each category (or of each skill, `by="skill"`), in order of the names.

    Raises `ConfigError` where no question has any, or one of `only` is not among them.
    """
    groups: dict[str, list[Question]] = {}
    for question in questions:
        labels = question.skills if by == "skill" else (question.category,)
        for label in dict.fromkeys(label for label in labels if label):
            groups.setdefault(label, []).append(question)
    if not groups:
        raise ConfigError(f"none of {len(questions)} questions names a {by}; write it in their field of that name")
    for wanted in only:
        if wanted not in groups:
            raise UnknownNameError(by, wanted, groups)
    return {label: groups[label][:examples] for label in sorted(groups) if not only or label in only}


def persona_name(label: str) -> str:
    """The name of a label's persona: its letters and digits in small letters, all else one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", label.casefold()).strip("-") or "persona"


def writing_query(label: str, questions: Sequence[Question], *, seed: int = 0) -> Query:
    """What the writing expert is asked about one label: three examples, then the label's questions. Greedy."""
    tasks = "\n".join(f"Task: {question.text.strip()[:_TASK_CHARS]}" for question in questions)
    if len(questions) > 1:
        tasks = f"Here is one description for several tasks of one kind ({label}).\n{tasks}"
    text = string.Template(_PROMPT.read_text("utf-8")).substitute(tasks=tasks).strip()
    query = user_query(f"persona/{label}", text, task_format=TaskFormat(), seed=seed)
    sampling = Sampling(temperature=0.0, max_tokens=_MOST_TOKENS, stop=("\nTask:",))
    return Query(id=query.id, messages=query.messages, sampling=sampling, seed=seed)


def read_description(text: str) -> str | None:
    """The description in what the expert wrote, on one line, each sentence once (small models go in circles); None
    where it is none: too short, or not addressed to anybody."""
    said = _LABEL.sub("", text.strip()).split("\n\n", 1)[0]
    sentences = _SENTENCE_END.split(" ".join(said.split("\nTask:", 1)[0].split()).strip("\"'* "))
    words = " ".join(dict.fromkeys(sentences))
    if len(words) > _DESCRIPTION_CHARS:
        words = words[:_DESCRIPTION_CHARS].rsplit(". ", 1)[0].rstrip(".") + "."
    is_addressed = re.search(r"\byou(?:r|'re|’re)?\b", words, re.IGNORECASE) is not None
    return words if is_addressed and len(words.split()) >= _LEAST_WORDS else None


def pool_with_personas(path: Path, *, expert_id: str, personas: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The content of the pool file at `path` with these personas (name -> text) added to one of its entries, those of
    the same name replaced, for a file in `folder`: relative paths lead where they led.

    Raises `ConfigError` for a LiteLLM file, and where no entry has that id.
    """
    data = deepcopy(read_yaml(path))
    if is_model_list(data):
        raise ConfigError(f"{path} is a LiteLLM file, which has no personas; write its experts as a pool file first")
    entries = {entry.get("id"): entry for entry in data["experts"]}
    if expert_id not in entries:
        raise ConfigError(f"{path} has no entry {expert_id!r}; it has {', '.join(map(str, entries))}")
    chosen = entries[expert_id]
    chosen["personas"] = {**(chosen.get("personas") or {}), **personas}
    if folder.resolve() != path.parent.resolve():
        for part in (data.get("defaults") or {}, *data["experts"]):
            _lead_on(part, path.parent)
    return dict(data)


def write_pool(path: Path, data: Mapping[str, Any]) -> None:
    """Write a pool's content as YAML, replacing the file in one step."""
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)
    write_atomically(path, _HEADER + text)


def _lead_on(part: dict[str, Any], base_dir: Path) -> None:
    """Make the paths of an entry that the pool file's own place gives their meaning absolute."""
    for key in ("model", "lora_base"):
        value = part.get(key)
        if isinstance(value, str) and value.startswith(("./", "../")):
            part[key] = str((base_dir / value).resolve())
    adapter = part.get("adapter")
    if isinstance(adapter, str) and not _SCHEME.match(adapter):
        part["adapter"] = str((base_dir / adapter).resolve())
