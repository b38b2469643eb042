"""Configuration: one frozen model per concern, read from YAML with environment references, strict about its keys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from router_service.errors import ConfigError, nearest_name
from router_service.types import MAX_K

__all__ = [
    "ClusterConfig",
    "DispatchConfig",
    "EngineConfig",
    "PartConfig",
    "SandboxConfig",
    "SandboxLimits",
    "StrictModel",
    "bare_reference",
    "cache_folder",
    "expand_environment",
    "is_secret_key",
    "load_config",
    "parse_model",
    "read_yaml",
]

M = TypeVar("M", bound=BaseModel)

_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-(?P<value>[^}]*))?\}")
_BARE_REFERENCE = re.compile(r"\$(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_LITELLM_PREFIX = "os.environ/"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_QUOTED = re.compile(r"'(?!<)[^']{2,}'")
"""What a message of the YAML parser quotes, characters and its own names for tokens (`'<scalar>'`) apart."""
_SECRET_KEY = re.compile(r"key|secret|token$|password", re.IGNORECASE)


class StrictModel(BaseModel):
    """Base of every configuration model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PartConfig(StrictModel):
    """A registered part by name, with its options. In YAML a bare name is enough: `recruiter: symbolic`."""

    name: str
    """Registered name of the part."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the part's constructor, read as the types it declares; an unknown one names the nearest."""

    @classmethod
    def named(cls, value: object) -> object:
        """A bare text as the part's name, anything else unchanged."""
        return {"name": value} if isinstance(value, str) else value


class DispatchConfig(StrictModel):
    """How experts are worked: quorum, early answers, back-off, and the deadline of queries that bring none."""

    quorum: int | None = Field(default=None, ge=1)
    """Successful completions after which a panel may end early; unset waits for every member, and so does a query whose
    `waits_for_all` is set."""
    straggler_grace_s: float = Field(default=0.0, ge=0)
    """Seconds the rest of a panel still gets once the quorum is reached; then it is cancelled."""
    stops_early: bool = True
    """Answer as soon as those who have not answered yet can no longer change the outcome, and stop their calls. What
    is answered stays the same; who is named beside it (supporters, agreement) depends on who was quick. Batch jobs and
    measurements hear everybody whatever this says, and so does a query whose `waits_for_all` is set."""
    backoff_initial_s: float = Field(default=0.25, ge=0)
    """Longest pause before the first retry; doubles with every further one."""
    backoff_max_s: float = Field(default=8.0, ge=0)
    """Longest pause between two tries, unless the expert itself asks for more."""
    retry_after_max_s: float = Field(default=60.0, ge=0)
    """An expert that asks to be left alone for longer than this is given up at once."""
    jitter: float = Field(default=0.5, ge=0, le=1)
    """Share of each pause that is drawn at random: 0 pauses in full, 1 anywhere between 0 and the full."""
    jitter_seed: int = 0
    """Seed of that draw."""
    max_parallel_batched: int = Field(default=1, ge=1)
    """Embedded engines (backends) that work at once. Each runs one batch at a time, but for those with devices of
    their own, which count as one however many models work there: how many those hold is theirs to say. With 1 an
    engine that another one waits for gives way after the batches it has begun."""
    max_assignments: int = Field(default=64, ge=1)
    """Most assignments (queries to one expert) in one call of an engine that can work on several at once, so that a
    large batch can be spread over its devices; no answer depends on it."""
    window_s: float = Field(default=0.01, ge=0, le=10)
    """Seconds that a model waits for further requests of the same kind before it starts, where nothing else could."""
    turn_cap: float = Field(default=2.0, gt=0)
    """How long one model may keep others waiting, in multiples of the time it takes to load the next one."""
    prefetches: bool = True
    """Load the next model beside the running one, where a device has memory for both."""
    replicates: bool = True
    """Load a model with a long queue on a second device, where that saves more time than the load takes."""
    default_deadline_s: float | None = Field(default=None, gt=0)
    """Deadline in seconds of a query whose budget has none; unset is no limit."""


class ClusterConfig(StrictModel):
    """Many machines: how a Ray cluster is reached, and which devices its nodes offer. No answer depends on it."""

    address: str = "auto"
    """`auto` (the cluster that runs here, or RAY_ADDRESS), `host:port`, `ray://host:port`, or `local` for a new one on
    this machine."""
    backends: tuple[str, ...] | None = None
    """Backends whose experts run on the cluster; unset takes those that hold models themselves. All others are called
    from here."""
    devices: Literal["auto", "gpu", "cpu"] = "auto"
    """What models are placed on: GPUs, or nodes as a whole; `auto` takes GPUs where any node has one."""
    gpus_per_device: int = Field(default=1, ge=1)
    """GPUs of one node that make one device together; more than 1 for models that run tensor-parallel."""
    gpu_memory_gib: float | None = Field(default=None, gt=0)
    """GiB that models may take of each GPU; unset asks each node."""
    cpu_devices_per_node: int = Field(default=1, ge=1)
    """Devices of a node without GPUs: so many models compute there at once, each in a process of its own."""
    silence_s: float = Field(default=30.0, gt=0)
    """A device whose connection is broken for so many seconds is given up for lost, though its node may still count as
    alive. Work that takes long is no silence."""
    annotate_from: int | None = Field(default=4096, ge=1)
    """Queries from which on a window is annotated on the cluster, by annotators that ask no LLM: starting them takes
    about 7 s, a question here 4 ms. `null` never does."""


class SandboxLimits(StrictModel):
    """What one program may use in the sandbox before it is stopped, or refused more."""

    wall_s: float = Field(default=10.0, gt=0)
    """Seconds of time until everything it started is killed."""
    cpu_s: int = Field(default=10, ge=1)
    """Seconds of processor time, for each of its processes."""
    memory_mib: int = Field(default=512, ge=32)
    """MiB of address space for each process, and of memory for all of them and their files together."""
    processes: int = Field(default=16, ge=1)
    """Processes and threads at once."""
    disk_mib: int = Field(default=16, ge=1)
    """MiB of files in `/tmp`, the only folder it can write to; they lie in memory, and vanish with it."""
    open_files: int = Field(default=64, ge=16)
    """Files that one process may hold open."""
    output_kib: int = Field(default=256, ge=1)
    """KiB that it may write to standard output and error together."""


class SandboxConfig(SandboxLimits):
    """How programs that experts wrote are run: in bubblewrap's sandbox, without network; on Linux alone."""

    is_enabled: bool = True
    """Whether programs are run at all."""
    bwrap: str = "bwrap"
    """The program bubblewrap, by name or path."""
    packages: tuple[Path, ...] = ()
    """Folders of installed packages (`site-packages`) that programs may import from; unset is the standard library
    alone. They are shown read-only."""
    parallel: int | None = Field(default=None, ge=1)
    """Programs that run at once; unset is one for each processor."""


class EngineConfig(StrictModel):
    """What an engine is made of. `enlist serve --config FILE` and the SDK's `build_engine` read this."""

    pool: str = "local"
    """Built-in pool name, or path of a pool file."""
    artefact: Path | None = None
    """Folder written by `enlist profile`; unset uses the one shipped with a built-in pool, where there is one."""
    annotator: PartConfig = PartConfig(name="embedding")
    """Who says which skills a query needs."""
    recruiter: PartConfig = PartConfig(name="auto")
    """Who chooses the experts when the caller does not."""
    aggregator: PartConfig = PartConfig(name="auto")
    """What makes one answer of the completions when the caller does not say."""
    backends: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options per backend name, for instance `transformers: {threads: 1}`."""
    k: int = Field(default=3, ge=1, le=MAX_K)
    """Completions per query, for every recruiter that takes a `k`; `recruiter.options.k` goes before it for that
    recruiter, and a query's own `k` before both."""
    seed: int = 0
    """Seed of everything random; one seed, one result."""
    dispatch: DispatchConfig = DispatchConfig()
    """How experts are worked: quorum, grace and retries."""
    sandbox: SandboxConfig = SandboxConfig()
    """How programs that experts wrote are run, for aggregators that choose by what they do."""
    cluster: ClusterConfig | None = None
    """Run experts that hold models on a Ray cluster; unset runs them here. `enlist batch --engine ray` sets it."""


def is_secret_key(key: str) -> bool:
    """Whether the value under this key must not be shown, by the key's name."""
    return _SECRET_KEY.search(key) is not None


def cache_folder() -> Path:
    """Where converted weights and embeddings are kept: `ENLIST_CACHE`, else the platform's cache folder for enlist."""
    named = os.environ.get("ENLIST_CACHE")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("enlist"))


def expand_environment(data: Any, environment: Mapping[str, str] | None = None) -> Any:
    """`data` with `${VAR}`, `${VAR:-default}` and `os.environ/VAR` replaced in every text.

    A variable that is not set and has no default is a `ConfigError` that names it and the key; so is a `${` that opens
    no such reference, as in `${MY-KEY}`.
    """
    return _expanded(data, os.environ if environment is None else environment, ())


def _expanded(data: Any, known: Mapping[str, str], where: tuple[object, ...]) -> Any:
    if isinstance(data, dict):
        return {key: _expanded(value, known, (*where, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [_expanded(value, known, (*where, number)) for number, value in enumerate(data)]
    if not isinstance(data, str):
        return data
    try:
        return _expanded_text(data, known)
    except ConfigError as problem:
        raise ConfigError(f"{'.'.join(map(str, where))}: {problem.message}" if where else problem.message) from None


def _expanded_text(text: str, known: Mapping[str, str]) -> str:
    if text.startswith(_LITELLM_PREFIX):
        return _variable(text.removeprefix(_LITELLM_PREFIX), known)
    if "${" in _REFERENCE.sub(lambda m: m["value"] or "", text):
        raise ConfigError(
            "the text holds a '${' that opens no reference (it is not shown, as it may be a secret); write ${NAME} or "
            "${NAME:-default}, the name in letters, digits and _, the default without braces"
        )
    return _REFERENCE.sub(lambda m: _variable(m["name"], known, m["value"] if m["default"] else None), text)


def bare_reference(text: str) -> str | None:
    """The variable's name where the whole text is `$NAME`: what a shell replaces, and nobody does in a file."""
    found = _BARE_REFERENCE.fullmatch(text)
    return found["name"] if found else None


def _variable(name: str, known: Mapping[str, str], default: str | None = None) -> str:
    value = known.get(name) or default
    if value is None:
        raise ConfigError(
            f"environment variable {name!r} is not set; set it, or write ${{{name}:-default}} to give a default"
        )
    return value


def read_yaml(path: Path) -> Any:
    """The YAML file's content; `ConfigError` names a missing or malformed file and the place of what is wrong in it,
    a key that is written twice included. The file's text is not shown: it may hold secrets."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as missing:
        raise ConfigError(f"no such file: {path}") from missing
    except (OSError, UnicodeDecodeError) as unreadable:
        raise ConfigError(f"cannot read {path}: {unreadable}") from unreadable
    except (yaml.YAMLError, ValueError) as malformed:
        raise ConfigError(f"{path} is not valid YAML: {_yaml_problem(malformed)}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which the later one would win in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The node, looked at before merge keys (`<<`) add others to its own."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                continue
            name = (key.tag, key.value)
            if name in lines:
                problem = f"the key {key.value!r} is written twice, first in line {lines[name]}; keep one of them"
                raise _DuplicateKey(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node


class _DuplicateKey(yaml.MarkedYAMLError):
    """A mapping has the same key twice; its problem names the key in full."""


def _yaml_problem(malformed: Exception) -> str:
    """What is wrong and where, without the file's text: what the parser quotes of it (an alias, a tag) is left out."""
    problem = str(getattr(malformed, "problem", None) or getattr(malformed, "reason", None) or malformed)
    if not isinstance(malformed, _DuplicateKey):
        problem = _QUOTED.sub("'…'", problem)
    began = getattr(malformed, "context", None)
    lead = f"{began}{_place(getattr(malformed, 'context_mark', None))}: " if began else ""
    return f"{lead}{problem}{_place(getattr(malformed, 'problem_mark', None))}"


def _place(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


def parse_model(model: type[M], data: Any, source: str) -> M:
    """`data` as `model`; every problem is listed in one `ConfigError` with its key path and the nearest valid key."""
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        problems = [_problem(model, error) for error in invalid.errors(include_url=False)]
        raise ConfigError(f"{source} is not usable:\n  " + "\n  ".join(problems)) from None


def load_config(path: Path | None) -> EngineConfig:
    """The engine configuration in `path`; all defaults where `path` is None. A relative artefact path is the file's."""
    if path is None:
        return EngineConfig()
    data = read_yaml(path) or {}
    try:
        data = expand_environment(data)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem.message}") from None
    if isinstance(data, dict):
        for key in ("annotator", "recruiter", "aggregator"):
            if key in data:
                data[key] = PartConfig.named(data[key])
        for key in ("artefact", "pool"):
            value = data.get(key)
            if isinstance(value, str) and (path.parent / value).exists():
                data[key] = str(path.parent / value)
    return parse_model(EngineConfig, data, str(path))


def _problem(model: type[BaseModel], error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "(whole file)"
    if error["type"] != "extra_forbidden":
        is_hidden = isinstance(error.get("input"), dict | list) or is_secret_key(where)
        shown = "" if is_hidden else f" (got {error.get('input')!r})"
        return f"{where}: {error['msg']}{shown}"
    allowed = _keys_at(model, error["loc"][:-1])
    near = nearest_name(str(error["loc"][-1]), allowed)
    guess = f" Did you mean {near!r}?" if near else ""
    return f"{where}: unknown key.{guess} Allowed: {', '.join(sorted(allowed))}."


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys allowed at a place in nested models; list positions and dictionary keys are walked through."""
    current: type[BaseModel] = model
    for part in location:
        info = current.model_fields.get(str(part))
        if info is None:
            by_alias = (f for f in current.model_fields.values() if f.alias == part)
            info = next(by_alias, None)
        inner = _model_in(info.annotation) if info is not None else None
        current = inner or current
    return tuple(info.alias or name for name, info in current.model_fields.items())


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
