"""DTLS handshakes that the generator cannot make: by OpenSSL, offering AES-CM-SHA1 alone, as old and small clients do.

`dimpl`, which the generator uses, always offers GCM too. No I/O: datagrams in, commands for the generator out.
"""

from __future__ import annotations

from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL

from sfu.load import Command, SendDtls, SetKeys

_PROFILE = b"SRTP_AES128_CM_SHA1_80"
_PROFILE_NUMBER = 1
_KEY_BYTES = 16
_SALT_BYTES = 14
_LABEL = b"EXTRACTOR-dtls_srtp"
_MTU = 1_200


class ExternalDtls:
    """Handshakes of many transports as DTLS clients (RFC 5764). Set the generator's certificate with `use`."""

    def __init__(self) -> None:
        self._context = SSL.Context(SSL.DTLS_METHOD)
        # The server's certificate is self-signed, and what a load test receives is not secret.
        self._context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        self._context.set_tlsext_use_srtp(_PROFILE)
        self._connections: dict[int, SSL.Connection] = {}
        self._unfinished: set[int] = set()

    def use(self, certificate_der: bytes, key_der: bytes) -> None:
        self._context.use_certificate(x509.load_der_x509_certificate(certificate_der))
        key = load_der_private_key(key_der, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "our certificates are ECDSA ones"
        self._context.use_privatekey(key)

    def step(self, transport: int, datagram: bytes) -> list[Command]:
        """What follows from a datagram; an empty one begins."""
        connection = self._connections.get(transport)
        if connection is None:
            connection = SSL.Connection(self._context)
            connection.set_connect_state()
            connection.set_ciphertext_mtu(_MTU)
            self._connections[transport] = connection
            self._unfinished.add(transport)
        elif datagram:
            connection.bio_write(datagram)
        is_done = False
        try:
            connection.do_handshake()
            is_done = True
        except SSL.WantReadError:
            pass
        commands = _outgoing(transport, connection)
        # What comes after the handshake is data that nobody here wants, and no reason for new keys.
        if is_done and transport in self._unfinished:
            self._unfinished.discard(transport)
            commands.append(self._keys(transport, connection))
        return commands

    def expire(self) -> list[Command]:
        """Flights that are to be sent once more. Loopback loses nothing, but servers do not listen from the start."""
        commands: list[Command] = []
        for transport in self._unfinished:
            connection = self._connections[transport]
            if connection.DTLSv1_get_timeout() == 0 and connection.DTLSv1_handle_timeout():
                commands += _outgoing(transport, connection)
        return commands

    def _keys(self, transport: int, connection: SSL.Connection) -> SetKeys:
        material = connection.export_keying_material(_LABEL, 2 * (_KEY_BYTES + _SALT_BYTES))
        cut = [0, _KEY_BYTES, 2 * _KEY_BYTES, 2 * _KEY_BYTES + _SALT_BYTES, len(material)]
        client_key, server_key, client_salt, server_salt = (material[a:b] for a, b in pairwise(cut))
        return SetKeys(
            transport=transport,
            profile=_PROFILE_NUMBER,
            local_key=client_key,
            local_salt=client_salt,
            remote_key=server_key,
            remote_salt=server_salt,
        )


def _outgoing(transport: int, connection: SSL.Connection) -> list[Command]:
    commands: list[Command] = []
    while True:
        try:
            out = connection.bio_read(_MTU)
        except SSL.WantReadError:
            return commands
        commands += [SendDtls(transport=transport, datagram=part) for part in _records(out)]


def _records(data: bytes) -> list[bytes]:
    """A memory BIO forgets where a datagram ends; every DTLS record may travel alone (RFC 6347 §4.1)."""
    records = []
    while len(data) >= 13:
        end = 13 + int.from_bytes(data[11:13], "big")
        records.append(data[:end])
        data = data[end:]
    return records
