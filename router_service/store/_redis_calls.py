"""One Redis or Valkey server: scripts sent in groups over few connections, and its faults named with the next step."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from router_service.errors import ConfigError, RouterError, StoreUnavailable
from router_service.store._redis_scripts import NO_JOB, SCRIPTS, digest_of
from router_service.store.gathering import Gathering

__all__ = ["RedisCalls", "ScriptCall"]

_log = logging.getLogger(__name__)

_FORMAT = 1
_CONNECT_S = 5.0
_ANSWER_S = 30.0
_PORT = 6379
_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_PATH = re.compile(r"(/\d*)?")
_HOW_TO_WRITE = (
    "write redis://[user:password@]host:port/number, options as ?prefix=NAME, and what is no letter or digit in a "
    "password as % and two hex digits (%2F for /)"
)


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A script by name, with its keys and arguments."""

    script: str
    keys: tuple[str, ...]
    arguments: tuple[str | bytes | int, ...] = ()


class RedisCalls:
    """Runs scripts on a server; calls that are made at the same time share one round trip.

    Raises `StoreUnavailable` where the server cannot be reached or takes no writes, `ConfigError` where it refuses us,
    or the package redis is missing. The password of the address appears in no message.
    """

    def __init__(self, url: str) -> None:
        parts = _parts(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.prefix = options.pop("prefix", "enlist")
        self.where = f"{parts.hostname}:{parts.port or _PORT}{parts.path}"
        scheme = _SCHEMES.get(parts.scheme, parts.scheme)
        self._client = _client(urlunsplit(parts._replace(scheme=scheme, query=urlencode(options))), self.where)
        self._is_ready = False
        self._gather: Gathering[ScriptCall] = Gathering(self._perform, max_group=256)

    def key(self, *names: str) -> str:
        """A key of ours; all share one hash slot, so that a cluster takes scripts over several of them."""
        return ":".join((f"{{{self.prefix}}}", *names))

    async def run(self, call: ScriptCall) -> Any:
        """What the script returned. What a script says went wrong comes as redis's `ResponseError`."""
        return await self._gather(call)

    async def send(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
        """Plain commands in one round trip, and their replies."""
        from redis.exceptions import RedisError

        try:
            await self._prepare()
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise self._fault(error) from error
        return replies

    async def aclose(self) -> None:
        """Close the connections after what is under way."""
        await self._gather.settled()
        await self._client.aclose()

    async def _perform(self, calls: Sequence[ScriptCall]) -> Sequence[object]:
        from redis.exceptions import NoScriptError, RedisError

        try:
            await self._prepare()
            results = await self._pipelined(calls)
            unknown = [place for place, result in enumerate(results) if isinstance(result, NoScriptError)]
            if unknown:  # the server was started anew
                await self._load_scripts()
                for place, result in zip(unknown, await self._pipelined([calls[n] for n in unknown]), strict=True):
                    results[place] = result
        except (RedisError, OSError) as error:
            raise self._fault(error) from error
        return [
            self._fault(result) if isinstance(result, RedisError) and not _is_ours(result) else result
            for result in results
        ]

    async def _pipelined(self, calls: Sequence[ScriptCall]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(digest_of(call.script), len(call.keys), *call.keys, *call.arguments)
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    async def _prepare(self) -> None:
        """See once that the server is one that we can use."""
        if self._is_ready:
            return
        key = self.key("format")
        await self._client.set(key, _FORMAT, nx=True)
        found = int(await self._client.get(key))
        if found > _FORMAT:
            raise ConfigError(
                f"the job store at {self.where} is of format {found}, and this version of enlist reads {_FORMAT}; "
                "upgrade enlist, or give another prefix (?prefix=NAME)"
            )
        await self._load_scripts()
        if not (await self._client.info("persistence")).get("aof_enabled"):
            _log.warning("the server at %s keeps no append-only file: what it holds is lost when it stops", self.where)
        self._is_ready = True

    async def _load_scripts(self) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for script in SCRIPTS.values():
            pipeline.script_load(script)
        await pipeline.execute()

    def _fault(self, error: BaseException) -> RouterError:
        from redis import exceptions

        refusals = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
        if isinstance(error, refusals):
            return ConfigError(
                f"the job store at {self.where} refuses us: {error}; check user, password and their rights in its "
                "address"
            )
        if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
            return StoreUnavailable(
                f"the job store at {self.where} cannot be reached: {error}; start it or check the address, and run the "
                "same again: what was finished is kept"
            )
        return StoreUnavailable(
            f"the job store at {self.where} takes nothing now: {error}; free memory or disk there, and run the same "
            "again: what was finished is kept"
        )


def _is_ours(error: BaseException) -> bool:
    return str(error).startswith(NO_JOB)


def _parts(url: str) -> SplitResult:
    """The parts of an address that has all of its own; where a password is cut in two, no half of it is shown."""
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0 and not parts.fragment
        is_usable = is_usable and _PATH.fullmatch(parts.path) is not None
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigError(f"the address of the job store is not usable; {_HOW_TO_WRITE}")
    return parts


def _client(url: str, where: str) -> Any:
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as missing:
        raise ConfigError('a Redis or Valkey store needs a package: pip install "enlist[redis]"') from missing
    try:
        client = Redis.from_url(
            url,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 0),  # a script that was sent twice would answer otherwise than one
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, and knows every option
    except (ValueError, TypeError):
        raise ConfigError(
            f"the address of the job store at {where} has an option that is not known or a value that is not allowed; "
            f"{_HOW_TO_WRITE}"
        ) from None
    return client
