"""A stand-in for an interpreter with vLLM: speaks as its server does, and misbehaves as its model folder says.

Run as `python fake_vllm.py -m vllm.entrypoints.openai.api_server --model FOLDER ...`; the file FOLDER/fake.json
may hold {"at_start": "die" | "hang", "is_stubborn": true, "fails": "/sleep"}. Asked to "crash now" it kills itself, to
"break now" it is as if its engine had died, to "hang now" it stops answering anything, to "wait now" it takes its time.
With `--check` after a script's name it says whether it has vLLM. What it was started with, and told, goes into
FOLDER/journal.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

WINDOW = 64
KNOWN = (
    "generation-config",
    *("tensor-parallel-size", "quantization", "load-format", "dtype", "max-model-len", "max-num-seqs", "max-loras"),
    *("kv-cache-memory-bytes", "gpu-memory-utilization", "block-size", "max-lora-rank", "max-cpu-loras"),
)
SWITCHES = ("enforce-eager", "trust-remote-code", "disable-log-stats", "enable-lora", "enable-sleep-mode")


def interpreter(folder: Path, *, has_vllm: bool = True) -> str:
    """A command in that folder which takes a real interpreter's place: it has this vLLM, or none at all."""
    script = folder / "python"
    lacking = "" if has_vllm else "FAKE_WITHOUT=1 "
    script.write_text(f'#!/bin/sh\n{lacking}exec {sys.executable} -I -S {__file__} "$@"\n')
    script.chmod(0o755)
    return str(script)


def journal(folder: Path, **entry: object) -> None:
    with (folder / "journal.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


class Handler(BaseHTTPRequestHandler):
    """One connection; the class has what is the server's."""

    protocol_version = "HTTP/1.1"
    folder = Path()
    names: tuple[str, ...] = ()
    key = ""
    behaviour: ClassVar[dict[str, Any]] = {}
    open = 0
    counting = threading.Lock()
    is_hanging = threading.Event()
    is_broken = threading.Event()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._wait_if_hanging()
        if self.path == "/health":
            return self._reply(503 if self.is_broken.is_set() else 200, {})
        if self.path == "/v1/models" and self._is_allowed():
            data = [{"id": name, "max_model_len": WINDOW if name == "base" else None} for name in self.names]
            return self._reply(200, {"object": "list", "data": data})
        self._reply(404, {"error": {"message": "not found"}})

    def do_POST(self) -> None:
        self._wait_if_hanging()
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path, _, query = self.path.partition("?")
        if path in ("/sleep", "/wake_up", "/collective_rpc"):
            return self._nap(path, query, body)
        if not self._is_allowed():
            return
        if body["model"] not in self.names:
            return self._complain(404, f"The model `{body['model']}` does not exist.")
        text = " ".join(str(message["content"]) for message in body["messages"])
        self._behave(text)
        if len(text.split()) > WINDOW:
            return self._complain(
                400,
                f"This model's maximum context length is {WINDOW} tokens. However, your prompt contains at least "
                f"{WINDOW + 1} input tokens",
            )
        if body.get("max_tokens", 1) > WINDOW:
            return self._complain(400, f"max_tokens={body['max_tokens']} cannot be greater than max_model_len={WINDOW}")
        if "note this" in text:
            journal(self.folder, asked={name: value for name, value in body.items() if name != "messages"})
        self._answer(body)

    def _behave(self, text: str) -> None:
        if "crash now" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "break now" in text:  # as a server whose engine died under it
            self.is_broken.set()
        if "hang now" in text:
            self.is_hanging.set()
        if "wait now" in text:
            self._wait()
        self._wait_if_hanging()

    def _wait(self) -> None:
        server = type(self)
        with self.counting:
            server.open += 1
            journal(self.folder, open=server.open)
        time.sleep(0.1)
        with self.counting:
            server.open -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        if self.is_broken.is_set():
            return self._complain(500, "EngineCore encountered an issue")
        said = ["You ", f"asked {body['model']}: ", *(f"{word} " for word in body["messages"][-1]["content"].split())]
        usage = {"prompt_tokens": 5, "completion_tokens": len(said), "total_tokens": 5 + len(said)}
        if not body.get("stream"):
            choices = [
                {"index": i, "message": {"role": "assistant", "content": "".join(said)}, "finish_reason": "stop"}
                for i in range(body.get("n", 1))
            ]
            return self._reply(200, {"choices": choices, "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in said:
            self._send({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            time.sleep(0.005)
            if "die midway" in body["messages"][-1]["content"] and piece is said[1]:
                os.kill(os.getpid(), signal.SIGKILL)
        self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._send({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _nap(self, path: str, query: str, body: dict[str, Any]) -> None:
        journal(self.folder, told=path, query=query, body=body)
        if self.behaviour.get("fails") == path:
            return self._complain(500, "no")
        self._reply(200, {})

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.key}":
            return True
        self._complain(401, "Unauthorized")
        return False

    def _wait_if_hanging(self) -> None:
        while self.is_hanging.is_set():
            time.sleep(0.05)

    def _complain(self, status: int, message: str) -> None:
        self._reply(status, {"error": {"message": message, "type": "BadRequestError", "code": status}})

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that went away is nothing to talk about."""


def arguments_of(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="api_server.py", allow_abbrev=False)
    for name in ("model", "host", "port", *KNOWN):
        parser.add_argument(f"--{name}")
    for name in (*SWITCHES, "disable-uvicorn-access-log"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--served-model-name")
    parser.add_argument("--lora-modules", nargs="*", default=[])
    return parser.parse_args(argv)


def serve(argv: list[str]) -> None:
    given = arguments_of(argv)
    folder = Path(given.model)
    file = folder / "fake.json"
    behaviour = json.loads(file.read_text()) if file.exists() else {}
    # What the engine is in a real server: a child that does not notice when its parent is killed.
    engine = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    variables = ("VLLM_SERVER_DEV_MODE", "CUDA_VISIBLE_DEVICES", "SOME_TOKEN")
    told = {name: os.environ[name] for name in variables if name in os.environ}
    journal(folder, argv=argv, pid=os.getpid(), engine=engine.pid, port=int(given.port), environment=told)
    print("loading the model with key", os.environ.get("VLLM_API_KEY"), file=sys.stderr, flush=True)
    if behaviour.get("at_start") == "die":
        print("ValueError: this model cannot be served", file=sys.stderr, flush=True)
        sys.exit(3)
    if behaviour.get("at_start") == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    modules = [json.loads(module)["name"] for module in given.lora_modules]
    Handler.names, Handler.folder, Handler.behaviour = (given.served_model_name or "base", *modules), folder, behaviour
    Handler.key = os.environ["VLLM_API_KEY"]
    server = Server((given.host, int(given.port)), Handler)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def end(*_: object) -> None:
        engine.kill()
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour.get("is_stubborn") else end)
    server.serve_forever(0.05)


if __name__ == "__main__":
    if sys.argv[1:2] == ["-m"]:
        serve(sys.argv[3:])
    else:  # `SCRIPT --check`: is vLLM there?
        print(json.dumps({"op": "checked", "missing": ["vllm"] if "FAKE_WITHOUT" in os.environ else []}))
