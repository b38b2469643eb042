"""The engine process: runs one vLLM engine by orders that come as JSON lines, and answers in JSON lines.

Run by its path, by any Python that has vLLM: it imports nothing of this project (`_engine_process` is the other end).
Orders are objects with `op` and, but for the last, `line` and `id`, which the answers carry back:

    {"op": "start", "engine": {...}, ...}                   -> ready | failed, the first order
    {"op": "add", "turns": [...], "seeds": [...], ...}      -> delta*, done for each seed | failed
    {"op": "score", "turns": [...], "text": "..."}          -> scored | failed
    {"op": "sleep"} {"op": "wake"}                          -> ok | failed
    {"op": "abort"}                                         (all requests of its line)
    {"op": "stop"}                                          the process ends, as it does when its input ends

`beat` is said after steps, so that a process at work is never silent for long.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Key = tuple[int, int]

_BEAT_S = 1.0
_PR_SET_PDEATHSIG = 1


def forget_own_folder() -> None:
    """Take this script's folder off the import path: a module beside it has the name of the package needed here."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]


def from_vllm(module: str, name: str) -> Any:
    """A name out of one of vLLM's modules, imported when it is needed."""
    return getattr(importlib.import_module(f"vllm.{module}"), name)


class Words:
    """Says JSON lines where the standard output went; whatever else prints there goes to the standard error."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._last = 0.0

    def say(self, **word: object) -> None:
        self._last = time.monotonic()
        self._file.write(json.dumps(word).encode() + b"\n")

    def beat(self) -> None:
        if time.monotonic() - self._last > _BEAT_S:
            self.say(op="beat")


class Refused(Exception):
    """An order that cannot be carried out; `facts` go into the answer beside the message."""

    def __init__(self, code: str, message: object, **facts: int) -> None:
        super().__init__(str(message))
        self.code = code
        self.facts = facts


@dataclass
class Request:
    """One text being written, or (with `scores_from`) one being scored; `key` is its order's line and id."""

    key: Key
    n_prompt: int
    index: int = 0
    streams: bool = False
    scores_from: int | None = None
    texts: list[str] = field(default_factory=list)
    n_written: int = 0


class Engine:
    """One vLLM engine and the requests in it."""

    def __init__(self, order: Json, words: Words) -> None:
        platform = from_vllm("platforms", "current_platform")
        self._words = words
        self._level = order["sleep_level"] if platform.is_sleep_mode_available() else 0
        kind = from_vllm("engine.arg_utils", "EngineArgs")
        wishes = {name: value for name, value in order["wishes"].items() if hasattr(kind, name)}
        self.ignored = sorted(order["wishes"].keys() - wishes.keys())
        arguments = kind(**order["engine"], **wishes, enable_sleep_mode=self._level > 0)
        self._engine = from_vllm("v1.engine.llm_engine", "LLMEngine").from_engine_args(arguments)
        self._tokenizer = self._engine.get_tokenizer()
        if hasattr(self._tokenizer, "chat_template") and not self._tokenizer.chat_template:
            raise Refused("no_chat_template", f"the tokenizer in {order['engine']['model']} has no chat template")
        self.window: int = self._engine.vllm_config.model_config.max_model_len
        self._requests: dict[str, Request] = {}
        self._adapters: set[int] = set()
        self._count = 0

    @property
    def sleeps(self) -> bool:
        return self._level > 0

    @property
    def is_busy(self) -> bool:
        return bool(self._requests)

    def add(self, order: Json) -> None:
        """Begin one text per seed; the first one is streamed where the order says so."""
        prompt = self._prompt(order)
        adapter = self._adapter(order)
        window = min(order["window"] or self.window, self.window)
        if len(prompt) >= window:
            raise Refused("too_long", "the prompt is too long", n_prompt=len(prompt), window=window)
        kinds = from_vllm("sampling_params", "RequestOutputKind")
        made = []
        for index, seed in enumerate(order["seeds"]):
            request = Request(
                key=key_of(order), n_prompt=len(prompt), index=index, streams=order["streams"] and index == 0
            )
            params = from_vllm("sampling_params", "SamplingParams")(
                seed=seed,
                max_tokens=min(order["limit"], window - len(prompt)),
                logprobs=0,
                output_kind=kinds.DELTA if request.streams else kinds.FINAL_ONLY,
                structured_outputs=self._structure(order["schema"]),
                **order["sampling"],
            )
            made.append((request, params))
        for request, params in made:
            self._begin(request, params, prompt=prompt, adapter=adapter)

    def score(self, order: Json) -> None:
        """Begin to read a text after its prompt; no token of it is written anew."""
        prompt = self._prompt(order)
        text = self._tokenizer(order["text"], add_special_tokens=False)["input_ids"]
        if not text:
            return self._words.say(op="scored", **place(key_of(order)), logprob_sum=0.0, tokens=0)
        window = min(order["window"] or self.window, self.window)
        if len(prompt) + len(text) >= window:
            raise Refused("too_long", "the text is too long", n_prompt=len(prompt) + len(text), window=window)
        kind = from_vllm("sampling_params", "RequestOutputKind").FINAL_ONLY
        params = from_vllm("sampling_params", "SamplingParams")(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, output_kind=kind
        )
        request = Request(key=key_of(order), n_prompt=len(prompt), scores_from=len(prompt))
        self._begin(request, params, prompt=[*prompt, *text], adapter=self._adapter(order))

    def abort(self, order: Json) -> None:
        names = [name for name, request in self._requests.items() if request.key[0] == order["line"]]
        if names:
            self._engine.abort_request(names)
        for name in names:
            del self._requests[name]

    def sleep(self, order: Json) -> None:
        if not self._level or self._requests:
            raise Refused("cannot_sleep", "it cannot sleep here" if not self._level else "it is at work")
        self._engine.sleep(self._level)
        self._words.say(op="ok", **place(key_of(order)))

    def wake(self, order: Json) -> None:
        """Bring the weights back; after level 2, which no engine with adapters has, they are read again."""
        if self._level < 2:
            self._engine.wake_up()
        else:
            self._engine.wake_up(["weights"])
            self._engine.collective_rpc("reload_weights")
            self._engine.wake_up(["kv_cache"])
        self._words.say(op="ok", **place(key_of(order)))

    def step(self) -> None:
        """Write the next token of all that is in the engine, and tell what came of it."""
        for output in self._engine.step():
            request = self._requests.get(output.request_id)
            if request is not None:
                self._tell(request, output)
                if output.finished:
                    self._requests.pop(output.request_id, None)
        self._words.beat()

    def close(self) -> None:
        """Let vLLM end the processes that share the model, and give its shared memory back."""
        with contextlib.suppress(Exception):
            self._engine.engine_core.shutdown()

    def _begin(self, request: Request, params: Any, *, prompt: list[int], adapter: Any) -> None:
        self._count += 1
        name = f"{self._count}"
        self._engine.add_request(name, {"prompt_token_ids": prompt}, params, lora_request=adapter)
        self._requests[name] = request

    def _tell(self, request: Request, output: Any) -> None:
        where = place(request.key)
        if request.scores_from is not None:
            read = output.prompt_logprobs[request.scores_from :]
            tokens = output.prompt_token_ids[request.scores_from :]
            total = sum(found[token].logprob for found, token in zip(read, tokens, strict=True))
            return self._words.say(op="scored", **where, logprob_sum=total, tokens=len(tokens))
        for said in output.outputs:
            request.n_written += len(said.token_ids)
            request.texts.append(said.text)
            if request.streams and said.text:
                self._words.say(op="delta", **where, text=said.text)
            if said.finish_reason in ("abort", "error"):
                complaint = f"the engine gave up ({said.stop_reason or said.finish_reason})"
                self._words.say(op="failed", **where, index=request.index, code="stopped", message=complaint)
            elif said.finish_reason:
                self._words.say(
                    op="done",
                    **where,
                    index=request.index,
                    text="".join(request.texts),
                    finish_reason=said.finish_reason,
                    prompt_tokens=request.n_prompt,
                    completion_tokens=request.n_written,
                    logprob_sum=said.cumulative_logprob,
                )

    def _prompt(self, order: Json) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(order["turns"], add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template raises what it likes
            raise Refused("template", error) from error
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else text
        return ids

    def _adapter(self, order: Json) -> Any:
        """The adapter that an order names, read in first: one that cannot be read fails here, not amid a step."""
        if order["adapter"] is None:
            return None
        number, path = order["adapter"]["number"], order["adapter"]["path"]
        adapter = from_vllm("lora.request", "LoRARequest")(f"adapter-{number}", number, path)
        if number not in self._adapters:
            try:
                self._engine.add_lora(adapter)
            except Exception as error:
                traceback.print_exc()
                raise Refused("adapter", f"{type(error).__name__}: {error}") from error
            self._adapters.add(number)
        return adapter

    @staticmethod
    def _structure(schema: Json | None) -> Any:
        if schema is None:
            return None
        structured = from_vllm("sampling_params", "StructuredOutputsParams")
        return structured(json_object=True) if schema["schema"] is None else structured(json=schema["schema"])


def key_of(order: Json) -> Key:
    """The line and the id of an order."""
    return order["line"], order["id"]


def place(key: Key) -> Json:
    """The line and the id that an answer carries back."""
    return {"line": key[0], "id": key[1]}


def read_orders(orders: queue.SimpleQueue[Json]) -> None:
    """Put every order that comes into the queue; when the input ends, nobody wants this process any more."""
    for line in sys.stdin.buffer:
        orders.put(json.loads(line))
    end_group()


def end_group() -> None:
    """End this process at once, with those that share the model: they are in its group."""
    with contextlib.suppress(OSError):
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(1)


def end_with_parent() -> None:
    """Where the system can (Linux), have the kernel tell when the parent is gone.

    The input ends then too, but not where another child of the parent holds its pipe open. Python's own handlers would
    wait for the engine to come to an end of its step; the byte that a signal writes does not.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_await_signal, args=(reader,), daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _await_signal(reader: int) -> None:
    while os.read(reader, 1) != bytes([signal.SIGTERM]):
        pass
    end_group()


def start(order: Json, words: Words) -> Engine | None:
    """The engine that the first order describes; None where it could not be made, which is said."""
    try:
        engine = Engine(order, words)
    except Refused as refused:
        words.say(op="failed", **place(key_of(order)), code=refused.code, message=str(refused))
        return None
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        words.say(op="failed", **place(key_of(order)), code="load", message=f"{type(error).__name__}: {error}")
        return None
    version = from_vllm("version", "__version__")
    can = {"window": engine.window, "sleeps": engine.sleeps, "ignored": engine.ignored}
    words.say(op="ready", **place(key_of(order)), **can, engine=f"vLLM {version}")
    return engine


def carry_out(engine: Engine, order: Json, words: Words) -> None:
    """Do what an order says; what is wrong with it fails it alone."""
    try:
        getattr(engine, order["op"])(order)
    except Refused as refused:
        words.say(op="failed", **place(key_of(order)), code=refused.code, message=str(refused), **refused.facts)
    except ValueError as error:  # what vLLM says of parameters it cannot take
        words.say(op="failed", **place(key_of(order)), code="parameters", message=str(error))


def work(engine: Engine, orders: queue.SimpleQueue[Json], words: Words) -> None:
    """Take orders and write, until told to stop."""
    while True:
        while not (engine.is_busy and orders.empty()):
            order = orders.get()
            if order["op"] == "stop":
                return
            carry_out(engine, order, words)
        engine.step()


def main() -> int:
    """Run an engine; with `--check` only say whether vLLM is there. Returns the exit status."""
    forget_own_folder()
    words = Words()
    if sys.argv[1:] == ["--check"]:
        missing = [name for name in ("vllm",) if importlib.util.find_spec(name) is None]
        words.say(op="checked", missing=missing)
        return 0
    end_with_parent()
    orders: queue.SimpleQueue[Json] = queue.SimpleQueue()
    threading.Thread(target=read_orders, args=(orders,), daemon=True).start()
    engine = start(orders.get(), words)
    if engine is None:
        return 1
    work(engine, orders, words)
    engine.close()
    return 0


if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # the library's own way out may wait for threads and children that have nothing left to say
