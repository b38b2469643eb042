"""Registries: a name finds a factory, built-in or foreign, and a wrong name or option gets a helpful error."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from router_service.errors import ConfigError, UnknownNameError, nearest_name

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of part, each with the factory that makes it.

    A built-in lives in module `<package>.<name>` and is imported when its name is first used, so heavy imports cost
    nothing until then. A foreign part is an entry point in the group `router_service.<package>`; its name must start
    with the distribution's name and a dash, so that two plugins never fight for one name.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._factories: dict[str, Callable[..., T]] = {}
        self._is_complete = False

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator that puts a factory (a class, usually) under `name`; a second one of that name is an error."""

        def put(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._factories and self._factories[name] is not factory:
                raise ConfigError(f"{self.kind} {name!r} is registered twice; rename one of them")
            self._factories[name] = factory
            return factory

        return put

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted; imports every module of the room once."""
        if not self._is_complete:
            room = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(room.__path__):
                if not module.ispkg and not module.name.startswith("_"):
                    importlib.import_module(f"{self.package}.{module.name}")
            self._is_complete = True
        return tuple(sorted({*self._factories, *self._entry_points}))

    def factory(self, name: str) -> Callable[..., T]:
        """The factory under `name`; raises `UnknownNameError` with the nearest name and all allowed ones."""
        if name not in self._factories:
            self._find(name)
        if name not in self._factories:
            raise UnknownNameError(self.kind, name, self.names())
        return self._factories[name]

    def create(self, name: str, options: Mapping[str, object] | None = None) -> T:
        """The part under `name` made with `options`, each read as its annotation says (see `_plugins_options`).

        Raises `ConfigError` for an unknown option, naming the nearest valid one, for a value of the wrong type and for
        a required option that is missing.
        """
        factory = self.factory(name)
        owner = f"{self.kind} {name!r}"
        given = dict(options or {})
        allowed = _option_names(factory)
        for key in given:
            if key not in allowed:
                raise ConfigError(_unknown_option(owner, key, allowed))
        if missing := [key for key, is_required in allowed.items() if is_required and key not in given]:
            listed = ", ".join(map(repr, missing))
            raise ConfigError(f"{owner} needs a value for {listed}; give it among the options of {name!r}")
        if given:
            from router_service._plugins_options import checked_options  # loads pydantic, which takes its time

            given = checked_options(owner, factory, given)
        return factory(**given)

    def _find(self, name: str) -> None:
        if name.isidentifier():
            module = f"{self.package}.{name}"
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as missing:
                if missing.name != module:
                    raise
        entry = self._entry_points.get(name)
        if entry is not None and name not in self._factories:
            self._factories[name] = entry.load()

    @functools.cached_property
    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Foreign parts by name; looked up once, since the look-up reads every installed distribution (over 10 ms)."""
        group = f"router_service.{self.package.removeprefix('router_service.')}"
        found = {}
        for entry in importlib.metadata.entry_points(group=group):
            prefix = entry.dist.name if entry.dist is not None else ""
            if entry.name.startswith(f"{prefix}-"):
                found[entry.name] = entry
        return found


def _option_names(factory: Callable[..., object]) -> dict[str, bool]:
    """The names of a factory's options, in order, and whether each must be given."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default is p.empty for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def _unknown_option(owner: str, key: str, allowed: Iterable[str]) -> str:
    names = sorted(allowed)
    near = nearest_name(key, names)
    guess = f" Did you mean {near!r}?" if near else ""
    return f"{owner} has no option {key!r}.{guess} Allowed: {', '.join(names) or 'none'}."
