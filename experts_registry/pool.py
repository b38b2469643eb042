"""Pools: the YAML file that lists the experts, read strictly, and the experts by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experts_registry.litellm_pool import from_model_list, is_model_list
from experts_registry.personas import virtual_experts
from experts_registry.pool_schema import DefaultsEntry, ExpertEntry, PoolFile, to_expert
from router_service.config import bare_reference, expand_environment, parse_model, read_yaml
from router_service.errors import ConfigError, UnknownNameError, nearest_name
from router_service.types import Expert

__all__ = ["Pool", "built_in_pools", "load_pool", "parse_pool", "pool_path"]

_FILE = "pool.yaml"
_LITERAL_KEY_LENGTH = 16
"""An `api_key` this long that refers to nothing is a real key in a file; shorter ones are placeholders like EMPTY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The experts that may be recruited, in the order of the file; ties between experts go to the earlier one.

    `warnings` says what the file holds that is understood and not applied.
    """

    name: str
    experts: tuple[Expert, ...]
    warnings: tuple[str, ...] = ()
    _by_id: Mapping[str, Expert] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {expert.id: expert for expert in self.experts})

    @property
    def ids(self) -> tuple[str, ...]:
        """Every expert's id, disabled ones too."""
        return tuple(self._by_id)

    @property
    def enabled(self) -> tuple[Expert, ...]:
        """The experts that are not switched off."""
        return tuple(expert for expert in self.experts if expert.is_enabled)

    def expert(self, expert_id: str) -> Expert:
        """The expert of that id; raises `UnknownNameError` with the nearest one."""
        found = self._by_id.get(expert_id)
        if found is None:
            raise UnknownNameError("expert", expert_id, self._by_id)
        return found


def built_in_pools() -> tuple[str, ...]:
    """Names of the pools that come with the package."""
    return tuple(sorted(path.parent.name for path in Path(__file__).parent.glob(f"*/{_FILE}")))


def load_pool(ref: str | Path) -> Pool:
    """The pool `ref` names: a built-in one (`local`), or a file, or a folder with a `pool.yaml`.

    Raises `ConfigError` where there is neither, or with every problem of the file at once.
    """
    path = pool_path(ref)
    data = read_yaml(path)
    name = path.resolve().parent.name if path.name == _FILE else path.stem
    try:
        return parse_pool(data, name, path.parent)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem.message}") from None


def parse_pool(data: Any, name: str, base_dir: Path) -> Pool:
    """The pool in `data` (this project's shape, or LiteLLM's `model_list`); relative paths are `base_dir`'s.

    Raises one `ConfigError` that lists every problem with its expert, its key and the nearest valid key.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"a pool is a mapping with a list 'experts', not {type(data).__name__}")
    warnings: list[str] = []
    if is_model_list(data):
        data, warnings = from_model_list(data)
    file = parse_model(PoolFile, data, f"pool {name!r}")
    parse_model(DefaultsEntry, _expandable(file.defaults), f"'defaults' of pool {name!r}")
    problems: list[str] = []
    experts: list[Expert] = []
    virtual_ids: list[str] = []
    for position, raw in enumerate(file.experts):
        entry = _merged(file.defaults, raw)
        label = f"expert {entry['id']!r}" if "id" in entry else f"expert number {position + 1}"
        warnings += _literal_key(entry, label)
        try:
            parsed = parse_model(ExpertEntry, _expanded(entry), label)
            expert = to_expert(parsed, base_dir)
            voices = virtual_experts(expert, parsed.personas)
            virtual_ids += [voice.id for voice in voices]
            experts += [expert, *voices]
        except ConfigError as problem:
            problems.append(problem.message if problem.message.startswith(label) else f"{label}: {problem.message}")
    problems = _duplicates(file.experts, virtual_ids) + problems
    if problems:
        raise ConfigError(f"pool {name!r} is not usable:\n" + "\n".join(problems))
    return Pool(name=file.name or name, experts=tuple(experts), warnings=tuple(warnings))


def pool_path(ref: str | Path) -> Path:
    """The file of the pool that `ref` names; raises `ConfigError` where there is none."""
    given = Path(ref)
    built_in = Path(__file__).parent / given / _FILE
    if isinstance(ref, str) and ref in built_in_pools():
        return built_in
    if given.is_dir() and (given / _FILE).is_file():
        return given / _FILE
    if given.is_file():
        return given
    near = nearest_name(str(ref), built_in_pools())
    guess = f" Did you mean {near!r}?" if near else ""
    raise ConfigError(
        f"no pool {str(ref)!r}: it is no built-in pool (there is: {', '.join(built_in_pools()) or 'none'}) "
        f"and no pool file (looked at {given.absolute()}).{guess}"
    )


def _merged(defaults: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry over the defaults; nested mappings are merged key by key, and an explicit null takes a default away."""
    merged = {**defaults, **entry}
    for key, value in defaults.items():
        own = entry.get(key)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            merged[key] = {**value, **own}
    return {key: value for key, value in merged.items() if value is not None}


def _expandable(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, expanded, without those that cannot be: every expert may have its own in their place."""
    found = {}
    for key, value in defaults.items():
        with suppress(ConfigError):
            found[key] = expand_environment(value)
    return found


def _expanded(entry: dict[str, Any]) -> Any:
    """Environment references replaced; an expert that is switched off may lack its variables."""
    try:
        _refuse_shell_reference(entry.get("api_key"))
        return expand_environment(entry)
    except ConfigError:
        if entry.get("enabled") is not False:
            raise
        return {key: value for key, value in entry.items() if key not in ("api_key", "address")}


def _refuse_shell_reference(key: Any) -> None:
    if isinstance(key, str) and bare_reference(key):
        raise ConfigError(
            "api_key: the text has the form $NAME, which is replaced in a shell only (it is not shown, as it may be a "
            "secret); write os.environ/NAME or ${NAME}, also for a key that does begin with a dollar sign"
        )


def _literal_key(entry: Mapping[str, Any], label: str) -> list[str]:
    key = entry.get("api_key")
    is_reference = isinstance(key, str) and ("${" in key or key.startswith("os.environ/"))
    if not isinstance(key, str) or is_reference or len(key) < _LITERAL_KEY_LENGTH:
        return []
    return [f"{label}: api_key is written out in the file; keep it in the environment: api_key: os.environ/NAME"]


def _duplicates(entries: Sequence[Mapping[str, Any]], virtual_ids: Sequence[str]) -> list[str]:
    """Ids that occur twice: those that are written, and those that personas give."""
    written = Counter(entry["id"] for entry in entries if isinstance(entry.get("id"), str))
    problems = [f"expert {name!r} is listed {n} times; ids are unique" for name, n in written.items() if n > 1]
    given = Counter(virtual_ids)
    clashing = [name for name, n in given.items() if n > 1 or name in written]
    return problems + [f"expert {name!r} is also the id of a persona; rename one of them" for name in clashing]
