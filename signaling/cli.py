"""The `callyard` command. Reads options, calls the part that does the work, prints for people. No rules of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from signaling import doctor as doctor_checks
from signaling import structured_logs
from signaling.console.invite import mint_invite
from signaling.errors import CallyardError, SettingsError
from signaling.settings_sources import LoadedSettings, load

app = typer.Typer(
    name="callyard",
    help="A media server for calls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

USAGE_EXIT_CODE = 2

_DEMO_ROOM = "demo"
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
    from signaling.http_server import listen

    settings = loaded.settings
    structured_logs.configure(settings.log)
    try:
        listener = listen(settings.bind, settings.port, settings.http.backlog)
        _greet(loaded, listener.getsockname()[1])
        uvloop.run(Server(settings).run(listener))
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
    console = Console()
    table = Table("setting", "value", "from", box=None, pad_edge=False)
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


def main() -> None:
    """Entry point of the `callyard` command."""
    app()


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


def _fail(message: str, code: int = 1) -> NoReturn:
    for line in message.splitlines():
        print(f"callyard: {line}", file=sys.stderr)  # noqa: T201 - the command's own voice, not a log
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
