"""The parameters of a LiveKit signal connection: the query of `/rtc` and the wrapped join request of `/rtc/v1`.

Bounded before it is unpacked: a compressed request may not grow over its limit. Not here: whether anybody may join.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from signaling.errors import InvalidRequest, TooLarge
from signaling.rooms.grants import Grants
from signaling.rooms.presence import JoinParameters

_GZIP = 16 + zlib.MAX_WBITS
_TRUE = frozenset({"1", "true", "True", "t", "T", "TRUE"})

_SDKS = {
    "js": models.ClientInfo.SDK.JS,
    "swift": models.ClientInfo.SDK.SWIFT,
    "ios": models.ClientInfo.SDK.SWIFT,
    "android": models.ClientInfo.SDK.ANDROID,
    "flutter": models.ClientInfo.SDK.FLUTTER,
    "go": models.ClientInfo.SDK.GO,
    "unity": models.ClientInfo.SDK.UNITY,
    "reactnative": models.ClientInfo.SDK.REACT_NATIVE,
    "rust": models.ClientInfo.SDK.RUST,
    "python": models.ClientInfo.SDK.PYTHON,
    "cpp": models.ClientInfo.SDK.CPP,
    "unityweb": models.ClientInfo.SDK.UNITY_WEB,
    "node": models.ClientInfo.SDK.NODE,
}

_CAPABILITIES = {
    "CAP_PACKET_TRAILER": models.ClientInfo.Capability.CAP_PACKET_TRAILER,
    "CAP_COMPRESSION_DEFLATE_RAW": models.ClientInfo.Capability.CAP_COMPRESSION_DEFLATE_RAW,
}


def parameters(query: Mapping[str, str], grants: Grants, *, is_v1: bool, unpacked_max_bytes: int) -> JoinParameters:
    """Read what the client says. `is_v1`: a join request is a must. Raises `InvalidRequest` or `TooLarge`.

    Who sends a join request has one connection, on whichever path: the Go SDK does so on that of old.
    """
    packed = query.get("join_request", "")
    if packed:
        return _of_request(unwrap(packed, unpacked_max_bytes), grants)
    if is_v1:
        raise InvalidRequest("the parameter `join_request` is missing")
    return _of_query(query, grants)


def unwrap(packed: str, max_bytes: int) -> rtc.JoinRequest:
    """Read a `join_request` parameter: URL-safe base64, with or without padding, of a WrappedJoinRequest."""
    compact = packed.rstrip("=").replace("+", "-").replace("/", "_")
    try:
        raw = base64.b64decode(compact + "=" * (-len(compact) % 4), altchars=b"-_", validate=True)
        wrapped = rtc.WrappedJoinRequest.FromString(raw)
        body = wrapped.join_request
        if wrapped.compression == rtc.WrappedJoinRequest.Compression.GZIP:
            body = _inflate(body, max_bytes)
        request = rtc.JoinRequest.FromString(body)
        request.DiscardUnknownFields()
        return request
    except (binascii.Error, ValueError, DecodeError, zlib.error):
        raise InvalidRequest("the parameter `join_request` cannot be read") from None


def _inflate(packed: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(_GZIP)
    body = inflater.decompress(packed, max_bytes)
    if inflater.unconsumed_tail or not inflater.eof:
        if inflater.unconsumed_tail:
            raise TooLarge(f"the join request unpacks to more than {max_bytes} bytes")
        raise InvalidRequest("the compressed join request is cut short")
    return body


def _of_request(request: rtc.JoinRequest, grants: Grants) -> JoinParameters:
    settings = request.connection_settings
    data_too = settings.auto_subscribe_data_track if settings.HasField("auto_subscribe_data_track") else True
    return JoinParameters(
        grants=grants,
        client=request.client_info,
        is_single=True,
        auto_subscribe=settings.auto_subscribe,
        adaptive_stream=settings.adaptive_stream,
        auto_subscribe_data=data_too,
        metadata=request.metadata,
        attributes=dict(request.participant_attributes),
        offer=request.publisher_offer if request.HasField("publisher_offer") else None,
        add_tracks=tuple(request.add_track_requests),
        is_reconnect=request.reconnect,
        participant_sid=request.participant_sid,
        sync_state=request.sync_state if request.HasField("sync_state") else None,
    )


def _of_query(query: Mapping[str, str], grants: Grants) -> JoinParameters:
    client = models.ClientInfo(
        sdk=_SDKS.get(query.get("sdk", ""), models.ClientInfo.SDK.UNKNOWN),
        version=query.get("version", ""),
        protocol=_number(query, "protocol"),
        client_protocol=_number(query, "client_protocol"),
        os=query.get("os", ""),
        os_version=query.get("os_version", ""),
        device_model=query.get("device_model", ""),
        browser=query.get("browser", ""),
        browser_version=query.get("browser_version", ""),
        network=query.get("network", ""),
    )
    named = query.get("capabilities", "").split(",")
    client.capabilities.extend(_CAPABILITIES[name] for name in named if name in _CAPABILITIES)
    return JoinParameters(
        grants=grants,
        client=client,
        is_single=False,
        auto_subscribe=_flag(query, "auto_subscribe", default=True),
        adaptive_stream=_flag(query, "adaptive_stream", default=False),
        auto_subscribe_data=_flag(query, "auto_subscribe_data_track", default=True),
        attributes=_attributes(query.get("attributes", "")),
        is_reconnect=_flag(query, "reconnect", default=False),
        participant_sid=query.get("sid", ""),
    )


def _attributes(packed: str) -> dict[str, str]:
    """URL-safe base64 of a JSON object of strings."""
    if not packed:
        return {}
    compact = packed.rstrip("=")
    try:
        raw = base64.urlsafe_b64decode(compact + "=" * (-len(compact) % 4))
        fields = json.loads(raw)
        if not isinstance(fields, dict) or any(not isinstance(value, str) for value in fields.values()):
            raise ValueError("not an object of strings")
        # JSON can name half a surrogate pair, which is no character and could be told to nobody.
        "".join([*fields, *fields.values()]).encode()
    except (ValueError, RecursionError):
        raise InvalidRequest("the parameter `attributes` is not base64 of a JSON object of strings") from None
    return fields


def _flag(query: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = query.get(name, "")
    return text in _TRUE if text else default


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 0
