"""Options of a part, checked against its factory's signature: types say what is allowed, texts become what they spell.

Apart from `router_service.plugins`, so that pydantic is loaded only where there are options to check.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from router_service.config import is_secret_key
from router_service.errors import ConfigError

__all__ = ["checked_options"]

_RULES = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)


def checked_options(owner: str, factory: Callable[..., object], given: Mapping[str, object]) -> dict[str, object]:
    """The options as the annotations of `factory` want them: a text, which is all that `${VAR}` can give, is read as
    the number or truth value it spells; numbers and truth values must be of the type as they stand.

    An option without annotation, or with one that nothing can be checked against, is taken as it is. Raises
    `ConfigError` naming part, option, value and what is allowed.
    """
    parameters = inspect.signature(factory).parameters
    checked: dict[str, object] = {}
    for name, value in given.items():
        adapter = _adapter(factory, parameters[name])
        try:
            is_strict = isinstance(value, bool | int | float)
            checked[name] = value if adapter is None else adapter.validate_python(value, strict=is_strict)
        except ValidationError as invalid:
            raise ConfigError(f"{owner}: {_problem(parameters[name], value, invalid)}") from None
    return checked


def _problem(parameter: inspect.Parameter, value: object, invalid: ValidationError) -> str:
    shown = "is not usable" if is_secret_key(parameter.name) else f"is {value!r}"
    allowed = inspect.formatannotation(parameter.annotation).strip("'\"")
    reasons = "; ".join(dict.fromkeys(error["msg"] for error in invalid.errors(include_input=False)))
    return f"option {parameter.name!r} {shown}; allowed: {allowed} ({reasons})"


def _adapter(factory: Callable[..., object], parameter: inspect.Parameter) -> TypeAdapter[Any] | None:
    """What checks values of this parameter; None where its annotation cannot be read or nothing can be checked."""
    if parameter.annotation is parameter.empty:
        return None
    source = factory.__init__ if inspect.isclass(factory) else inspect.unwrap(factory)
    named = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = typing.get_type_hints(named, globalns=getattr(source, "__globals__", {}), include_extras=True)
        return TypeAdapter(hints[parameter.name], config=_RULES)
    except (NameError, AttributeError, TypeError, PydanticUserError, SchemaError):
        return None  # a name for type checkers only, or a type that pydantic and `isinstance` do not take
