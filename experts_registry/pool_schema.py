"""What a pool file may say about an expert, field by field, and how an entry becomes an `Expert`."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SecretStr,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
)

from experts_registry.personas import persona_problem, persona_text
from router_service.config import StrictModel
from router_service.types import Expert, ExpertLimits, Prices, Sampling, Secret

__all__ = ["DefaultsEntry", "ExpertEntry", "LimitsEntry", "PoolFile", "PricesEntry", "SamplingEntry", "to_expert"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
_RESERVED_ID = "auto"
_LIMITS = ExpertLimits()
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""`builtin:name` or `hf://name`: a reference for the backend to resolve, not a path."""

Modality = Literal["text", "image", "audio"]
Option = StrictBool | StrictInt | StrictFloat | StrictStr
Penalty = Annotated[float, Field(ge=-2, le=2)]


class PricesEntry(StrictModel):
    """Prices in USD per million tokens; leave `prices` out where they are unknown, write 0 where calls are free."""

    input_usd_per_mtok: float = Field(ge=0, allow_inf_nan=False)
    """USD per million prompt tokens."""
    output_usd_per_mtok: float = Field(ge=0, allow_inf_nan=False)
    """USD per million completion tokens."""


class SamplingEntry(StrictModel):
    """Sampling settings of this expert where a query does not set them."""

    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling: the share of probability kept."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest completion, in tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion."""
    presence_penalty: Penalty | None = None
    """From -2 to 2."""
    frequency_penalty: Penalty | None = None
    """From -2 to 2."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class LimitsEntry(StrictModel):
    """How hard the expert may be worked."""

    max_concurrency: int = Field(default=_LIMITS.max_concurrency, ge=1)
    """Calls at once."""
    max_attempts: int = Field(default=_LIMITS.max_attempts, ge=1)
    """Tries per call, the first included."""
    timeout_s: float = Field(default=_LIMITS.timeout_s, gt=0, allow_inf_nan=False)
    """Seconds per try."""


class DefaultsEntry(StrictModel):
    """What a pool's `defaults` may set for all of its experts."""

    model: str | None = Field(default=None, min_length=1)
    """Weights or API name, as the backend understands it."""
    backend: str | None = Field(default=None, min_length=1)
    """Registered name of the backend that reaches it."""
    address: str | None = None
    """Base URL of the server, where the backend needs one."""
    api_key: SecretStr | None = None
    """The server's key; write a reference, `os.environ/NAME` or `${NAME}`."""
    prices: PricesEntry | None = None
    """Unset means unknown, not free."""
    context_window: int | None = Field(default=None, ge=1)
    """Tokens of prompt and completion together."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """Most tokens the model writes in one completion."""
    modalities: frozenset[Modality] = frozenset({"text"})
    """Kinds of content it reads."""
    parameters_b: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Size in billions of parameters."""
    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory that the loaded model takes, in GiB."""
    energy_j: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Joules that one completion typically takes; unset means unknown, not none."""
    latency_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds that one completion typically takes."""
    licence: str | None = Field(default=None, min_length=1)
    """Licence of the weights or terms of the API, by the name that rules on licences use, such as `apache-2.0`."""
    released: datetime.date | None = None
    """Day the model was released, as `2025-01-31`."""
    lora_base: str | None = Field(default=None, min_length=1)
    """Model that `adapter` sits on; experts of one base share its weights."""
    adapter: str | None = Field(default=None, min_length=1)
    """LoRA adapter folder; a relative path is the pool file's."""
    persona: str | None = None
    """System prompt: a model with a persona is an expert of its own. `builtin:NAME` is a text of the package."""
    personas: dict[str, str] = Field(default_factory=dict)
    """System prompts by name, each a further expert `ID.NAME` beside this one, which stays without."""
    description: str | None = None
    """What it is good at, in words."""
    sampling: SamplingEntry = SamplingEntry()
    """Sampling settings where the query has none."""
    limits: LimitsEntry = LimitsEntry()
    """Concurrency, tries and timeout."""
    options: dict[str, Option] = Field(default_factory=dict)
    """What only its backend understands."""
    enabled: bool = True
    """False keeps the entry and never recruits it."""

    @field_validator("persona")
    @classmethod
    def _persona_is_known(cls, value: str | None) -> str | None:
        return persona_text(value) if value else value

    @field_validator("personas")
    @classmethod
    def _personas_have_names_and_texts(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if value and info.data.get("persona"):
            raise ValueError(
                "stands beside persona: an entry with personas is also an expert without one; name that persona here "
                "too, and leave persona out (persona: null where it comes from defaults)"
            )
        for name, text in value.items():
            if (problem := persona_problem(name)) is not None:
                raise ValueError(f"{name!r} {problem}")
            if not text.strip():
                raise ValueError(f"{name!r} is empty; write a system text, or leave the persona out")
        return {name: persona_text(text) for name, text in value.items()}

    @field_validator("modalities")
    @classmethod
    def _every_query_has_text(cls, value: frozenset[str]) -> frozenset[str]:
        if "text" not in value:
            raise ValueError("must include 'text', which every query holds")
        return value

    @field_validator("max_output_tokens")
    @classmethod
    def _output_fits_the_window(cls, value: int | None, info: ValidationInfo) -> int | None:
        window = info.data.get("context_window")
        if value is not None and window is not None and value > window:
            raise ValueError(f"is more than context_window, {window}")
        return value


class ExpertEntry(DefaultsEntry):
    """One expert of a pool file."""

    id: str
    """Unique name; callers may ask for it as a model. Letters, digits and `. _ : / @ + -`."""
    model: str = Field(min_length=1)
    backend: str = Field(min_length=1)

    @field_validator("id")
    @classmethod
    def _id_is_callable(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError("must begin with a letter or digit and hold only letters, digits and . _ : / @ + -")
        if value == _RESERVED_ID or value.startswith(f"{_RESERVED_ID}/"):
            raise ValueError(f"{_RESERVED_ID!r} and names under '{_RESERVED_ID}/' ask for routing; choose another id")
        return value

    @field_validator("adapter")
    @classmethod
    def _adapter_has_a_base(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("lora_base") is None:
            raise ValueError("needs lora_base, the model it sits on")
        return value


class PoolFile(StrictModel):
    """The whole of a pool file; the entries are checked one by one, so that every problem can name its expert."""

    name: str | None = Field(default=None, min_length=1)
    """Name of the pool; the file's own name where unset."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Merged under every expert."""
    experts: list[dict[str, Any]] = Field(min_length=1)
    """The experts; at least one."""


def to_expert(entry: ExpertEntry, base_dir: Path) -> Expert:
    """The expert an entry describes; relative adapter paths, and `./` or `../` model paths, are `base_dir`'s."""
    key = entry.api_key.get_secret_value() if entry.api_key is not None else ""
    prices = entry.prices
    return Expert(
        id=entry.id,
        model=_model_path(entry.model, base_dir),
        backend=entry.backend,
        address=entry.address or None,
        api_key=Secret(key) if key else None,
        prices=Prices(**prices.model_dump()) if prices is not None else None,
        context_window=entry.context_window,
        max_output_tokens=entry.max_output_tokens,
        modalities=frozenset(entry.modalities),
        parameters_b=entry.parameters_b,
        memory_gib=entry.memory_gib,
        energy_j=entry.energy_j,
        latency_s=entry.latency_s,
        licence=entry.licence,
        released=entry.released.isoformat() if entry.released is not None else None,
        lora_base=_model_path(entry.lora_base, base_dir) if entry.lora_base is not None else None,
        adapter=_adapter_path(entry.adapter, base_dir) if entry.adapter is not None else None,
        persona=entry.persona,
        description=entry.description,
        sampling=Sampling(**entry.sampling.model_dump()),
        limits=ExpertLimits(**entry.limits.model_dump()),
        options=dict(entry.options),
        is_enabled=entry.enabled,
    )


def _model_path(value: str, base_dir: Path) -> str:
    """Only what is plainly a path is one: `org/name` is a hub id."""
    return str((base_dir / value).resolve()) if value.startswith(("./", "../")) else value


def _adapter_path(value: str, base_dir: Path) -> str:
    return value if _SCHEME.match(value) else str((base_dir / value).resolve())
