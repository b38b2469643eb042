"""What an LLM that chooses experts is shown and asked, and what is read out of its reply."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from aggregators.extract import extract
from router_service.types import AnswerKind, Expert, Profile, Tally, TaskFormat

__all__ = ["choice_format", "choice_prompt", "chosen_ids", "describe"]

_PROMPT = """\
Here is a question. Do not answer it.

<question>
{question}
</question>

These experts could be asked:

{experts}

Which {wanted} would most probably answer it correctly? Reply with JSON of exactly this form, and nothing else:

{{"experts": [{form}]}}"""

_MOST_CHARACTERS = 12_000
"""What is shown of a question; some 3,000 tokens say well enough what it is about."""
_MOST_DESCRIBED = 300
_CATEGORIES_NAMED = 3
_LEAST_TRIALS = 5
"""Graded questions of a category from which on it is named."""
_WEIGHT = 20.0


def choice_prompt(question: str, experts: Sequence[tuple[str, str]], *, wanted: int) -> str:
    """The prompt; `experts` are ids and descriptions in the order shown."""
    shown = question if len(question) <= _MOST_CHARACTERS else question[:_MOST_CHARACTERS] + " …"
    return _PROMPT.format(
        question=shown,
        experts="\n".join(f"- {json.dumps(expert_id, ensure_ascii=False)}: {said}" for expert_id, said in experts),
        wanted="one" if wanted == 1 else f"{wanted} of them, best first,",
        form=", ".join(['"id"'] if wanted == 1 else ['"first id"', '"second id"', *['"..."'] * (wanted > 2)]),
    )


def choice_format(expert_ids: Sequence[str], *, wanted: int) -> TaskFormat:
    """The format that holds a reply to these ids, for backends that can constrain what a model writes."""
    ids = {"type": "array", "items": {"type": "string", "enum": list(expert_ids)}, "minItems": 1, "maxItems": wanted}
    schema = {
        "type": "object",
        "properties": {"experts": ids},
        "required": ["experts"],
        "additionalProperties": False,
    }
    return TaskFormat(kind=AnswerKind.JSON, json_schema=json.dumps(schema, ensure_ascii=False))


def chosen_ids(reply: str, allowed: Collection[str]) -> list[str]:
    """The allowed ids that a reply names, each once, in its order; nobody where it cannot be read."""
    text = extract(reply, TaskFormat(kind=AnswerKind.JSON))
    try:
        said = json.loads(text if text is not None else reply)
    except (ValueError, RecursionError):
        return []
    named = said.get("experts") if isinstance(said, dict) else said
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list):
        return []
    return list(dict.fromkeys(name for name in named if isinstance(name, str) and name in allowed))


def describe(expert: Expert, profile: Profile | None) -> str:
    """What the expert is said to be good at: its own description, else what its profile shows."""
    if expert.description:
        said = " ".join(expert.description.split())
        return said if len(said) <= _MOST_DESCRIBED else said[:_MOST_DESCRIBED] + " …"
    if profile is None or profile.support == 0:
        return "nothing is known of it"
    overall = profile.overall.rate()
    lifts = {n: _lift(tally, overall) for n, tally in profile.categories.items() if tally.trials >= _LEAST_TRIALS}
    best = sorted((n for n in lifts if lifts[n] > 0), key=lambda n: (-lifts[n], n))[:_CATEGORIES_NAMED]
    named = ", ".join(f"{name} ({profile.categories[name].rate():.0%})" for name in best)
    return f"right on {overall:.0%} of {profile.support} questions" + (f"; best at {named}" if named else "")


def _lift(tally: Tally, overall: float) -> float:
    """By how much the expert is better in a category than elsewhere, shrunk for few questions."""
    return tally.rate(prior=overall, weight=_WEIGHT) - overall
