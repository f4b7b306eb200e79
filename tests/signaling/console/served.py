"""A whole server as its own process, for tests with real clients and browsers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

from signaling.calls.principal import mint
from tests.signaling.api.world import KEY, SECRET

ROOT = Path(__file__).parents[3]
START_SECONDS = 30.0


class Served:
    """`callyard serve --dev` on free ports of loopback, with a state directory of its own.

    `more`: further environment of the process, the settings by their variables.
    """

    def __init__(self, state: Path, **more: str) -> None:
        self._state, self._more = state, more
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, again if it was killed: on the port it had, with what it had left behind."""
        state = self._state
        self._log = (state / "server.log").open("ab")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLYARD_")}
        environment |= {"CALLYARD_STATE_DIR": str(state), "PYTHONPATH": str(ROOT), **self._more}
        options = ["serve", "--dev", "--port", str(self.port), "--udp-port", "0", "--workers", "1"]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "signaling.cli", *options], env=environment, stdout=self._log, stderr=self._log
        )
        self._wait(state / "server.log")

    def _wait(self, log: Path) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._child.poll() is None:
            try:
                if httpx2.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.1)
        self.close()
        raise AssertionError(f"the server did not start: {log.read_text('utf-8')[-2_000:]}")

    def token(self, **claims: Any) -> str:
        return mint({"exp": int(time.time()) + 3_600, **claims}, KEY, SECRET)

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        self._log.close()
