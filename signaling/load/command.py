"""`callyard load`: options in, a load test, a table or JSON out. Exit code 1 if anybody could not take part."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import jwt
import typer

from signaling.ending import told_to_end

if TYPE_CHECKING:  # the core is loaded when a test runs: the other commands start without it
    from rich.progress import Progress, TaskID

    from signaling.load.plan import Join, Plan
    from signaling.load.run import LoadTest, Outcome

USAGE_EXIT_CODE = 2
_TOKEN_SECONDS = 6 * 3_600
_DEV_KEY, _DEV_SECRET = "devkey", "secret"


class Cipher(StrEnum):
    """What clients offer."""

    ALL = "all"
    CM = "cm"


class VideoCodec(StrEnum):
    VP8 = "vp8"
    VP9 = "vp9"
    H264 = "h264"


def load_test(
    url: Annotated[str, typer.Argument(help="The server: ws, wss, http or https.")],
    rooms: Annotated[int, typer.Option(min=1, max=10_000, help="Rooms at once.")] = 1,
    members: Annotated[int, typer.Option(min=0, max=10_000, help="In each room: who send and receive.")] = 0,
    publishers: Annotated[int, typer.Option(min=0, max=10_000, help="In each room: who only send.")] = 1,
    subscribers: Annotated[int, typer.Option(min=0, max=10_000, help="In each room: who only receive.")] = 5,
    audio: Annotated[bool, typer.Option(help="Everybody who sends has a microphone.")] = True,
    video: Annotated[bool, typer.Option(help="Everybody who sends has a camera.")] = True,
    codec: Annotated[VideoCodec, typer.Option(help="Of the cameras.")] = VideoCodec.VP8,
    video_bitrate: Annotated[
        int, typer.Option(min=30_000, max=20_000_000, help="Bits a second of a camera.")
    ] = 1_700_000,
    simulcast: Annotated[bool, typer.Option(help="Cameras send several layers.")] = True,
    layers: Annotated[int, typer.Option(min=2, max=3, help="So many, with --simulcast.")] = 3,
    dynacast: Annotated[bool, typer.Option(help="Layers that nobody wants are not sent.")] = True,
    cipher: Annotated[Cipher, typer.Option(help="What clients offer; cm: AES-CM with HMAC-SHA1 alone.")] = Cipher.ALL,
    loss: Annotated[float, typer.Option(min=0, max=50, help="Per cent of media packets lost, each way.")] = 0.0,
    join_rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="Joins a second.")] = 20.0,
    churn: Annotated[float, typer.Option(min=0, max=200, help="Subscribers a second who leave and come back.")] = 0.0,
    duration: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds, after the last one has come.")] = 30.0,
    timeout: Annotated[float, typer.Option(min=1, max=300, help="Seconds that a join may take.")] = 15.0,
    room_prefix: Annotated[str, typer.Option(help="Beginning of the rooms' names; random by default.")] = "",
    dev: Annotated[bool, typer.Option("--dev", help="Sign with the development key.")] = False,
    key: Annotated[str, typer.Option(envvar="CALLYARD_KEY", help="API key to sign with.", show_default=False)] = "",
    secret: Annotated[str, typer.Option(envvar="CALLYARD_SECRET", help="Its secret.", show_default=False)] = "",
    cpu: Annotated[int | None, typer.Option(min=0, help="Pin the generator to this core.", show_default=False)] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    prometheus: Annotated[
        Path | None, typer.Option(help="Write metrics there, for the textfile collector.", show_default=False)
    ] = None,
) -> None:
    """Fill rooms of any LiveKit-protocol server with light clients and count what reaches them."""
    from sfu.load import Codec, LoadError
    from signaling.load import outcome as outcomes
    from signaling.load.plan import MICROPHONE, Plan, camera
    from signaling.load.run import LoadTest, Options

    if dev:
        key, secret = _DEV_KEY, _DEV_SECRET
    if not key or not secret:
        _refuse("Say --dev, or give --key and --secret.")
    if cpu is not None and cpu not in os.sched_getaffinity(0):
        _refuse(f"There is no core {cpu} for this process.")
    tracks = (
        *([MICROPHONE] if audio else []),
        *([camera(Codec(codec), video_bitrate, layers=layers if simulcast else 1)] if video else []),
    )
    plan = Plan(
        rooms=rooms,
        tracks=tracks,
        prefix=room_prefix or f"load-{secrets.token_hex(3)}",
        speakers=publishers,
        members=members,
        viewers=subscribers,
        joins_per_second=join_rate,
    )
    if not tracks or not plan.participants:
        _refuse("Nobody would take part, or nothing would be sent.")
    options = Options(
        url=url,
        sign=lambda join: _token(join, key, secret),
        duration_seconds=duration,
        churn_per_second=churn,
        timeout_seconds=timeout,
        cm_only=cipher is Cipher.CM,
        dynacast=dynacast,
        loss=loss / 100,
        cpu=cpu,
    )
    try:
        outcome = asyncio.run(_until_told(_run(LoadTest(plan, options), plan, is_quiet=json_)))
    except LoadError as error:
        _refuse(str(error))
    if prometheus is not None:
        prometheus.write_text(outcomes.prometheus(outcome), encoding="utf-8")
    if json_:
        typer.echo(json.dumps(outcomes.document(outcome), indent=2))
    else:
        from rich.console import Console

        Console().print(outcomes.table(outcome))
    took_part = not outcome.progress.failed and outcome.progress.with_media >= plan.expects_media
    raise typer.Exit(0 if took_part else 1)


async def _until_told(test: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Everybody leaves at SIGINT or SIGTERM, and the command ends as one that the signal has ended."""
    running = asyncio.create_task(test)
    with told_to_end() as told:
        either: set[asyncio.Future[Any]] = {running, told}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            raise typer.Exit(128 + told.result())
    return running.result()


async def _run(test: LoadTest, plan: Plan, *, is_quiet: bool) -> Outcome:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if is_quiet:
        return await test.run()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=plan.participants, what="")
        showing = asyncio.create_task(_show(test, bar, task))
        try:
            return await test.run()
        finally:
            showing.cancel()


async def _show(test: LoadTest, bar: Progress, task: TaskID) -> None:
    while True:
        progress = test.progress
        what = f"{progress.joined} joined, {progress.with_media} with media, {progress.failed} failed"
        bar.update(task, description=progress.phase, completed=progress.joined, what=what)
        await asyncio.sleep(0.2)


def _token(join: Join, key: str, secret: str) -> str:
    now = int(time.time())
    grants = {"room": join.room, "roomJoin": True, "canPublish": join.sends, "canSubscribe": join.receives}
    claims = {"iss": key, "sub": join.identity, "nbf": now - 10, "exp": now + _TOKEN_SECONDS, "video": grants}
    return jwt.encode(claims, secret, algorithm="HS256")


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(USAGE_EXIT_CODE)
