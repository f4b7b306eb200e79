"""Transports of the load generator as whoever speaks a server's signaling sees them: descriptions in, commands out.

Not here: which messages carry the descriptions (`signaling/load/participant.py` for LiveKit's protocol).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from itertools import count

from sfu import load, sdp
from sfu.border import DtlsRole, Fingerprint, IceCredentials
from signaling.load import description
from signaling.load.description import DescriptionError, Sent, Side
from signaling.load.plan import Track

_GATHERING_SECONDS = 0.2
"""How long candidates are waited for that may be better than those that came."""


class Media:
    """The generator as participants share it: transports, streams and ssrcs that are nobody else's."""

    def __init__(
        self,
        generator: load.Generator,
        fingerprint: Fingerprint,
        host: str,
        *,
        external_dtls: bool = False,
        dynacast: bool = False,
    ) -> None:
        self.generator = generator
        self.host = host
        """Where the server's signaling is reached."""
        self.fingerprint = fingerprint
        self.external_dtls = external_dtls
        """Handshakes are made outside the generator, as DTLS clients."""
        self.dynacast = dynacast
        """Who sends stops sending layers that nobody wants."""
        self._transports = count(1)
        self._streams = count(1)
        self._ssrcs = count(100_000, 2)

    def open(self) -> Connection:
        ice = IceCredentials(ufrag=secrets.token_hex(4), pwd=secrets.token_hex(16))
        return Connection(self, self.transport(), Side(ice, (self.fingerprint,)))

    def sent(self, track: Track) -> Sent:
        encodings = [
            load.Encoding(
                ssrc=(ssrc := next(self._ssrcs)),
                rtx_ssrc=ssrc + 1 if track.is_video else None,
                rid=layer.rid,
                packets_per_second=layer.packets_per_second,
                payload_bytes=layer.payload_bytes,
            )
            for layer in track.layers
        ]
        return Sent(cid=f"load-{encodings[0].ssrc}", track=track, encodings=tuple(encodings))

    @property
    def setup(self) -> sdp.Setup:
        """Which DTLS role to offer (RFC 8842 §5.1)."""
        return sdp.Setup.ACTIVE if self.external_dtls else sdp.Setup.ACTPASS

    def transport(self) -> int:
        return next(self._transports)

    def stream(self) -> int:
        return next(self._streams)


class Connection:
    """One transport: opened in the generator once the server's side and an address of it are known.

    The generator checks one address only: that of the signal server where it is among the candidates, else an IPv4 one.
    """

    def __init__(self, media: Media, transport: int, own: Side) -> None:
        self.transport = transport
        self.own = own
        self.is_open = False
        self._media = media
        self._remote: tuple[Side, DtlsRole] | None = None
        self._candidates: list[tuple[str, int]] = []
        self._is_deciding = False
        self._is_controlled = False
        self._waiting: list[load.Command] = []
        self._streams: dict[str, int] = {}
        """By the cid of what is sent."""
        self._active: dict[str, tuple[bool, ...]] = {}

    def send(self, *commands: load.Command) -> None:
        """About this transport; they wait until it is open."""
        if self.is_open:
            self._media.generator.send(*commands)
        else:
            self._waiting += commands

    def described(self, remote: sdp.Session, *, is_offer: bool) -> None:
        self._is_controlled = is_offer and not remote.ice_lite
        self._remote = description.remote_side(remote)
        self._candidates += description.udp_candidates(remote)
        self._decide()

    def publish(self, sent: Sequence[Sent], answered: sdp.Session) -> None:
        """Sends what `description.offer` offered, as the server took it. `DescriptionError` if it took less."""
        self.described(answered, is_offer=False)
        ids = description.extension_ids(answered.media)
        for index, item in enumerate(sent):
            section = answered.media[index] if index < len(answered.media) else None
            if section is None or section.rejected or not section.codecs:
                raise DescriptionError(f"The server took no {item.track.codec.mime}.")
            mime = item.track.codec.mime.lower()
            codec = next((c for c in sdp.agree(section).codecs if c.mime.lower() == mime), None)
            if codec is None:
                raise DescriptionError(f"The server took no {item.track.codec.mime}.")
            stream = self._streams[item.cid] = self._media.stream()
            self.send(
                load.Publish(
                    transport=self.transport,
                    stream=stream,
                    codec=item.track.codec,
                    pt=codec.pt,
                    rtx_pt=codec.rtx_pt,
                    mid=section.mid or str(index),
                    extensions=ids,
                    frames_per_second=item.track.frames_per_second,
                    encodings=item.encodings,
                    phase_us=item.track.phase_us(self.transport),
                )
            )
            if item.cid in self._active:
                self.set_encodings(item, self._active[item.cid])

    def set_encodings(self, sent: Sent, active: tuple[bool, ...]) -> None:
        """Which layers are sent, lowest first; may be said before `publish`."""
        self._active[sent.cid] = active
        if (stream := self._streams.get(sent.cid)) is not None:
            self.send(load.SetEncodings(stream=stream, active=active))

    def receive(self, agreed: Sequence[tuple[sdp.Media, sdp.Agreed]]) -> None:
        """Takes what the server sends: its sections, each with what was agreed on for it."""
        sections = [section for section, _ in agreed]
        self.send(
            load.Receive(
                transport=self.transport,
                codecs=description.receive_codecs([common for _, common in agreed]),
                extensions=description.extension_ids(sections),
                repairs=description.repairs(sections),
            )
        )

    def candidate(self, init: str) -> None:
        """A trickled candidate: JSON with a `candidate` line (RFC 8839 §5.1). All but UDP host candidates are left."""
        fields = str(json.loads(init).get("candidate", "")).split()
        if len(fields) >= 8 and fields[2].lower() == "udp" and fields[7] == "host":
            self._candidates.append((fields[4], int(fields[5])))
            self._decide()

    def _decide(self) -> None:
        """At once if the best address is there, else after a while, for candidates come one by one."""
        if self.is_open or self._remote is None or not self._candidates:
            return
        if any(host == self._media.host for host, _ in self._candidates):
            self._open()
        elif not self._is_deciding:
            self._is_deciding = True
            asyncio.get_running_loop().call_later(_GATHERING_SECONDS, self._open)

    def _open(self) -> None:
        if self.is_open or self._remote is None:
            return
        self.is_open = True
        host, port = min(self._candidates, key=lambda c: (c[0] != self._media.host, ":" in c[0]))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        side, role = self._remote
        self._media.generator.send(
            load.Open(
                transport=self.transport,
                local=self.own.ice,
                remote=side.ice,
                fingerprints=side.fingerprints,
                role=role,
                controlling=not self._is_controlled,
                address=address,
                external_dtls=self._media.external_dtls,
            ),
            *self._waiting,
        )
        self._waiting.clear()
