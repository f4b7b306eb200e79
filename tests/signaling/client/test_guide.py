"""The blocks of the client's guide run as they are written, one after the other."""

from __future__ import annotations

import asyncio
import re
import textwrap
import time
from types import SimpleNamespace
from typing import Any

import pytest

from signaling.events.signatures import new_secret, sign
from tests.signaling.api.world import World
from tests.signaling.client.conftest import People
from tests.signaling.client.test_example import README

GUIDE = README.parent / "docs" / "guides" / "python-client.md"


async def test_the_guide_runs_as_written(
    world: World, served: People, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.users("alice", "bob")
    await world.call("livestream/launch", by="bob")
    monkeypatch.setattr("signaling.client.CallyardClient", lambda url, token, **more: served.client(token, **more))
    secret, old_secret = new_secret(bytes(32)), new_secret(bytes(range(32)))
    body, now = b'{"type": "call.created"}', int(time.time())
    headers = {
        "Webhook-Id": "msg_1",
        "Webhook-Timestamp": str(now),
        "Webhook-Signature": sign(old_secret, "msg_1", now, body),
    }
    names: dict[str, Any] = {
        "url": served.url,
        "fetch_token": lambda: world.token({"sub": "alice"}),
        "request": SimpleNamespace(body=body, headers=headers),
        "secret": secret,
        "old_secret": old_secret,
    }
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5

    async def something_happens() -> None:
        await asyncio.sleep(0.5)
        await world.as_("alice").patch("/calls/default/planning", {"custom": {"n": 1}})

    for block in blocks:
        source = f"async def example():\n{textwrap.indent(block, '    ')}\n    return locals()\n"
        exec(compile(source, str(GUIDE), "exec"), names)
        happening = asyncio.create_task(something_happens()) if "client.events" in block else None
        names.update(await asyncio.wait_for(names["example"](), 10))
        if happening is not None:
            await happening
    said = capsys.readouterr().out
    assert "True default:planning" in said
    assert "default:planning 0" in said
    assert "opens at None" in said
    assert "['custom.n']" in said
    assert names["event"] == {"type": "call.created"}
    assert names["room"] is not None
