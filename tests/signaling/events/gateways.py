"""Push services on this machine that speak what the real ones speak: APNs and Web Push over HTTP/2 with TLS, FCM over
HTTP/1.1, an OAuth token endpoint. They check what Apple, Google and browsers check, and keep what arrived.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import h2.config
import h2.connection
import h2.events
import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

Answer = tuple[int, Any]


@dataclass
class Received:
    http: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Gateway:
    """A server; `answer` decides, `received` remembers."""

    answer: Callable[[Received], Answer]
    received: list[Received] = field(default_factory=list)
    url: str = ""

    def take(self) -> list[Received]:
        taken, self.received = self.received, []
        return taken

    def _handle(self, request: Received) -> tuple[int, bytes]:
        self.received.append(request)
        status, body = self.answer(request)
        return status, b"" if body is None else json.dumps(body).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        try:
            if tls is not None and tls.selected_alpn_protocol() == "h2":
                await self._http2(reader, writer)
            else:
                await self._http1(reader, writer)
        except ConnectionError:
            pass  # the client is gone, as clients are
        finally:
            writer.close()

    async def _http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = {name.decode().lower(): value.decode() for name, value in head.headers}
                request = Received("1.1", head.method.decode(), head.target.decode(), headers, body)
                status, answer = self._handle(request)
                reply = h11.Response(status_code=status, headers=[("content-length", str(len(answer)))])
                for part in (reply, h11.Data(answer), h11.EndOfMessage()):
                    writer.write(connection.send(part) or b"")
                await writer.drain()
                connection.start_next_cycle()
            else:
                return

    async def _http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        heads: dict[int, dict[str, str]] = {}
        bodies: dict[int, bytes] = {}
        while True:
            writer.write(connection.data_to_send())
            await writer.drain()
            data = await reader.read(65_536)
            if not data:
                return
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    text = [(_text(name), _text(value)) for name, value in event.headers]
                    heads[event.stream_id], bodies[event.stream_id] = dict(text), b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    head = heads.pop(event.stream_id)
                    request = Received("2", head[":method"], head[":path"], head, bodies.pop(event.stream_id))
                    status, answer = self._handle(request)
                    connection.send_headers(event.stream_id, [(":status", str(status))])
                    connection.send_data(event.stream_id, answer, end_stream=True)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


@asynccontextmanager
async def gateway(answer: Callable[[Received], Answer], tls: ssl.SSLContext | None = None) -> AsyncIterator[Gateway]:
    made = Gateway(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield made
    finally:
        server.close()


def certificate(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server for 127.0.0.1 and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "push gateways of a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "gateway.pem"
    file.write_bytes(pem(key).encode() + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    server.set_alpn_protocols(["h2", "http/1.1"])
    return server, ssl.create_default_context(cafile=str(file))


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def verified_jwt(
    token: str, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims of a JWT whose signature holds (ES256 or RS256); raises otherwise."""
    signed, _, signature = token.rpartition(".")
    raw = unbase64(signature)
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        key.verify(encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA256()))
    header, claims = (json.loads(unbase64(part)) for part in signed.split("."))
    return header, claims


def unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Oauth:
    """Google's token endpoint: checks the assertion (RFC 7523), gives a token a time."""

    def __init__(self, key: rsa.RSAPublicKey, audience: Callable[[], str], email: str) -> None:
        self._key, self._audience, self._email = key, audience, email
        self.given: list[str] = []

    def __call__(self, request: Received) -> Answer:
        form = parse_qs(request.body.decode())
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return 400, {"error": "unsupported_grant_type"}
        header, claims = verified_jwt(form["assertion"][0], self._key)
        right = claims["iss"] == self._email and claims["aud"] == self._audience() and header["alg"] == "RS256"
        if not right or claims["scope"] != "https://www.googleapis.com/auth/firebase.messaging":
            return 400, {"error": "invalid_grant"}
        self.given.append(f"access-{len(self.given) + 1}")
        return 200, {"access_token": self.given[-1], "expires_in": 3_600, "token_type": "Bearer"}


class Browser:
    """A browser's push subscription (RFC 8291): its keys, and reading what was encrypted for it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._auth = b"sixteen bytes 16"
        self._public = self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )

    def subscription(self, endpoint: str) -> str:
        keys = {"p256dh": base64url(self._public), "auth": base64url(self._auth)}
        return json.dumps({"endpoint": endpoint, "keys": keys})

    def read(self, body: bytes) -> Any:
        """Decrypt a message as RFC 8291 §3.4 and RFC 8188 §2.1 say; raises if it is not for this browser."""
        salt, size, length = body[:16], int.from_bytes(body[16:20], "big"), body[20]
        sender, sealed = body[21 : 21 + length], body[21 + length :]
        assert len(sealed) <= size
        shared = self._key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
        material = _hkdf(self._auth, shared, b"WebPush: info\0" + self._public + sender, 32)
        key = _hkdf(salt, material, b"Content-Encoding: aes128gcm\0", 16)
        nonce = _hkdf(salt, material, b"Content-Encoding: nonce\0", 12)
        plain = AESGCM(key).decrypt(nonce, sealed, None).rstrip(b"\0")
        assert plain.endswith(b"\x02")
        return json.loads(plain[:-1])


def _hkdf(salt: bytes, material: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(material)
