"""Runs inside the sandbox: puts one candidate to its tests, in such a way that it cannot pass by tricks.

Three processes for each test. The candidate's runs its code and answers calls. The test's runs the `assert` and calls
the candidate over a pipe: values are copied, so that neither a patched builtin nor an object that is equal to all
others gets near the comparison. The first process runs neither; it tells the verdicts by how the test's process ended,
and ends whatever the candidate left behind. The candidate's process is made before the test is read, so no memory of
it holds the value that is expected. (That it cannot look into the others' memory is the sandbox's part.)

Reads from standard input: the candidate as JSON (`source`, `names` it defines, `test_s`), then one test after another,
each behind its length in eight digits. Writes a line for each: its number, and `pass`, `fail` or `unusable` (what it
hands to the candidate cannot be copied, or it names what nobody knows). Needs Python and nothing else.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_PASS, _FAIL, _UNUSABLE = 0, 1, 2
_VERDICTS = {_PASS: "pass", _UNUSABLE: "unusable"}

_MODULES = frozenset(
    (
        *("bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools"),
        *("json", "math", "operator", "random", "re", "statistics", "string", "typing"),
    )
)
"""What a test may name without importing it. A candidate cannot replace these, nor what Python has built in."""

_SECOND = 2
"""The process that the sandbox's first one starts."""

_MAX_REPLY_BYTES = 16 << 20
_MAX_DEPTH = 100
_MAX_LISTED = 100_000
"""Items taken of a sequence that only the candidate's process has."""

_SEQUENCES: dict[str, Callable[[Any], Any]] = {"l": list, "t": tuple, "s": set, "f": frozenset}


class Unsendable(Exception):
    """A value that cannot be copied to the other process."""


class Broken(Exception):
    """The candidate's process ended, or said what makes no sense."""


# --- values on the wire --------------------------------------------------------------------------------------------


def pack(value: object, keep: Callable[[object], object], depth: int = 0) -> object:
    """`value` as JSON: plain values whole, with their types; any other as what `keep` makes of it."""
    if depth > _MAX_DEPTH:
        raise Unsendable("nested too deep")
    if value is None or type(value) in (bool, int, float, str):
        return value
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):  # type: ignore[arg-type]
            return [name, *(pack(item, keep, depth + 1) for item in kind(value))]
    if isinstance(value, dict):
        return ["d", *([pack(k, keep, depth + 1), pack(v, keep, depth + 1)] for k, v in value.items())]
    if isinstance(value, bytes | bytearray):
        return ["b" if isinstance(value, bytes) else "B", bytes(value).hex()]
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    return _packed_by_name(value) or keep(value)


def _packed_by_name(value: object) -> object:
    kind = type(value)
    if (kind.__module__, kind.__name__) in (("decimal", "Decimal"), ("fractions", "Fraction")):
        return ["n", kind.__module__, kind.__name__, str(value)]
    if kind.__module__ == "datetime" and kind.__name__ in ("date", "datetime", "time"):
        return ["n", kind.__module__, kind.__name__, value.isoformat()]  # type: ignore[attr-defined]
    return None


def unpack(packed: Any, meet: Callable[[int], object]) -> object:
    """The value that was packed; `meet` makes something of a number that stands for a value of the other side."""
    if not isinstance(packed, list):
        return packed
    tag, *parts = packed
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](unpack(part, meet) for part in parts)
    if tag == "d":
        return {unpack(key, meet): unpack(value, meet) for key, value in parts}
    if tag in ("b", "B"):
        return bytes.fromhex(parts[0]) if tag == "b" else bytearray.fromhex(parts[0])
    if tag == "c":
        return complex(*parts)
    if tag == "r":
        return meet(int(parts[0]))
    if tag == "n" and parts[0] in ("decimal", "fractions", "datetime"):
        kind = getattr(importlib.import_module(parts[0]), parts[1])
        return (kind.fromisoformat if parts[0] == "datetime" else kind)(parts[2])
    raise Broken(f"no value has the tag {tag!r}")


# --- the candidate's process ---------------------------------------------------------------------------------------


def serve(source: str, reads: int, writes: int) -> None:
    """Run the candidate's code, then answer: `get` an attribute, `call` what was got, `list` what can be iterated."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    exec(compile(source, "candidate.py", "exec"), module.__dict__)
    kept: list[object] = [module]

    def keep(value: object) -> object:
        kept.append(value)
        return ["r", len(kept) - 1]

    with os.fdopen(reads, "rb") as requests, os.fdopen(writes, "wb") as replies:
        for line in requests:
            try:
                reply = ["ok", pack(_done(json.loads(line), kept), keep)]
            except Exception as error:
                reply = ["raised", type(error).__name__, str(error)[:500]]
            replies.write(json.dumps(reply).encode() + b"\n")
            replies.flush()


def _done(request: Any, kept: list[object]) -> object:
    verb, number, *rest = request
    subject: Any = kept[number]
    if verb == "get":
        return getattr(subject, rest[0])
    if verb == "has":
        return hasattr(type(subject), rest[0])
    arguments: Any = unpack(rest[0], kept.__getitem__)
    named: Any = unpack(rest[1], kept.__getitem__)
    return subject(*arguments, **named)


# --- the test's process --------------------------------------------------------------------------------------------


class Wire:
    """Asks the candidate's process."""

    def __init__(self, writes: int, reads: int) -> None:
        self._requests = os.fdopen(writes, "wb")
        self._replies = os.fdopen(reads, "rb")

    def ask(self, *request: object) -> Any:
        """What the candidate's process answers, or the exception it raised there."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
            line = self._replies.readline(_MAX_REPLY_BYTES)
        except OSError as gone:
            raise Broken("the candidate's process ended") from gone
        if not line.endswith(b"\n"):
            raise Broken("the candidate's process ended")
        outcome, *rest = json.loads(line)
        if outcome == "ok":
            return unpack(rest[0], lambda number: Remote(self, number))
        raise exception_of(*rest)

    def call(self, number: int, arguments: tuple[object, ...], named: dict[str, object]) -> Any:
        """Call what the candidate's process keeps under this number; raises `Unsendable` for what cannot be copied."""
        return self.ask("call", number, pack(arguments, _number_of), pack(named, _number_of))


def _number_of(value: object) -> object:
    if isinstance(value, Remote):
        return ["r", object.__getattribute__(value, "_number")]
    raise Unsendable(f"a {type(value).__name__} cannot be handed to the candidate")


def exception_of(name: str, message: str) -> Exception:
    """The builtin exception of that name, else one that is called so."""
    known = getattr(builtins, str(name), None)
    kind = known if isinstance(known, type) and issubclass(known, Exception) else type(str(name), (Exception,), {})
    raised: Exception = kind(message)
    return raised


class Remote:
    """A value that only the candidate's process has. It equals no plain value, and another such one where its own
    process finds so."""

    def __init__(self, wire: Wire, number: int) -> None:
        self._wire = wire
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return self._wire.ask("get", self._number, name)

    def __call__(self, *arguments: object, **named: object) -> Any:
        return self._wire.call(self._number, arguments, named)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self.__getattr__("__eq__")(other) is True

    def __hash__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[object]:
        iterator = self.__getattr__("__iter__")()
        if not isinstance(iterator, Remote):
            return iter(iterator)
        return iterator._items()

    def _items(self) -> Iterator[object]:
        following = self.__getattr__("__next__")
        for _ in range(_MAX_LISTED):
            try:
                item = following()
            except StopIteration:
                return
            yield item

    def __next__(self) -> Any:
        return self.__getattr__("__next__")()

    def __len__(self) -> int:
        if not self._wire.ask("has", self._number, "__len__"):
            raise TypeError("it has no length")
        return int(self.__getattr__("__len__")())

    def __bool__(self) -> bool:
        return not self._wire.ask("has", self._number, "__len__") or len(self) > 0

    def __getitem__(self, key: object) -> Any:
        return self.__getattr__("__getitem__")(key)

    def __contains__(self, item: object) -> bool:
        return self.__getattr__("__contains__")(item) is True

    def __str__(self) -> str:
        return str(self.__getattr__("__str__")())

    __repr__ = __str__


def run_test(test: str, names: list[str], wire: Wire) -> int:
    """How the test ends: `_PASS`, `_FAIL` or `_UNUSABLE`."""
    try:
        code = compile(test, "test.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _UNUSABLE
    space: dict[str, object] = {"__name__": "test"}
    try:
        for name in sorted(_named(code)):
            if name in _MODULES:
                space[name] = importlib.import_module(name)
            elif name in names and not hasattr(builtins, name):
                space[name] = wire.ask("get", 0, name)
        exec(code, space)
    except Unsendable:
        return _UNUSABLE
    except NameError as unknown:  # one that the candidate raised carries no name
        return _FAIL if unknown.name is None or unknown.name in names else _UNUSABLE
    except BaseException:
        return _FAIL
    return _PASS


def _named(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_named(constant) for constant in inner))


# --- the first process ---------------------------------------------------------------------------------------------


def judge() -> None:
    """Work off standard input; see the module's docstring. Outside a sandbox it refuses to, for it ends all others."""
    if os.getpid() != _SECOND or os.uname().nodename != "sandbox":
        raise SystemExit("this program runs in the sandbox alone, where no other process is but its own")
    sys.set_int_max_str_digits(0)
    head = _frame()
    if head is None:
        return
    candidate = json.loads(head)
    number = 0
    while (verdict := _judged(candidate)) is not None:
        os.write(1, f"{number} {verdict}\n".encode())
        number += 1


def _judged(candidate: dict[str, Any]) -> str | None:
    """The verdict on the next test; None where there is no further one. The candidate's process comes first."""
    asked, asks = os.pipe()
    told, tells = os.pipe()
    _child(lambda: serve(candidate["source"], asked, tells), closes=(asks, told))
    try:
        test = _frame()
        if test is None:
            return None
        tester = _child(lambda: _tested(candidate, test, (asks, told)), closes=(asked, tells))
        for fd in (asked, asks, told, tells):
            os.close(fd)
        _, status = os.waitpid(tester, 0)
        return _VERDICTS.get(os.waitstatus_to_exitcode(status), "fail")
    finally:
        _end_all_others()


def _tested(candidate: dict[str, Any], test: str, ends: tuple[int, int]) -> int:
    signal.setitimer(signal.ITIMER_REAL, candidate["test_s"])
    return run_test(test, candidate["names"], Wire(*ends))


def _child(work: Callable[[], int | None], closes: tuple[int, ...]) -> int:
    """A process that does the work, without our standard files; its exit code is the work's result."""
    pid = os.fork()
    if pid == 0:
        _work_and_exit(work, closes)
    return pid


def _work_and_exit(work: Callable[[], int | None], closes: tuple[int, ...]) -> NoReturn:
    code = _FAIL
    try:
        nowhere = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        for fd in (nowhere, *closes):
            os.close(fd)
        code = work() or 0
    except BaseException:
        code = _FAIL
    finally:
        os._exit(code)


def _end_all_others() -> None:
    """Kill every process of this namespace but the first and ourselves, bury our own, and see the first bury the
    others."""
    while _killed_any():
        if not _buried_any():
            time.sleep(0.0005)


def _killed_any() -> bool:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _buried_any() -> bool:
    """Wait for all our processes, which were killed; False where there was none."""
    buried = 0
    try:
        while True:
            os.waitpid(-1, 0)
            buried += 1
    except ChildProcessError:
        return buried > 0


def _frame() -> str | None:
    """The next part of standard input, read to its last byte and no further; None at the end."""
    length = _exactly(8)
    return None if length is None else (_exactly(int(length)) or b"").decode("utf-8", "replace")


def _exactly(length: int) -> bytes | None:
    read = b""
    while len(read) < length:
        chunk = os.read(0, length - len(read))
        if not chunk:
            return None
        read += chunk
    return read


if __name__ == "__main__":
    judge()
