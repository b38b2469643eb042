"""Settings of the REST door: where it listens, who may call it, how large and how silent a request may be."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError, nearest_name
from router_service.types import Secret

__all__ = ["ServerSettings"]

_PREFIX = "ENLIST_"
_KEY_SEPARATORS = re.compile(r"[,\s]+")


_CALLERS_KEY = f"{_PREFIX}API_KEY"
_OTHERS = (_CALLERS_KEY, f"{_PREFIX}BASE_URL", f"{_PREFIX}CACHE", f"{_PREFIX}DATA", f"{_PREFIX}GOLDEN")
"""Variables with our prefix that others read: the SDK, the cache folder, the tests."""

_log = logging.getLogger(__name__)


class ServerSettings(StrictModel):
    """How the REST door is opened. Frozen; `from_env` reads it from `ENLIST_<NAME>` variables."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    host: str = "127.0.0.1"
    """Address to listen on; anything but a loopback address needs `api_keys`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 lets the system choose one."""
    api_keys: tuple[Secret, ...] = ()
    """Bearer keys that may call; none set means that everybody who reaches the port may."""
    is_insecure_allowed: bool = False
    """Whether to listen beyond loopback without any key."""
    heartbeat_s: float = Field(default=10.0, gt=0)
    """Longest silence on an open stream, in seconds, before a comment line is sent to keep it alive."""
    max_body_bytes: int = Field(default=10 * 1024 * 1024, ge=1)
    """Largest request body taken, in bytes."""
    drain_s: float = Field(default=0.0, ge=0)
    """Seconds to go on serving, while `/health/readiness` already says no, after a signal to stop."""
    shutdown_grace_s: float = Field(default=30.0, ge=0)
    """Seconds that requests under way get to finish before they are cancelled."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """What the server logs of itself; never the content of a request."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _hide(cls, value: Any) -> Any:
        """Keys as secrets; a text holds several, separated by commas or blanks."""
        keys = [key for key in _KEY_SEPARATORS.split(value) if key] if isinstance(value, str) else value
        if not isinstance(keys, list | tuple):
            raise ValueError("give a list of texts, or one text of keys separated by commas")
        return tuple(key if isinstance(key, Secret) else Secret(str(key)) for key in keys)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, **given: object) -> ServerSettings:
        """Settings from `ENLIST_HOST`, `ENLIST_PORT`, `ENLIST_API_KEYS` and so on; what is `given` wins.

        Raises `ConfigError` naming the setting whose value is not usable, the variable that looks like a misspelt one,
        and `ENLIST_API_KEY` without `ENLIST_API_KEYS`: the former is what a caller sends, and keeps nobody out.
        """
        known = os.environ if environment is None else environment
        _check_names(known, [_PREFIX + name.upper() for name in cls.model_fields])
        found: dict[str, object] = {
            name: known[variable] for name in cls.model_fields if known.get(variable := _PREFIX + name.upper())
        }
        settings = parse_model(cls, found | given, "the server's settings")
        if known.get(_CALLERS_KEY) and not settings.api_keys and not settings.is_insecure_allowed:
            raise ConfigError(
                f"{_CALLERS_KEY} is the key that a caller sends, and this server has none to compare it with; set "
                f"{_PREFIX}API_KEYS to the keys that may call, or unset {_CALLERS_KEY}, or serve everybody with "
                f"{_PREFIX}IS_INSECURE_ALLOWED=true"
            )
        return settings

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def require_safe(self) -> None:
        """Raise `ConfigError` where strangers could spend money: another host than loopback, and no key."""
        if not (self.is_loopback or self.api_keys or self.is_insecure_allowed):
            raise ConfigError(
                f"listening on host {self.host!r} without keys lets everybody who reaches it spend money; set "
                f"{_PREFIX}API_KEYS, or listen on 127.0.0.1, or allow it with {_PREFIX}IS_INSECURE_ALLOWED=true"
            )


def _check_names(environment: Mapping[str, str], settings: Sequence[str]) -> None:
    """Refuse a variable that looks like a misspelt setting; one like none (a pool file's, say) is only told of."""
    own = {name.removeprefix(_PREFIX): name for name in settings}
    for variable in environment:
        if variable.startswith(_PREFIX) and variable not in (*settings, *_OTHERS):
            near = nearest_name(variable.removeprefix(_PREFIX), own)
            if near is not None:
                raise ConfigError(
                    f"environment variable {variable} is no setting of the server; did you mean {own[near]}? "
                    f"Allowed: {', '.join(sorted(settings))}"
                )
            _log.warning("environment variable %s is no setting of the server and has no effect on it", variable)
