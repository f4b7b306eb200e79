"""The `callyard` command. Reads options, calls the part that does the work, prints for people. No rules of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import warnings
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import jwt
import typer
import uvloop
from jwt.warnings import InsecureKeyLengthWarning
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from signaling import collector, structured_logs
from signaling import doctor as doctor_checks
from signaling.calls.principal import mint
from signaling.console.invite import mint_invite
from signaling.errors import CallyardError, SettingsError
from signaling.load.command import load_test
from signaling.probe.command import probe
from signaling.room_service_client import RoomServiceClient
from signaling.settings_sources import LoadedSettings, load

rooms_app = typer.Typer(help="List, inspect and delete rooms of a running server.", no_args_is_help=True)
app = typer.Typer(
    name="callyard",
    help="A media server for calls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(rooms_app, name="rooms")
app.command("load")(load_test)
app.command()(probe)

USAGE_EXIT_CODE = 2

Answer = TypeVar("Answer")

_DEMO_ROOM = "demo"
_PIPED_WIDTH = 400
_INVITE_SECONDS = 7 * 86_400

ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.", show_default=False)]
DevOption = Annotated[
    int,
    typer.Option(
        "--dev", count=True, help="Development key `devkey`, secret `secret`. Twice: on a public address too."
    ),
]
BindOption = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
PortOption = Annotated[int | None, typer.Option(help="TCP port of HTTP and WebSocket.", show_default="7880")]
UdpPortOption = Annotated[
    int | None,
    typer.Option(help="Media port (UDP and TCP) of the first worker; the others take the next.", show_default="7882"),
]
NodeIpOption = Annotated[
    list[str] | None, typer.Option(help="Address told to clients, behind NAT; may be repeated.", show_default=False)
]
WorkersOption = Annotated[int | None, typer.Option(help="Worker processes.", show_default="one per core")]
KeyOption = Annotated[str | None, typer.Option(help="API key.", show_default=False)]
SecretOption = Annotated[
    str | None, typer.Option(help="Its secret; better in CALLYARD_SECRET, where `ps` does not show it.")
]


@app.command()
def serve(
    dev: DevOption = 0,
    bind: BindOption = None,
    port: PortOption = None,
    udp_port: UdpPortOption = None,
    node_ip: NodeIpOption = None,
    workers: WorkersOption = None,
    key: KeyOption = None,
    secret: SecretOption = None,
    webhook_url: Annotated[list[str] | None, typer.Option(help="Where events are sent; may be repeated.")] = None,
    config: ConfigOption = None,
) -> None:
    """Run the server: signaling and its workers."""
    loaded = _load(
        {
            "dev": dev or None,
            "bind": bind,
            "port": port,
            "node.udp_port": udp_port,
            "node.node_ip": node_ip or None,
            "node.workers": workers,
            "key": key,
            "secret": secret,
            "webhooks.urls": webhook_url or None,
        },
        config,
    )
    from signaling.app import Server
    from signaling.http_server import open_listener

    settings = loaded.settings
    structured_logs.configure(settings.log)
    try:
        listener, keeper = open_listener(settings)
        _greet(loaded, listener.getsockname()[1])
        try:
            server = Server(settings)
            collector.settle()
            uvloop.run(server.run(listener))
        finally:
            if keeper is not None:
                keeper.dismiss()
    except CallyardError as error:
        _fail(error.message)


@app.command()
def doctor(
    dev: DevOption = 0,
    bind: BindOption = None,
    port: PortOption = None,
    udp_port: UdpPortOption = None,
    node_ip: NodeIpOption = None,
    workers: WorkersOption = None,
    key: KeyOption = None,
    secret: SecretOption = None,
    config: ConfigOption = None,
) -> None:
    """Check ports, limits and keys; show every effective setting and where it came from."""
    loaded = _load(
        {
            "dev": dev or None,
            "bind": bind,
            "port": port,
            "node.udp_port": udp_port,
            "node.node_ip": node_ip or None,
            "node.workers": workers,
            "key": key,
            "secret": secret,
        },
        config,
    )
    # Piped, a line is a line; a terminal folds long values.
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    table = Table("setting", Column("value", overflow="fold"), "from", box=None, pad_edge=False)
    for row in doctor_checks.effective(loaded):
        table.add_row(*row)
    console.print(table)
    console.print()
    failed = False
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failure": "[red]failure[/]"}
    for finding in doctor_checks.examine(loaded):
        console.print(f"{marks[finding.verdict]}  {finding.name}: ", end="")
        console.print(finding.sentence, markup=False, highlight=False)
        failed = failed or finding.verdict is doctor_checks.Verdict.FAILURE
    raise typer.Exit(1 if failed else 0)


@app.command()
def token(
    identity: Annotated[str, typer.Option(help="Who the token is for; empty for a coordinator's token.")] = "",
    room: Annotated[str, typer.Option(help="The room it opens.")] = "",
    name: Annotated[str, typer.Option(help="Display name.")] = "",
    metadata: Annotated[str, typer.Option(help="The participant's metadata.")] = "",
    attribute: Annotated[list[str] | None, typer.Option(help="`key=value`; may be repeated.")] = None,
    valid_for: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 6 * 3600,
    admin: Annotated[bool, typer.Option("--admin", help="May administer the room.")] = False,
    create: Annotated[bool, typer.Option("--create", help="May create and delete rooms.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="May list rooms.")] = False,
    publish: Annotated[bool, typer.Option(help="May publish audio and video.")] = True,
    publish_data: Annotated[bool, typer.Option(help="May publish data.")] = True,
    subscribe: Annotated[bool, typer.Option(help="May subscribe.")] = True,
    update_metadata: Annotated[bool, typer.Option(help="May change its own metadata.")] = False,
    hidden: Annotated[bool, typer.Option("--hidden", help="Is not seen by others.")] = False,
    dev: DevOption = 0,
    key: KeyOption = None,
    secret: SecretOption = None,
    config: ConfigOption = None,
) -> None:
    """Print an access token, signed with the configured key."""
    settings = _load({"dev": dev or None, "key": key, "secret": secret}, config).settings
    if bool(identity) != bool(room) and not (admin and room):
        _fail("A token to join needs --identity and --room.", USAGE_EXIT_CODE)
    if not (identity or admin or create or list_):
        _fail("Say what the token is for: --identity and --room, --admin and --room, --create or --list.", 2)
    attributes = dict(_pair(text) for text in attribute or ())
    video: dict[str, object] = {}
    if identity:
        video |= {"roomJoin": True, "canPublish": publish, "canPublishData": publish_data, "canSubscribe": subscribe}
        video |= {"canUpdateOwnMetadata": True} if update_metadata else {}
        video |= {"hidden": True} if hidden else {}
    video |= {"room": room} if room else {}
    video |= {name: True for name, said in _coordinator_grants(admin, create, list_) if said}
    now = int(time.time())
    claims: dict[str, object] = {"sub": identity, "nbf": now - 5, "exp": now + valid_for, "video": video}
    claims |= {field: value for field, value in (("name", name), ("metadata", metadata)) if value}
    claims |= {"attributes": attributes} if attributes else {}
    issuer, its_secret = next(iter(settings.keyring.items()))
    typer.echo(jwt.encode(claims | {"iss": issuer}, its_secret, algorithm="HS256"))


@app.command("api-token")
def api_token(
    user: Annotated[str, typer.Option(help="Whose token; empty for a server token, which may do everything.")] = "",
    name: Annotated[str, typer.Option(help="The user's name, for the first time he is seen.")] = "",
    valid_for: Annotated[int, typer.Option(min=1, help="Seconds until it expires.")] = 3600,
    dev: DevOption = 0,
    key: KeyOption = None,
    secret: SecretOption = None,
    config: ConfigOption = None,
) -> None:
    """Print a token of the calls API: a server token signs in to the console, a user's opens the page of a call."""
    settings = _load({"dev": dev or None, "key": key, "secret": secret}, config).settings
    claims: dict[str, object] = {"sub": user} if user else {"scope": "server"}
    claims |= {"name": name} if name else {}
    issuer, its_secret = next(iter(settings.keyring.items()))
    typer.echo(mint({**claims, "exp": int(time.time()) + valid_for}, issuer, its_secret))


UrlOption = Annotated[str, typer.Option(help="The server's URL.")]
_LOCAL = "http://127.0.0.1:7880"


@rooms_app.command("list")
def list_rooms(
    url: UrlOption = _LOCAL,
    dev: DevOption = 0,
    key: KeyOption = None,
    secret: SecretOption = None,
    config: ConfigOption = None,
) -> None:
    """List the rooms that are open."""
    client = _room_service(url, dev, key, secret, config)
    table = Table("room", "sid", "participants", "publishers", "metadata", box=None, pad_edge=False)
    for room in _ask(client.list_rooms()):
        counts = str(room.get("num_participants", 0)), str(room.get("num_publishers", 0))
        table.add_row(escape(room["name"]), room["sid"], *counts, escape(room.get("metadata", "")))
    Console().print(table)


@rooms_app.command("inspect")
def inspect_room(
    room: str,
    url: UrlOption = _LOCAL,
    dev: DevOption = 0,
    key: KeyOption = None,
    secret: SecretOption = None,
    config: ConfigOption = None,
) -> None:
    """Show who is in a room and what each publishes, as JSON."""
    client = _room_service(url, dev, key, secret, config)
    typer.echo(json.dumps(_ask(client.participants(room)), indent=2, ensure_ascii=False))


@rooms_app.command("delete")
def delete_room(
    room: str,
    url: UrlOption = _LOCAL,
    dev: DevOption = 0,
    key: KeyOption = None,
    secret: SecretOption = None,
    config: ConfigOption = None,
) -> None:
    """End a room; everybody in it is told to leave."""
    _ask(_room_service(url, dev, key, secret, config).delete_room(room))


@app.command()
def trace(
    room: str,
    identity: Annotated[str, typer.Argument(help="The participant whose reception is looked at.")],
    seconds: Annotated[float, typer.Option(min=1, help="How long to record.")] = 30,
    output: Annotated[
        Path | None, typer.Option(help="File to write; `callyard-sim replay FILE` plays it again.", show_default="-")
    ] = None,
    url: UrlOption = _LOCAL,
    dev: DevOption = 0,
    key: KeyOption = None,
    secret: SecretOption = None,
    config: ConfigOption = None,
) -> None:
    """Record what one participant is sent and why: estimate, layers, reasons, all they follow from, line by line."""
    client = _room_service(url, dev, key, secret, config)

    async def record() -> None:
        opened = None
        try:
            async for chunk in client.trace(room, identity, seconds):
                # Nothing is left behind where the server refuses.
                opened = opened or (sys.stdout.buffer if output is None else output.open("wb"))
                opened.write(chunk)
                opened.flush()
        finally:
            if opened is not None and output is not None:
                opened.close()

    try:
        _ask(record())
    except OSError as error:
        _fail(f"{output}: {error.strerror or error}.")
    except KeyboardInterrupt:
        # What was recorded until then is a trace.
        raise typer.Exit(130) from None


def _room_service(url: str, dev: int, key: str | None, secret: str | None, config: Path | None) -> RoomServiceClient:
    settings = _load({"dev": dev or None, "key": key, "secret": secret}, config).settings
    return RoomServiceClient(url, *next(iter(settings.keyring.items())))


def _ask(answer: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        return asyncio.run(answer)
    except CallyardError as error:
        _fail(error.message)


def main() -> None:
    """Entry point of the `callyard` command."""
    # Settings judge keys, in words for people; only the published development secret is shorter.
    warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)
    app()


def _coordinator_grants(admin: bool, create: bool, list_: bool) -> list[tuple[str, bool]]:
    return [("roomAdmin", admin), ("roomCreate", create), ("roomList", list_)]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        _fail(f"`{text}` is not key=value.", USAGE_EXIT_CODE)
    return name, value


def _load(options: Mapping[str, Any], config: Path | None) -> LoadedSettings:
    said = {path: value for path, value in options.items() if value is not None}
    try:
        return load(options=said, environ=os.environ, file=config)
    except SettingsError as error:
        _fail(error.message, USAGE_EXIT_CODE)


def _greet(loaded: LoadedSettings, port: int) -> None:
    settings = loaded.settings
    if not settings.dev:
        return
    host = settings.bind if settings.is_public else "localhost"
    url = (settings.public_url or f"http://{host}:{port}").rstrip("/")
    key, secret = next(iter(settings.keyring.items()))
    invite = mint_invite(key, secret, room=_DEMO_ROOM, now=time.time(), ttl_seconds=_INVITE_SECONDS)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print("\n  Callyard, for development\n", style="bold")
    console.print(f"  URL     {url.replace('http', 'ws', 1)}\n  key     {key}\n  secret  {secret}\n")
    console.print(f"  Open this in two tabs to be in a call:\n  {url}/call#invite={invite}\n")
    token = mint({"scope": "server", "exp": int(time.time()) + _INVITE_SECONDS}, key, secret)
    console.print(f"  The console is at {url}/console; sign in with this token:\n  {token}\n")


def _fail(message: str, code: int = 1) -> NoReturn:
    for line in message.splitlines():
        print(f"callyard: {line}", file=sys.stderr)  # noqa: T201 - the command's own voice, not a log
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
