"""Registries find built-ins by module name and foreign parts by entry point, and explain what they do not find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from aggregators.base import AGGREGATORS
from router_service.backends.base import BACKENDS
from router_service.errors import ConfigError, UnknownNameError
from router_service.plugins import Registry
from router_service.recruit.base import RECRUITERS
from skills.base import ANNOTATORS

if TYPE_CHECKING:
    from nowhere import Unknown

REGISTRIES = [AGGREGATORS, ANNOTATORS, BACKENDS, RECRUITERS]


class Part:
    """A part with one option."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


class Shape(Protocol):
    """What nothing can be checked against, as it is not runtime-checkable."""

    corners: int


class Box:
    """What `isinstance` can check."""


class Typed:
    """A part with an option of each kind."""

    def __init__(
        self,
        *,
        count: int | None = None,
        share: float = 0.5,
        is_loud: bool = False,
        path: str | Path = "",
        weights: Mapping[str, float] | None = None,
        box: Box | str = "",
        api_key: int = 0,
        shape: Shape | None = None,
        later: Unknown | None = None,
        free=None,
    ) -> None:
        self.given: dict[str, Any] = {name: value for name, value in locals().items() if name != "self"}


@dataclass(kw_only=True)
class Needy:
    """A part that cannot do without an option."""

    expert: str
    runs: int = 1


def make(factory: Callable[..., Any], **options: object) -> Any:
    parts: Registry[Any] = Registry("part", "router_service.http")
    parts.register("typed")(factory)
    return parts.create("typed", options)


def registry() -> Registry[Part]:
    parts: Registry[Part] = Registry("part", "router_service.http")
    parts.register("plain")(Part)
    return parts


def test_options_reach_the_part() -> None:
    assert registry().create("plain", {"size": 3}).size == 3


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no option 'sise'\. Did you mean 'size'"):
        registry().create("plain", {"sise": 3})


BOX = Box()


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("count", "3", 3),
        ("count", None, None),
        ("share", "0.25", 0.25),
        ("share", 1, 1.0),
        ("is_loud", "true", True),
        ("path", "7", "7"),
        ("path", Path("a"), Path("a")),
        ("weights", {"a": "1", "b": 2}, {"a": 1.0, "b": 2.0}),
        ("box", BOX, BOX),
        ("shape", "anything", "anything"),
        ("later", "anything", "anything"),
        ("free", "3", "3"),
    ],
)
def test_a_text_is_read_as_the_options_type(name: str, value: object, taken: object) -> None:
    found = make(Typed, **{name: value}).given[name]
    assert found == taken and type(found) is type(taken)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", "", r"part 'typed': option 'count' is ''; allowed: int \| None"),
        ("count", 2.5, "'count' is 2.5"),
        ("count", True, "'count' is True"),
        ("share", "much", "'share' is 'much'; allowed: float"),
        ("share", float("nan"), "'share' is nan"),
        ("is_loud", 1, "'is_loud' is 1; allowed: bool"),
        ("path", 5, "'path' is 5; allowed: str"),
        ("weights", {"a": "x"}, "'weights' is"),
        ("box", 5, r"'box' is 5; allowed: Box \| str"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(name: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(Typed, **{name: value})


def test_a_secret_of_the_wrong_type_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="'api_key' is not usable; allowed: int") as caught:
        make(Typed, api_key="sk-very-secret")
    assert "very-secret" not in caught.value.message


def test_a_required_option_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="part 'typed' needs a value for 'expert'"):
        make(Needy, runs=2)
    assert make(Needy, expert="e", runs="2") == Needy(expert="e", runs=2)


def test_an_unknown_name_lists_the_allowed() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'plain'"):
        registry().factory("plane")


def test_one_name_is_one_part() -> None:
    parts = registry()
    with pytest.raises(ConfigError, match="registered twice"):
        parts.register("plain")(lambda size=2: Part(size))


@pytest.mark.parametrize("room", REGISTRIES, ids=lambda r: r.kind)
def test_a_registered_name_is_its_module_and_class(room: Registry[object]) -> None:
    for name in room.names():
        factory = room.factory(name)
        assert factory.__module__.rsplit(".", 1)[-1] == name
        assert "".join(part.capitalize() for part in name.split("_")) == factory.__name__


@pytest.mark.parametrize("name", ["../etc/passwd", "os", "base", "", "no such"])
def test_a_name_never_reaches_beyond_its_room(name: str) -> None:
    with pytest.raises(UnknownNameError):
        AGGREGATORS.factory(name)
