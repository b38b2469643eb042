"""JSON schemas that callers send: checked once, then held to within bounds, whatever the schema or the value.

Drafts 2020-12 (where `$schema` does not say otherwise), 2019-09 and 7, by the library jsonschema. Nothing is fetched:
a reference must lead to a place inside the schema. `format` is an annotation, as the specification has it by default.
What a hostile schema or reply could run away with is bounded: size and depth when the schema is checked, and then the
`Work` of validating what one text holds, in steps (`MAX_STEPS`) and in time spent on patterns (`PATTERNS_TIMEOUT_S`).
"""

from __future__ import annotations

import contextvars
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aggregators.equivalence import canonical
from router_service.errors import InvalidQuery
from router_service.types import AnswerKind

__all__ = [
    "MAX_DEPTH",
    "MAX_SCHEMA_CHARS",
    "MAX_STEPS",
    "PATTERNS_TIMEOUT_S",
    "PATTERN_TIMEOUT_S",
    "JsonSchema",
    "Work",
    "read_schema",
]

MAX_SCHEMA_CHARS = 100_000
"""Longest schema taken, as JSON text."""
MAX_DEPTH = 64
"""Most objects and lists inside one another, in a schema and in an answer."""
MAX_PATTERN_CHARS = 1000
MAX_STEPS = 200_000
"""Most keywords, and entries of lists in them, looked at to validate one answer."""
PATTERN_TIMEOUT_S = 0.1
"""Longest search for one pattern in one text."""
PATTERNS_TIMEOUT_S = 1.0
"""Most time that all searches for patterns take to validate one answer."""

_ERRORS_WEIGHED = 20
_SHOWN_CHARS = 300
_DIALECTS = {
    "https://json-schema.org/draft/2020-12/schema": "Draft202012Validator",
    "https://json-schema.org/draft/2019-09/schema": "Draft201909Validator",
    "http://json-schema.org/draft-07/schema": "Draft7Validator",
}
_NO_PATTERNS_BESIDE = "unevaluatedProperties"

Keyword = Callable[..., Any]
"""What jsonschema calls for a keyword: (validator, the keyword's value, the instance, the schema) -> errors."""


class _TooMuchWork(Exception):
    """A validation went past its bounds; the text says which."""


@dataclass(slots=True, kw_only=True)
class Work:
    """What validating has taken so far; several values that are tried for one answer share it."""

    steps: int = 0
    searching_s: float = 0.0


_work: contextvars.ContextVar[Work] = contextvars.ContextVar("work")


class JsonSchema:
    """One checked schema. Raises `InvalidQuery`, naming the place, for what is no schema, or none that is taken."""

    def __init__(self, schema: object) -> None:
        _require_size(schema)
        self.text = json.dumps(schema, ensure_ascii=False)
        self._make_validator = _checked(schema)

    def violation(self, value: object, work: Work | None = None) -> str | None:
        """Where and how `value` breaks the schema; None where it does not. Takes bounded time; give it a thread.

        `work` counts on over several values; where it is used up, nothing more is checked.
        """
        from jsonschema.exceptions import best_match

        _work.set(work or Work())
        try:
            errors = list(islice(self._make_validator().iter_errors(value), _ERRORS_WEIGHED))
            worst = best_match(errors)
        except _TooMuchWork as bound:
            return f"it cannot be checked: {bound}"
        except OverflowError:
            return "it cannot be checked: a number in it is too large"
        except RecursionError:
            return "it cannot be checked: the schema refers to itself without end, or the answer is nested too deeply"
        return None if worst is None else f"at {_short(worst.json_path)}: {_short(worst.message)}"


@functools.lru_cache(maxsize=256)
def read_schema(json_schema: str) -> JsonSchema:
    """The schema in `TaskFormat.json_schema`, taken out of OpenAI's object around it; raises `InvalidQuery`."""
    try:
        given = json.loads(json_schema)
    except (ValueError, RecursionError) as malformed:
        raise InvalidQuery(f"the JSON schema is not JSON ({malformed}); send the schema as JSON text") from None
    is_wrapped = isinstance(given, dict) and {"name", "schema"} <= given.keys()
    return _schema(json.dumps(given["schema"] if is_wrapped else given))


@functools.lru_cache(maxsize=256)
def _schema(text: str) -> JsonSchema:
    return JsonSchema(json.loads(text))


# --- checking a schema ---------------------------------------------------------------------------------------------


def _require_size(schema: object) -> None:
    if not isinstance(schema, Mapping | bool):
        raise InvalidQuery(f"the JSON schema must be an object, not {_short(json.dumps(schema))}")
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidQuery(f"the JSON schema is nested deeper than {MAX_DEPTH} levels; use $defs and $ref")
        level = [inner for value in level for inner in _inside(value)]
    chars = len(json.dumps(schema, ensure_ascii=False))
    if chars > MAX_SCHEMA_CHARS:
        raise InvalidQuery(f"the JSON schema has {chars} characters; at most {MAX_SCHEMA_CHARS} are taken")


def _inside(value: object) -> list[Any]:
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [inner for inner in values if isinstance(inner, Mapping | list)]


def _checked(schema: Any) -> Callable[[], Any]:
    """How to make a validator; each validation has one of its own, for they keep state while they walk."""
    import jsonschema
    from referencing import Registry

    name = _dialect(schema)
    draft = getattr(jsonschema, name)
    _require_valid(schema, draft)
    _require_safe(schema, draft)
    # an empty registry: the library's own one would fetch what it does not know
    return functools.partial(_bounded(name), schema, registry=Registry())


def _require_valid(schema: Any, draft: Any) -> None:
    import jsonschema

    try:
        draft.check_schema(schema, format_checker=jsonschema.FormatChecker(formats=()))
    except jsonschema.SchemaError as wrong:
        raise InvalidQuery(
            f"the JSON schema is not valid at {_short(wrong.json_path)}: {_short(wrong.message)}"
        ) from None
    except RecursionError:
        raise InvalidQuery("the JSON schema is nested too deeply to be checked; use $defs and $ref") from None


def _dialect(schema: Any) -> str:
    said = schema.get("$schema") if isinstance(schema, Mapping) else None
    if said is None:
        return "Draft202012Validator"
    name = _DIALECTS.get(str(said).rstrip("#"))
    if name is None:
        raise InvalidQuery(
            f"the JSON schema's $schema is {_short(repr(said))}; leave it out for Draft 2020-12, "
            f"or send one of {', '.join(_DIALECTS)}"
        )
    return name


def _require_safe(schema: Any, draft: Any) -> None:
    """Every reference leads to a schema inside the schema, and every pattern can be searched for in bounded time."""
    from referencing import Registry, Specification
    from referencing.jsonschema import specification_with

    dialect: Specification[Any] = specification_with(draft.ID_OF(draft.META_SCHEMA))
    root = dialect.create_resource(schema)
    registry: Registry[Any] = Registry().with_resource(root.id() or "", root)
    todo = [(schema, registry.resolver_with_root(root))]
    known: set[int] = set()
    keywords: set[str] = set()
    while todo:
        places = [place for start in todo for place in _places(*start, draft=draft)]
        known |= {id(contents) for contents, _ in places}
        todo = []
        for contents, resolver in places:
            keywords |= contents.keys()
            for pattern in _patterns(contents):
                _require_pattern(pattern)
            for target in _targets(contents, resolver):
                if not isinstance(target.contents, bool) and id(target.contents) not in known:
                    known.add(id(target.contents))  # under a keyword that nobody knows: not checked with the rest
                    _require_valid(target.contents, draft)
                    todo.append((target.contents, target.resolver))
    if {"patternProperties", _NO_PATTERNS_BESIDE} <= keywords:
        raise InvalidQuery(
            "the JSON schema uses both patternProperties and unevaluatedProperties, which are not supported together; "
            "write additionalProperties"
        )


def _places(schema: Any, resolver: Any, *, draft: Any) -> list[tuple[Mapping[str, Any], Any]]:
    """The schema and all the schemas in it, booleans aside, each with its resolver; all of one dialect."""
    from referencing.jsonschema import specification_with

    name = draft.ID_OF(draft.META_SCHEMA).rstrip("#")
    dialect: Any = specification_with(name)
    todo, places = [(schema, resolver)], []
    while todo:
        contents, resolver = todo.pop()
        if isinstance(contents, Mapping):
            if str(contents.get("$schema", name)).rstrip("#") != name:
                raise InvalidQuery(
                    f"a part of the JSON schema has the $schema {_short(repr(contents['$schema']))} where the whole is "
                    f"of {name}; write all of it in one dialect"
                )
            places.append((contents, resolver))
            inner = [dialect.create_resource(each) for each in dialect.subresources_of(contents)]
            todo += [(each.contents, resolver.in_subresource(each)) for each in inner]
    return places


def _targets(contents: Mapping[str, Any], resolver: Any) -> Iterator[Any]:
    """What the references of one schema lead to."""
    from referencing.exceptions import Unresolvable

    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        target = contents.get(keyword)
        if target is None:
            continue
        try:
            yield resolver.lookup(target)
        except (Unresolvable, ValueError):
            raise InvalidQuery(
                f"the JSON schema's {keyword} {_short(repr(target))} leads to nothing inside the schema; nothing is "
                "fetched, so put what it means under $defs and refer to it as '#/$defs/NAME'"
            ) from None


def _patterns(contents: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(contents.get("pattern"), str):
        yield contents["pattern"]
    yield from contents.get("patternProperties", {})


def _require_pattern(pattern: str) -> None:
    import regex

    if len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidQuery(f"the JSON schema has a pattern of {len(pattern)} characters; at most {MAX_PATTERN_CHARS}")
    try:
        _compiled(pattern)
    except (regex.error, RecursionError, OverflowError) as wrong:
        raise InvalidQuery(f"the JSON schema's pattern {_short(repr(pattern))} cannot be read: {wrong}") from None


# --- validating in bounds ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _bounded(name: str) -> Any:
    """The library's validator of this name, with every keyword counted and every pattern timed."""
    import jsonschema

    draft = getattr(jsonschema, name)
    ours = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    replaced = {keyword: _placed(check) for keyword, check in ours.items()}
    keywords = {keyword: _counted(check) for keyword, check in {**draft.VALIDATORS, **replaced}.items()}
    bounded = jsonschema.validators.extend(draft, validators=keywords)
    bounded.evolve = _evolved
    return bounded


def _evolved(validator: Any, **changes: Any) -> Any:
    """The validator for a part of its schema. The library's own would go by `$schema`, to one without bounds."""
    for field in type(validator).__attrs_attrs__:
        if field.init:
            changes.setdefault(field.alias, getattr(validator, field.name))
    return type(validator)(**changes)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a keyword is checked, in the order in which the library says it."""

    validator: Any
    value: Any
    instance: Any
    schema: Any


def _placed(check: Callable[[_Place], Iterator[Any]]) -> Keyword:
    return lambda *given: check(_Place(*given))


def _counted(check: Keyword) -> Keyword:
    def counted(*given: Any) -> Iterator[Any]:
        _, value, *_ = given
        _spend(1 + (len(value) if isinstance(value, list | dict) else 0))
        yield from check(*given) or ()

    return counted


def _spend(steps: int) -> None:
    work = _work.get()
    work.steps += steps
    if work.steps > MAX_STEPS:
        raise _TooMuchWork(f"schema and answer together take more than {MAX_STEPS} steps")


def _pattern(at: _Place) -> Iterator[Any]:
    if at.validator.is_type(at.instance, "string") and not _matches(at.value, at.instance):
        yield _error(f"{_short(repr(at.instance))} does not match {at.value!r}")


def _pattern_properties(at: _Place) -> Iterator[Any]:
    if not at.validator.is_type(at.instance, "object"):
        return
    for pattern, subschema in at.value.items():
        for name, value in at.instance.items():
            if _matches(pattern, name):
                yield from at.validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(at: _Place) -> Iterator[Any]:
    if not at.validator.is_type(at.instance, "object"):
        return
    known, patterns = at.schema.get("properties", {}), at.schema.get("patternProperties", {})
    extra = [name for name in at.instance if name not in known and not any(_matches(p, name) for p in patterns)]
    if at.validator.is_type(at.value, "object"):
        for name in extra:
            yield from at.validator.descend(at.instance[name], at.value, path=name)
    elif not at.value and extra:
        yield _error(f"additional properties are not allowed, and there are {_short(', '.join(map(repr, extra)))}")


def _unique_items(at: _Place) -> Iterator[Any]:
    if at.value and at.validator.is_type(at.instance, "array"):
        _spend(len(at.instance))
        keys = {canonical(json.dumps(item), AnswerKind.JSON) for item in at.instance}
        if len(keys) < len(at.instance):
            yield _error("the items are not unique")


def _error(message: str) -> Exception:
    from jsonschema import ValidationError

    error: Exception = ValidationError(message)
    return error


def _matches(pattern: str, text: str) -> bool:
    _spend(1)
    work, began = _work.get(), time.perf_counter()
    if work.searching_s > PATTERNS_TIMEOUT_S:
        raise _TooMuchWork(f"all searches for patterns together take longer than {PATTERNS_TIMEOUT_S:g} s")
    try:
        return _compiled(pattern).search(text, timeout=PATTERN_TIMEOUT_S, concurrent=True) is not None
    except TimeoutError:
        raise _TooMuchWork(f"the search for the pattern {_short(repr(pattern))} takes too long") from None
    finally:
        work.searching_s += time.perf_counter() - began


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
