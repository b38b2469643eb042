"""Registries find built-ins by module name and foreign parts by entry point, and explain what they do not find."""

from __future__ import annotations

import pytest

from aggregators.base import AGGREGATORS
from router_service.backends.base import BACKENDS
from router_service.errors import ConfigError, UnknownNameError
from router_service.plugins import Registry
from router_service.recruit.base import RECRUITERS
from skills.base import ANNOTATORS

REGISTRIES = [AGGREGATORS, ANNOTATORS, BACKENDS, RECRUITERS]


class Part:
    """A part with one option."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


def registry() -> Registry[Part]:
    parts: Registry[Part] = Registry("part", "router_service.http")
    parts.register("plain")(Part)
    return parts


def test_options_reach_the_part() -> None:
    assert registry().create("plain", {"size": 3}).size == 3


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no option 'sise'\. Did you mean 'size'"):
        registry().create("plain", {"sise": 3})


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
