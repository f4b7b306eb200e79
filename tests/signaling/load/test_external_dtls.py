"""Handshakes outside the generator."""

from __future__ import annotations

import time

import pytest

from sfu.load import SendDtls
from sfu.worker import Certificate
from signaling.load.external_dtls import ExternalDtls


@pytest.mark.timeout(30)
def test_a_flight_that_nobody_heard_is_sent_again_until_it_is_answered() -> None:
    certificate = Certificate()
    external = ExternalDtls()
    external.use(certificate.certificate_der, certificate.key_der)
    (hello,) = external.step(7, b"")
    assert isinstance(hello, SendDtls)
    while not (again := external.expire()):
        time.sleep(0.05)
    (repeated,) = again
    assert isinstance(repeated, SendDtls)
    assert repeated.transport == 7
    # The same hello in a new record: content type, then the handshake's type behind the record's 13 bytes.
    assert (repeated.datagram[0], repeated.datagram[13]) == (22, 1)
    assert repeated.datagram[13:] == hello.datagram[13:]
