"""Options that a pool entry hands to its backend, read into a dataclass: known names, right types, helpful errors."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar

from router_service.errors import ConfigError, nearest_name
from router_service.types import Expert

__all__ = ["NoOptions", "read_options"]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


D = TypeVar("D", bound=_Dataclass)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions:
    """For a backend whose experts take no options."""


def read_options(expert: Expert, options: type[D]) -> D:
    """The expert's options as `options`, whose fields all have defaults; their types are what is allowed.

    Raises `ConfigError` for a name that is not a field, suggesting the nearest, and for a value of another type.
    """
    defaults = {field.name: field.default for field in fields(options)}
    owner = f"expert {expert.id!r} (backend {expert.backend!r})"
    for name, value in expert.options.items():
        if name not in defaults:
            near = nearest_name(name, defaults)
            guess = f" Did you mean {near!r}?" if near else ""
            listed = ", ".join(sorted(defaults)) or "none"
            raise ConfigError(f"{owner} has no option {name!r}.{guess} Allowed: {listed}.")
        if not _is_like(value, defaults[name]):
            wanted = type(defaults[name]).__name__
            raise ConfigError(f"{owner}: option {name!r} is {value!r}; it must be of type {wanted}")
    return options(**expert.options)


def _is_like(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))
