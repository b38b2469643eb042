"""Runs the real engine process on a vLLM of straw: the same orders and words, without weights and within moments.

A script for the option `worker` of the backend. What the straw engine does is in `fake.json` beside the model's
`config.json`; `save_base` writes both, and the files that an entry of a pool is checked for.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import runpy
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

SCRIPT = str(Path(__file__).resolve())
_WORKER = Path(__file__).resolve().parents[3] / "router_service" / "backends" / "_vllm_worker.py"
_LAYER = "model.layers.0.self_attn.q_proj"
_HIDDEN = 4

# --- for the tests -------------------------------------------------------------------------------------------------


def save_base(folder: Path, **behaviour: object) -> str:
    """The files of a base that the straw engine can run; `behaviour` is what `StrawEngine` reads."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"dtype": "float32", "_name_or_path": folder.name}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "fake.json").write_text(json.dumps(behaviour))
    _save_tensors(folder / "model.safetensors", {f"{_LAYER}.weight": [_HIDDEN, _HIDDEN]})
    return str(folder)


def save_adapter(folder: Path, base: str, *, rank: int = 4, layer: str = _LAYER, hidden: int = _HIDDEN) -> str:
    """The files of an adapter on that base."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "target_modules": [layer.rsplit(".", 1)[-1]],
        "base_model_name_or_path": Path(base).name,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shapes = {"A": [rank, hidden], "B": [hidden, rank]}
    named = {f"base_model.model.{layer}.lora_{side}.weight": shape for side, shape in shapes.items()}
    _save_tensors(folder / "adapter_model.safetensors", named)
    return str(folder)


def _save_tensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header, end = {}, 0
    for name, (rows, columns) in shapes.items():
        size = 4 * rows * columns
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


# --- the vLLM of straw ---------------------------------------------------------------------------------------------


class Kind(enum.Enum):
    DELTA = 1
    FINAL_ONLY = 2


class Params(SimpleNamespace):
    def __init__(self, **given: Any) -> None:
        defaults = {"temperature": 1.0, "top_p": 1.0, "seed": None, "stop": None, "structured_outputs": None}
        super().__init__(**{**defaults, "prompt_logprobs": None, **given})
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")


@dataclass
class Arguments:
    """`EngineArgs`: the fields that are asked for by name, and the rest as given."""

    lora_target_modules: list[str] | None = None
    given: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def made(cls, **given: Any) -> Arguments:
        return cls(lora_target_modules=given.pop("lora_target_modules", None), given=given)


class EngineArgs:
    lora_target_modules = None

    def __new__(cls, **given: Any) -> Arguments:
        return Arguments.made(**given)


class Tokenizer:
    """Each word, and each space before one, is a token."""

    chat_template: str | None = "straw"

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [self._id(word) for word in text.split()]}

    def _id(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> str:
        if any(turn["role"] == "tool" for turn in turns):
            raise ValueError("no tools here")
        return " ".join(f"<{turn['role']}> {turn['content']}" for turn in turns) + " <assistant>"


@dataclass
class Writing:
    prompt: list[int]
    params: Params
    adapter: str
    words: list[str] = field(default_factory=list)
    company: int = 0


class StrawEngine:
    """`LLMEngine`: writes a word a step for every request; the words depend on prompt, adapter and seed alone.

    Behaviour: `load_error`, `load_s`, `dies_at_load` (a signal), `child` (a process that must go with it), `sleeps`,
    `window`, `step_s`, `die_at_step` (a signal from the step of that number on: [number, signal]), `hang_at_step`,
    `raise_at_step`, `bad_adapter`, `no_template`, `answer`: "words" (default), "params" (what was asked, as JSON),
    "company" (the most adapters that shared a step with it) or "arguments" (those of the engine, as JSON).
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        folder = Path(arguments.given["model"])
        self.does: dict[str, Any] = json.loads((folder / "fake.json").read_text())
        print("this goes to the standard output, where only words may go")
        print("loading", folder.name, file=sys.stderr)
        time.sleep(self.does.get("load_s", 0))
        if self.does.get("child"):
            child = subprocess.Popen(["sleep", "600"])
            (folder / "child").write_text(str(child.pid))
        if "dies_at_load" in self.does:
            os.kill(os.getpid(), self.does["dies_at_load"])
        if "load_error" in self.does:
            raise RuntimeError(self.does["load_error"])
        window = arguments.given.get("max_model_len") or self.does.get("window", 256)
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=window))
        self.tokenizer = Tokenizer()
        self.tokenizer.chat_template = None if self.does.get("no_template") else "straw"
        self.writing: dict[str, Writing] = {}
        self.steps = 0
        self.is_asleep = False
        self.engine_core = SimpleNamespace(shutdown=lambda: None)

    @classmethod
    def from_engine_args(cls, arguments: Arguments) -> StrawEngine:
        return cls(arguments)

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer

    def add_lora(self, adapter: SimpleNamespace) -> None:
        if self.does.get("bad_adapter") == Path(adapter.path).name:
            raise RuntimeError("a tensor of that adapter is of the wrong size")

    def add_request(
        self, name: str, prompt: dict[str, list[int]], params: Params, lora_request: SimpleNamespace | None
    ) -> None:
        if self.is_asleep:
            raise RuntimeError("it is asleep")
        schema = params.structured_outputs
        if schema is not None and schema.json == {"type": "nonsense"}:
            raise ValueError("Grammar error: Invalid type: nonsense")
        adapter = lora_request.path if lora_request else ""
        self.writing[name] = Writing(prompt=prompt["prompt_token_ids"], params=params, adapter=adapter)

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            del self.writing[name]

    def sleep(self, level: int) -> None:
        self.is_asleep = True

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.is_asleep = False

    def collective_rpc(self, method: str) -> None:
        assert method == "reload_weights"

    def step(self) -> list[SimpleNamespace]:
        self.steps += 1
        time.sleep(self.does.get("step_s", 0))
        at, how = self.does.get("die_at_step", [None, None])
        if self.steps == at:
            os.kill(os.getpid(), how)
        if self.steps == self.does.get("hang_at_step"):
            time.sleep(3600)
        if self.steps == self.does.get("raise_at_step"):
            raise RuntimeError("the engine broke amid a step")
        company = len({writing.adapter for writing in self.writing.values()})
        outputs = []
        for name, writing in list(self.writing.items()):
            writing.company = max(writing.company, company)
            output = self._read(writing) if writing.params.prompt_logprobs is not None else self._write(writing)
            if output is not None:
                outputs.append(SimpleNamespace(request_id=name, **vars(output)))
                if output.finished:
                    del self.writing[name]
        return outputs

    def _read(self, writing: Writing) -> SimpleNamespace:
        read = [{token: SimpleNamespace(logprob=-float(token + 1))} for token in writing.prompt]
        return SimpleNamespace(finished=True, prompt_logprobs=read, prompt_token_ids=writing.prompt, outputs=[])

    def _write(self, writing: Writing) -> SimpleNamespace | None:
        params = writing.params
        word, reason = self._next(writing)
        shown = word if not writing.words else f" {word}"
        writing.words.append(shown)
        text = "".join(writing.words)
        for stop in params.stop or [] if self.does.get("answer", "words") == "words" else []:
            if stop in text:
                text, reason = text[: text.index(stop)], "stop"
        if reason is None and len(writing.words) >= params.max_tokens:
            reason = "length"
        if params.output_kind is Kind.FINAL_ONLY and reason is None:
            return None
        is_delta = params.output_kind is Kind.DELTA
        said = SimpleNamespace(
            text=shown if is_delta else text,
            token_ids=[0] if is_delta else [0] * len(writing.words),
            finish_reason=reason,
            stop_reason=None,
            cumulative_logprob=-0.5 * len(writing.words),
        )
        return SimpleNamespace(finished=reason is not None, outputs=[said])

    def _next(self, writing: Writing) -> tuple[str, str | None]:
        kind, params = self.does.get("answer", "words"), writing.params
        if kind == "params":
            known = {key: value for key, value in vars(params).items() if key not in ("output_kind", "logprobs")}
            schema = params.structured_outputs
            return json.dumps({**known, "structured_outputs": schema and vars(schema)}), "stop"
        if kind == "arguments":
            return json.dumps({**self.arguments.given, "targets": self.arguments.lora_target_modules}), "stop"
        seed = params.seed if params.temperature else None
        prompt = " ".join(self.tokenizer.words[token] for token in writing.prompt)
        place = f"{prompt}|{Path(writing.adapter).name}|{seed}|{len(writing.words)}"
        digest = hashlib.sha256(place.encode()).digest()
        reason = "stop" if writing.words and digest[0] < 40 else None
        return (f"w{digest[1]}" if kind == "words" else str(writing.company)), reason


class Structure(SimpleNamespace):
    def __init__(self, json: object = None, json_object: bool | None = None) -> None:
        super().__init__(json=json, json_object=json_object)


class Platform:
    """Sleeps where the environment says so: the engine's own file is not known yet when this is asked."""

    @staticmethod
    def is_sleep_mode_available() -> bool:
        return os.environ.get("STRAW_SLEEPS") == "1"


def _put(name: str, **members: object) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(members)
    sys.modules[name] = module


def main() -> None:
    _put("vllm", __path__=[])
    _put("vllm.version", __version__="of straw")
    _put("vllm.platforms", current_platform=Platform)
    _put("vllm.engine", __path__=[])
    _put("vllm.engine.arg_utils", EngineArgs=EngineArgs)
    _put("vllm.v1", __path__=[])
    _put("vllm.v1.engine", __path__=[])
    _put("vllm.v1.engine.llm_engine", LLMEngine=StrawEngine)
    _put("vllm.sampling_params", SamplingParams=Params, RequestOutputKind=Kind, StructuredOutputsParams=Structure)
    _put("vllm.lora", __path__=[])
    _put(
        "vllm.lora.request", LoRARequest=lambda name, number, path: SimpleNamespace(name=name, number=number, path=path)
    )
    runpy.run_path(str(_WORKER), run_name="__main__")


if __name__ == "__main__":
    main()
