"""`callyard probe`: options in, runs, a table or JSON out, and the exit code that a script asks for."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import warnings
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import urlsplit

import jwt
import typer

from signaling.ending import told_to_end

if TYPE_CHECKING:  # WebRTC and codecs are imported when a probe runs: the other commands start without them
    from signaling.probe.ice import TurnServer
    from signaling.probe.report import Report
    from signaling.probe.run import RunOptions

USAGE_EXIT_CODE = 2

MIN_SECONDS = 1.0
"""Of media: half a second of tone is analysed, and Opus needs a few frames to settle."""

_DEV_KEY, _DEV_SECRET = "devkey", "secret"
_IDENTITIES = ("probe-first", "probe-second")
_TURN_PORT, _TURNS_PORT = 3478, 5349
"""RFC 7065 §3.2."""


def probe(
    url: Annotated[str, typer.Argument(help="The server: ws, wss, http or https.")],
    room: Annotated[str, typer.Option(help="Room to meet in; one of its own by default.", show_default=False)] = "",
    dev: Annotated[bool, typer.Option("--dev", help="Sign with the development key.")] = False,
    key: Annotated[str, typer.Option(envvar="CALLYARD_KEY", help="API key to sign with.", show_default=False)] = "",
    secret: Annotated[str, typer.Option(envvar="CALLYARD_SECRET", help="Its secret.", show_default=False)] = "",
    token: Annotated[
        list[str] | None,
        typer.Option(help="Instead of a key: ready tokens, given twice, of two identities for one room."),
    ] = None,
    single: Annotated[bool, typer.Option("--single", help="One peer connection, `/rtc/v1`, instead of two.")] = False,
    tcp: Annotated[bool, typer.Option("--tcp", help="Media over ICE-TCP only.")] = False,
    turn: Annotated[
        str, typer.Option(help="Media over this relay only: `turn:HOST:PORT?transport=udp|tcp`.", show_default=False)
    ] = "",
    turn_username: Annotated[str, typer.Option(help="User name at the relay.", show_default=False)] = "",
    turn_password: Annotated[
        str, typer.Option(envvar="PROBE_TURN_PASSWORD", help="Password at the relay.", show_default=False)
    ] = "",
    duration: Annotated[float, typer.Option(min=MIN_SECONDS, max=3600, help="Seconds of media to watch.")] = 3.0,
    timeout: Annotated[float, typer.Option(min=0.1, max=300, help="Seconds that each step may take.")] = 15.0,
    watch: Annotated[
        float | None, typer.Option(min=1, max=86_400, help="Repeat every so many seconds.", show_default=False)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Prometheus metrics, with --watch.", show_default=False)
    ] = None,
    metrics_bind: Annotated[str, typer.Option(help="Address of the metrics.")] = "127.0.0.1",
    json_: Annotated[bool, typer.Option("--json", help="One JSON document a run.")] = False,
) -> None:
    """Check a running server from outside: two participants meet and exchange audio, video and data."""
    from signaling.probe.ice import Paths
    from signaling.probe.participant import JoinOptions
    from signaling.probe.peer import PeerOptions
    from signaling.probe.run import RunOptions, run

    if metrics_port is not None and watch is None:
        _refuse("--metrics-port needs --watch.")
    if tcp and turn:
        _refuse("Say --tcp or --turn, not both.")
    if dev:
        key, secret = _DEV_KEY, _DEV_SECRET
    if token and len(token) != 2:
        _refuse("Give --token twice: two participants meet.")
    if not token and not (key and secret):
        _refuse("Say how to sign in: --dev, --key and --secret, or --token twice.")
    paths = Paths(udp=not tcp, tcp=tcp, turn=_turn_server(turn, turn_username, turn_password) if turn else None)
    join = JoinOptions(single=single, peer=PeerOptions(paths=paths), timeout_seconds=timeout)

    def options() -> RunOptions:
        tokens = (token[0], token[1]) if token else _tokens(key, secret, room or f"probe-{secrets.token_hex(6)}")
        return RunOptions(url=url, tokens=tokens, join=join, seconds=duration)

    for noisy in ("aiortc", "aioice"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # what they warn of is in the report
    if watch is None:
        report = asyncio.run(run(options()))
        _show(report, json_)
        raise typer.Exit(0 if report.ok else 1)
    from prometheus_client import start_http_server

    from signaling.probe.metrics import ProbeMetrics

    metrics = ProbeMetrics()
    if metrics_port is not None:
        try:
            start_http_server(metrics_port, metrics_bind, registry=metrics.registry)
        except OSError as error:
            _refuse(f"The metrics cannot listen on {metrics_bind}:{metrics_port}: {error}.")

    def tell(report: Report) -> None:
        metrics.observe(report)
        _show(report, json_)

    asyncio.run(_watch(lambda: run(options()), watch, tell))


async def _watch(
    run: Callable[[], Coroutine[Any, Any, Report]], every_seconds: float, tell: Callable[[Report], None]
) -> None:
    """Runs until SIGINT or SIGTERM; one under way is broken off and leaves its room."""
    loop = asyncio.get_running_loop()
    with told_to_end() as told:
        while not told.done():
            due = loop.time() + every_seconds
            running = asyncio.create_task(run())
            either: set[asyncio.Future[Any]] = {running, told}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                tell(running.result())
                await asyncio.wait({told}, timeout=max(0.0, due - loop.time()))
            else:
                running.cancel()
                await asyncio.wait({running})


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        typer.echo(report.as_json())
        return
    from rich.console import Console

    from signaling.probe.report import table

    console = Console(soft_wrap=True, highlight=False)
    if any(leg.steps for leg in report.legs):
        console.print(table(report.legs))
    console.print(report.verdict(), style="green" if report.ok else "red", markup=False)


def _tokens(key: str, secret: str, room: str) -> tuple[str, str]:
    now = int(time.time())
    grants = {"roomJoin": True, "room": room, "canPublish": True, "canSubscribe": True, "canPublishData": True}
    claims = {"iss": key, "nbf": now - 5, "exp": now + 600, "video": grants}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)  # the development secret is short for all to see
        first, second = (jwt.encode(claims | {"sub": identity}, secret, algorithm="HS256") for identity in _IDENTITIES)
    return first, second


def _turn_server(uri: str, username: str, password: str) -> TurnServer:
    """A TURN URI (RFC 7065)."""
    from signaling.probe.ice import TurnServer

    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in ("turn", "turns"):
        _refuse(f"`{uri}` is no TURN URI: turn:HOST:PORT?transport=udp or tcp.")
    where, _, query = rest.partition("?")
    try:
        parts = urlsplit(f"//{where}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    tls = scheme == "turns"
    transport = query.removeprefix("transport=") or ("tcp" if tls else "udp")
    if not host or transport not in ("udp", "tcp") or (tls and transport == "udp"):
        _refuse(f"`{uri}` is no TURN URI that the probe can use: udp, tcp, or TLS over tcp.")
    default_port = _TURNS_PORT if tls else _TURN_PORT
    return TurnServer(host, port or default_port, transport, username, password, tls=tls)


def _refuse(sentence: str) -> NoReturn:
    typer.echo(f"callyard: {sentence}", err=True)
    raise typer.Exit(USAGE_EXIT_CODE)
