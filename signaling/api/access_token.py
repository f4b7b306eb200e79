"""Where a request carries its access token: `Authorization: Bearer`, else the query, as LiveKit's clients have it."""

from __future__ import annotations

from starlette.requests import HTTPConnection


def access_token(connection: HTTPConnection) -> str:
    """Return the token as it came; "" if there is none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return str(connection.query_params.get("access_token", ""))
