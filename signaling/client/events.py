"""The event socket as an async iterator: ordered per call, nothing twice, losses repaired by resume or resync.

What the iterator yields besides events of the API: `resync` where the server no longer had what was missed (`data` is a
snapshot: apply it instead of what you knew of the call), and `unsubscribed` where the right to watch was lost.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from signaling.client.errors import RateLimited, Unauthenticated, Unavailable, VideoError, error_of
from signaling.client.models import Value
from signaling.client.transport import Transport

log = logging.getLogger(__name__)

OPEN_TIMEOUT_SECONDS = 15.0
QUEUE_MAX = 1_000
"""Events held for a slow reader; beyond, the socket is not read, and the server may close it: then we resume."""
CIDS_PER_FRAME = 100
IDS_REMEMBERED = 2_000
FRAME_MAX_BYTES = 8 << 20
BACKOFF_FIRST_SECONDS, BACKOFF_MAX_SECONDS = 0.2, 20.0
RENEW_BEFORE_SECONDS = 30.0
ASK_AGAIN_SECONDS = 1.0
"""After a refusal for the moment that does not say how long it lasts."""
CLOSE_UNAUTHENTICATED, CLOSE_FORBIDDEN = 4401, 4403


class Event(Value, frozen=True):
    """One event. `seq` rises per call, None for what is never replayed; `cid` is None for events of no call."""

    type: str
    data: dict[str, Any]
    id: str = ""
    cid: str | None = None
    session_id: str | None = None
    seq: int | None = None
    prev_seq: int | None = None
    at: datetime | None = None
    actor: str | None = None


class _Refused(Exception):
    """Trying again would not help; carries the error for the reader."""

    def __init__(self, error: VideoError) -> None:
        super().__init__(error.code)
        self.error = error


class Ledger:
    """What has been received of each call: tells new events from repeated ones and from ones after a gap. Pure."""

    def __init__(self) -> None:
        self.last: OrderedDict[str, int] = OrderedDict()
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._resuming: list[frozenset[str]] = []

    def judge(self, event: Mapping[str, Any]) -> str:
        """Return `new`, `old` or `gap`; a gap is to be resumed, and the event comes again."""
        event_id, cid, seq = event.get("id"), event.get("cid"), event.get("seq")
        if isinstance(event_id, str) and event_id in self._ids:
            return "old"
        if isinstance(cid, str) and isinstance(seq, int):
            last = self.last.get(cid)
            if last is not None and seq <= last:
                return "old"
            if last is not None and event.get("prev_seq") != last:
                # While a resume is under way, whatever does not follow is part of what will be replayed.
                return "old" if any(cid in asked for asked in self._resuming) else "gap"
            self.last[cid] = seq
            self.last.move_to_end(cid)
        if isinstance(event_id, str):
            self._ids[event_id] = None
            if len(self._ids) > IDS_REMEMBERED:
                self._ids.popitem(last=False)
        return "new"

    def subscribed(self, cid: str, seq: int) -> None:
        self.last[cid] = seq

    def forget(self, cid: str) -> None:
        self.last.pop(cid, None)

    def resume(self, cids: Iterable[str]) -> dict[str, int]:
        """Note that these are resumed; return what the frame says of them."""
        asked = {cid: self.last[cid] for cid in cids if cid in self.last}
        self._resuming.append(frozenset(asked))
        return asked

    def resumed(self) -> None:
        """The oldest resume was answered in full."""
        if self._resuming:
            self._resuming.pop(0)

    def disconnected(self, wanted: Collection[str]) -> None:
        """What was under way is lost with the connection; of calls that are not watched the latest are resumed."""
        self._resuming.clear()
        strangers = [cid for cid in self.last if cid not in wanted]
        for cid in strangers[:-CIDS_PER_FRAME]:
            del self.last[cid]


class EventStream:
    """Use as `async with client.events([call]) as events: async for event in events: …`"""

    def __init__(self, transport: Transport, cids: Iterable[str], *, device_id: str, reconnect_seconds: float) -> None:
        self.connection_id: str | None = None
        self._transport = transport
        self._device_id = device_id
        self._reconnect_seconds = reconnect_seconds
        self._wanted: dict[str, None] = dict.fromkeys(cids)
        self._ledger = Ledger()
        self._queue: asyncio.Queue[Event | VideoError | None] = asyncio.Queue(QUEUE_MAX)
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self._asking: deque[dict[str, Any]] = deque()
        """What is asked to be watched or resumed; the first is sent, and the next when it is answered."""
        self._asking_again: asyncio.Task[None] | None = None
        self._resume_token = ""
        self._ended = False
        self._refusals = 0

    # For the reader

    async def open(self) -> EventStream:
        """Connect, authenticate and subscribe; raises `VideoError` if a call may not be watched."""
        if self._task is None or self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run())
            try:
                await self._opened
            except BaseException:
                await self.aclose()
                raise
        elif not self._opened.done():
            await asyncio.shield(self._opened)
        return self

    async def aclose(self) -> None:
        self._ended = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._queue.empty():
            self._queue.put_nowait(None)

    async def __aenter__(self) -> EventStream:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        if self._ended and self._queue.empty():
            raise StopAsyncIteration
        await self.open()
        item = await self._queue.get()
        if isinstance(item, Event):
            return item
        self._ended = True
        if item is None:
            raise StopAsyncIteration
        raise item

    async def subscribe(self, *cids: str) -> None:
        """Watch more calls; raises `VideoError` if one may not be watched."""
        await self.open()
        self._wanted.update(dict.fromkeys(cids))
        waiting = {cid: asyncio.get_running_loop().create_future() for cid in cids}
        self._awaited.update(waiting)
        await self._subscribe(cids)
        async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
            await asyncio.gather(*waiting.values())

    async def unsubscribe(self, *cids: str) -> None:
        for cid in cids:
            self._wanted.pop(cid, None)
            self._ledger.forget(cid)
        await self._send({"type": "unsubscribe", "cids": list(cids)})

    # The connection

    async def _run(self) -> None:
        deadline, backoff = None, BACKOFF_FIRST_SECONDS
        while True:
            began = time.monotonic()
            try:
                await self._connection()
                reason = "closed"
            except _Refused as refused:
                return self._fail(refused.error)
            except (ConnectionClosed, InvalidHandshake, InvalidURI, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            except VideoError as error:
                return self._fail(error)
            except Exception as error:  # the reader waits for this task: whatever it was, he must be told
                log.exception("the event stream failed")
                return self._fail(Unavailable("unexpected_reply", f"The event stream failed: {error!r}"))
            finally:
                self._socket = None
                self._asking.clear()
                self._ledger.disconnected(self._wanted)
            if self._opened is not None and not self._opened.done() and self._refusals == 0:
                # The first connection is the caller's to try again: he is waiting for an answer.
                return self._fail(Unavailable("unreachable", f"The event socket cannot be opened: {reason}"))
            now = time.monotonic()
            if deadline is None or now - began > BACKOFF_MAX_SECONDS:
                deadline, backoff = now + self._reconnect_seconds, BACKOFF_FIRST_SECONDS
            if now + backoff > deadline:
                return self._fail(Unavailable("unreachable", f"The event socket was lost: {reason}"))
            log.info("event socket lost, trying again: %s", reason)
            await asyncio.sleep(backoff * (0.5 + random.random()))  # noqa: S311 - spread, not secrecy
            backoff = min(BACKOFF_MAX_SECONDS, backoff * 2)

    def _fail(self, error: VideoError) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)
            return
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(error)

    async def _connection(self) -> None:
        token = await self._transport.tokens.get()
        url = "ws" + self._transport.base.removeprefix("http") + "/v1/events"
        async with connect(url, open_timeout=OPEN_TIMEOUT_SECONDS, max_size=FRAME_MAX_BYTES) as socket:
            self._socket = socket
            await self._send({"type": "auth", "token": token, "device_id": self._device_id})
            beating: asyncio.Task[None] | None = None
            problem: VideoError | None = None
            try:
                async for text in socket:
                    frame = json.loads(text)
                    kind = str(frame.get("type"))
                    if kind == "hello" and beating is None:
                        beating = asyncio.create_task(self._beat(frame.get("heartbeat_ms") or 25_000, token))
                    if kind == "error":
                        problem = error_of(None, frame.get("problem") or {})
                        log.warning("the event socket refused a frame: %s", problem)
                        await self._refused(problem)
                    else:
                        await self._frame(kind, frame)
            except ConnectionClosed:
                self._judge_close(socket.close_code, token, problem)
                raise
            finally:
                for task in (beating, self._asking_again):
                    if task is not None:
                        task.cancel()

    def _judge_close(self, code: int | None, token: str, problem: VideoError | None) -> None:
        """Raise what makes trying again pointless."""
        if code == CLOSE_UNAUTHENTICATED:
            # One fresh token a connection: a source that gives none that holds is not asked for ever.
            self._refusals += 1
            if self._refusals > 1 or not self._transport.tokens.expired(token):
                raise _Refused(problem or Unauthenticated("token_expired", "The token has expired."))
        if code == CLOSE_FORBIDDEN:
            raise _Refused(problem or Unauthenticated("unauthenticated", "The new token is somebody else's."))

    async def _beat(self, heartbeat_ms: int, token: str) -> None:
        """Keep the socket alive, and renew the token before it expires."""
        with contextlib.suppress(ConnectionClosed):  # told to whoever reads from the socket
            await self._keep_alive(heartbeat_ms, token)

    async def _keep_alive(self, heartbeat_ms: int, token: str) -> None:
        expires_at = _expiry(token)
        while True:
            pause = heartbeat_ms / 1000
            renewable = self._transport.tokens.renewable and expires_at is not None
            if renewable and expires_at is not None:
                left = expires_at - time.time()
                pause = min(pause, max(0.05, left - min(RENEW_BEFORE_SECONDS, left / 5)))
            await asyncio.sleep(pause)
            if renewable and expires_at is not None and expires_at - time.time() <= RENEW_BEFORE_SECONDS:
                self._transport.tokens.expired(token)
                try:
                    token = await self._transport.tokens.get()
                except Exception:  # the source is the application's; the old token still holds for a moment
                    log.exception("no fresh token for the event socket")
                    await asyncio.sleep(1)
                    continue
                expires_at = _expiry(token)
                await self._send({"type": "auth", "token": token, "device_id": self._device_id})
            else:
                await self._send({"type": "ping"})

    async def _send(self, frame: Mapping[str, Any]) -> None:
        if self._socket is not None:
            await self._socket.send(json.dumps(frame))

    async def _ask(self, frame: dict[str, Any]) -> None:
        """Send a frame once those before it are answered; without a connection, the next one begins by asking."""
        if self._socket is not None:
            self._asking.append(frame)
            if len(self._asking) == 1:
                await self._send(frame)

    async def _answered(self) -> None:
        if self._asking:
            self._asking.popleft()
        if self._asking:
            await self._send(self._asking[0])

    async def _refused(self, problem: VideoError) -> None:
        """Ask again, later, what was refused for the moment only."""
        if not isinstance(problem, RateLimited | Unavailable):
            await self._answered()
        elif self._asking:
            pause = problem.problem.get("retry_after_ms")
            seconds = pause / 1000 if isinstance(pause, int) else ASK_AGAIN_SECONDS
            self._asking_again = asyncio.create_task(self._ask_again(self._asking[0], seconds))

    async def _ask_again(self, frame: dict[str, Any], seconds: float) -> None:
        await asyncio.sleep(seconds)
        with contextlib.suppress(ConnectionClosed):  # told to whoever reads from the socket
            if self._asking and self._asking[0] is frame:
                await self._send(frame)

    async def _frame(self, kind: str, frame: dict[str, Any]) -> None:
        if "." in kind:
            await self._event(frame)
        elif kind == "hello":
            await self._hello(frame)
        elif kind == "subscribed":
            self._subscribed(frame)
            await self._answered()
        elif kind == "resumed":
            self._ledger.resumed()
            await self._answered()
            strangers = [cid for cid in frame.get("cids", []) if cid not in self._wanted]
            if strangers:
                # Resuming watches a call; of those only heard of as a member, being a member is enough.
                await self._send({"type": "unsubscribe", "cids": strangers})
        elif kind == "resync":
            self._ledger.forget(frame["cid"])
            await self._queue.put(Event(type="resync", cid=frame["cid"], data=frame["snapshot"]))
        elif kind == "unsubscribed" and frame.get("reason") is not None:
            for cid in frame["cids"]:
                self._wanted.pop(cid, None)
                self._ledger.forget(cid)
                await self._queue.put(Event(type="unsubscribed", cid=cid, data={"reason": frame["reason"]}))

    async def _event(self, frame: dict[str, Any]) -> None:
        verdict = self._ledger.judge(frame)
        if verdict == "new":
            await self._queue.put(self._transport.value(frame, Event))
        elif verdict == "gap":
            await self._resume([frame["cid"]])

    async def _resume(self, cids: Iterable[str]) -> None:
        last = self._ledger.resume(cids)
        await self._ask({"type": "resume", "resume_token": self._resume_token, "last": last})

    async def _hello(self, frame: Mapping[str, Any]) -> None:
        again = frame.get("connection_id") == self.connection_id
        self.connection_id = str(frame.get("connection_id"))
        self._refusals = 0
        if again:
            return  # the answer to a renewed token
        known = list(self._ledger.last)
        for start in range(0, len(known), CIDS_PER_FRAME):
            await self._resume(known[start : start + CIDS_PER_FRAME])
        self._resume_token = str(frame.get("resume_token"))
        new = [cid for cid in self._wanted if cid not in self._ledger.last]
        if new:
            await self._subscribe(new)
        elif self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    async def _subscribe(self, cids: Iterable[str]) -> None:
        waiting = list(cids)
        for start in range(0, len(waiting), CIDS_PER_FRAME):
            await self._ask({"type": "subscribe", "cids": waiting[start : start + CIDS_PER_FRAME]})

    def _subscribed(self, frame: Mapping[str, Any]) -> None:
        seqs = frame.get("seqs") or {}
        for cid in frame.get("cids") or ():
            if isinstance(seqs.get(cid), int):
                self._ledger.subscribed(cid, seqs[cid])
            self._answer(cid, None)
        for one in frame.get("denied") or ():
            cid = one["cid"]
            self._wanted.pop(cid, None)
            error = error_of(None, {"code": one["code"], "detail": f"{cid} cannot be watched."})
            self._answer(cid, error)
            if self._opened is not None and not self._opened.done():
                self._opened.set_exception(error)
        waiting = any(cid not in self._ledger.last for cid in self._wanted)
        if self._opened is not None and not self._opened.done() and not waiting:
            self._opened.set_result(None)

    def _answer(self, cid: str, error: VideoError | None) -> None:
        future = self._awaited.pop(cid, None)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _expiry(token: str) -> float | None:
    """Return `exp` of a JWT in Unix seconds; None if it cannot be read. The server verifies, we only plan."""
    try:
        payload = token.split(".")[1]
        exp = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return float(exp)
    except (IndexError, KeyError, TypeError, ValueError):
        return None
