"""One call over one link with one server: starts everybody, lets it last, and gathers what each has seen."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from bench.links import publisher, servers, viewer, watch
from bench.links.emulator import Emulator, Log
from bench.links.lab import Side, family, lab
from bench.links.scenarios import Scenario
from bench.links.servers import Server

_ROOT = Path(__file__).parents[2]
_VIEWER = "viewer"
_Left = TypeVar("_Left")


class Call(msgspec.Struct):
    """All that one run leaves: raw, before any judgement."""

    scenario: str
    server: str
    seed: int
    link: Log
    sight: viewer.Sight
    sent: list[publisher.Reading]
    looks: list[watch.Look]
    load_average: float


class CallError(Exception):
    """Somebody of the call ended early; the log says more."""


def run(scenario: Scenario, make: Callable[[Path], Server], seed: int, log: IO[bytes]) -> Call:
    """In real time. `make` is given a directory for the server's state; `log` takes what everybody says."""
    state = Path(tempfile.mkdtemp(prefix="cy-links-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        built = stack.enter_context(lab())
        stack.callback(_end, built.server)
        stack.callback(_end, built.viewer)
        emulator = Emulator(built, scenario.link, seed=seed)
        stack.callback(emulator.kill)
        server = make(state)
        subprocess.Popen(
            built.server.command(*server.arguments),
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        people = tuple(
            publisher.Person(servers.token(f"person-{index}"), tracks) for index, tracks in enumerate(scenario.people)
        )
        sending = stack.enter_context(
            _process(built.server, "publisher", publisher.Orders(servers.URL, people), log, list[publisher.Reading])
        )
        sending.ready()
        module = "browser_viewer" if scenario.client == "chromium" else "viewer"
        orders = viewer.Orders(servers.URL, servers.token(_VIEWER, can_publish=False), servers.HTTP)
        watching = None
        if server.explains:
            asks = servers.token("operator", room_admin=True)
            url = f"{servers.HTTP}/debug/rooms/{servers.ROOM}"
            watching = stack.enter_context(
                _process(built.server, "watch", watch.Orders(url, asks, _VIEWER), log, list[watch.Look])
            )
        looking = stack.enter_context(_process(built.viewer, module, orders, log, viewer.Sight))
        looking.ready()
        emulator.start()
        looking.say("start")
        time.sleep(scenario.seconds)
        load = os.getloadavg()[0]
        link = emulator.stop()
        return Call(
            scenario=scenario.name,
            server=server.name,
            seed=seed,
            link=link,
            sight=looking.leave(),
            sent=sending.leave(),
            looks=watching.leave() if watching is not None else [],
            load_average=load,
        )


class _Process(msgspec.Struct):
    name: str
    process: subprocess.Popen[bytes]
    left: Any

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ready(self) -> None:
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise CallError(f"the {self.name} ended before the call")

    def leave(self) -> Any:
        """What it writes at the end of its input."""
        try:
            written, _ = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            raise CallError(f"the {self.name} does not end") from None
        if not written:
            raise CallError(f"the {self.name} left nothing")
        return msgspec.json.decode(written, type=self.left)


@contextlib.contextmanager
def _process(side: Side, module: str, orders: object, log: IO[bytes], left: object) -> Iterator[_Process]:
    process = subprocess.Popen(
        side.command(sys.executable, "-m", f"bench.links.{module}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        started = _Process(module, process, left)
        started.say(msgspec.json.encode(orders).decode())
        yield started
    finally:
        process.kill()
        process.wait()


def _end(side: Side) -> None:
    """Ends all that still runs on one side: servers, their workers, browsers."""
    for patience, number in ((2.0, signal.SIGTERM), (2.0, signal.SIGKILL)):
        for pid in family(side.namespace):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while family(side.namespace) and time.monotonic() < deadline:
            time.sleep(0.05)
