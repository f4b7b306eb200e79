"""The same viewer as a page in headless Chromium with the official JavaScript client, read by its getStats."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import msgspec
from playwright.async_api import Page

from bench.links.viewer import Freezes, Orders, Shown, Sight, Sound, Video
from tests.e2e.harness.browser import CLIENT, launched

_WATCH_SECONDS = 0.1

#: Everything is read in one go, with the page's clock.
_PAGE = """
(() => {
  const { Room, RoomEvent, Track } = window.LivekitClient;
  const states = [];
  let room = null;
  window.viewer = {
    async join(url, token) {
      room = new Room({ adaptiveStream: false });
      room.on(RoomEvent.TrackSubscribed, (track) => {
        const element = track.attach();
        element.muted = true;
        document.body.append(element);
      });
      room.on(RoomEvent.TrackStreamStateChanged, (publication, state) =>
        states.push([publication.trackSid, performance.now(), state === Track.StreamState.Paused]));
      await room.connect(url, token);
    },
    now: () => performance.now(),
    async read() {
      const found = [];
      for (const participant of room?.remoteParticipants.values() ?? []) {
        for (const publication of participant.trackPublications.values()) {
          const receiver = publication.track?.receiver;
          if (!receiver) continue;
          for (const entry of (await receiver.getStats()).values()) {
            if (entry.type !== 'inbound-rtp') continue;
            found.push({
              at: performance.now(), track: publication.trackSid, person: participant.identity,
              kind: publication.kind === Track.Kind.Audio ? 'voice'
                : publication.source === Track.Source.ScreenShare ? 'share' : 'camera',
              height: entry.frameHeight ?? 0, frames: entry.framesDecoded ?? 0,
              freezes: entry.freezeCount ?? 0, frozen: entry.totalFreezesDuration ?? 0,
              samples: entry.totalSamplesReceived ?? 0, concealed: entry.concealedSamples ?? 0,
              nacks: entry.nackCount ?? 0, plis: entry.pliCount ?? 0,
            });
          }
        }
      }
      return found;
    },
    states: () => states,
  };
})();
"""


async def main() -> None:
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    async with launched() as browser:
        page = await (await browser.new_context(bypass_csp=True)).new_page()
        await page.goto(orders.origin)
        await page.add_script_tag(path=CLIENT)
        await page.add_script_tag(content=_PAGE)
        # The page's clock in ours.
        before = time.monotonic()
        read = await page.evaluate("viewer.now()")
        offset = (before + time.monotonic()) / 2 - read / 1e3
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.readline)
        sight = Sight(joined_at=time.monotonic(), is_exact=False)
        join = page.evaluate("([url, token]) => viewer.join(url, token)", [orders.url, orders.token])
        joining = asyncio.create_task(join)
        videos: dict[str, Video] = {}
        watching = asyncio.create_task(_watch(page, offset, videos, sight))
        await asyncio.to_thread(sys.stdin.buffer.read)
        watching.cancel()
        await joining
        for track, at, paused in await page.evaluate("viewer.states()"):
            if track in videos:
                videos[track].paused.append((at / 1e3 + offset, paused))
        sight.videos = list(videos.values())
        sys.stdout.buffer.write(msgspec.json.encode(sight))
        sys.stdout.flush()


async def _watch(page: Page, offset: float, videos: dict[str, Video], sight: Sight) -> None:
    decoded: dict[str, int] = {}
    while True:
        entries: list[dict[str, Any]] = await page.evaluate("viewer.read()")
        for entry in entries:
            at, track = entry["at"] / 1e3 + offset, entry["track"]
            if entry["kind"] == "voice":
                sight.sounds.append(Sound(at, entry["person"], entry["samples"], entry["concealed"]))
                continue
            video = videos.setdefault(track, Video(track, entry["kind"], entry["person"]))
            if entry["frames"] > decoded.get(track, 0):
                video.shown.append(Shown(at, entry["height"], entry["frames"] - decoded.get(track, 0)))
                decoded[track] = entry["frames"]
            video.freezes.append(Freezes(at, entry["freezes"], entry["frozen"]))
            video.nacks, video.plis = entry["nacks"], entry["plis"]
        await asyncio.sleep(_WATCH_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
