"""People who use the official SDK for Node: processes of `node_client`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable

from tests.e2e.harness.sdk_process import SdkProcess, SdkProcesses
from tests.e2e.harness.server import REPOSITORY

CLIENT = REPOSITORY / "tests/e2e/node_client/main.cjs"
_NEAR = 16
_LINE_MAX_BYTES = 1_000_000


class NodeClient(SdkProcess):
    """One participant."""

    async def hears(self, identity: str, hertz: float, *, after: int = 0) -> None:
        """Waits until this tone comes of `identity`, in what was told from number `after` on."""
        await self._until(
            "hears", identity, lambda one: abs(one["hertz"] - hertz) < 10 and one["loudness"] > 300, after
        )

    async def sees(
        self, identity: str, left: tuple[int, int, int], right: tuple[int, int, int], *, after: int = 0
    ) -> None:
        """Waits until a picture of these colours comes of `identity`, in what was told from number `after` on."""

        def shows(one: dict[str, list[int]]) -> bool:
            pairs = zip((*one["left"], *one["right"]), (*left, *right), strict=True)
            return all(abs(got - sent) <= _NEAR for got, sent in pairs)

        await self._until("sees", identity, shows, after)

    async def _until(self, event: str, identity: str, holds: Callable[..., bool], after: int) -> None:
        try:
            async with asyncio.timeout(20):
                while not any(
                    one["event"] == event and one["identity"] == identity and holds(one) for one in self.told[after:]
                ):
                    await self.more()
        except TimeoutError:
            raise AssertionError(f"it {event} {[one for one in self.told if one['event'] == event][-3:]}") from None


class Nodes(SdkProcesses):
    async def __call__(
        self, identity: str, *, single: bool, url: str | None = None, token: str | None = None
    ) -> NodeClient:
        """Starts one, which joins."""
        program = shutil.which("node")
        assert program is not None, "no Node.js; tools/machine_packages installs it"
        process = await asyncio.create_subprocess_exec(
            program,
            str(CLIENT),
            url or self._server.ws_url,
            token or self._token(identity),
            "single" if single else "dual",
            # As an operator runs it: the SDK logs at debug level otherwise.
            env={**os.environ, "NODE_ENV": "production"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_MAX_BYTES,
        )
        client = NodeClient(process)
        self._started.append(client)
        return client
