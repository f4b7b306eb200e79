"""Where the database is: a URL as operators and providers write it, made what the drivers take. No connection here."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_FORMS = "`postgresql://user:secret@host/name` or `sqlite:///path`"
_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_PARAMETERS = {
    "command_timeout",
    "direct_tls",
    "gsslib",
    "host",
    "krbsrvname",
    "passfile",
    "port",
    "prepared_statement_cache_size",
    "service",
    "servicefile",
    "ssl",
    "target_session_attrs",
}
"""What asyncpg takes as text; given another one, it would end with a TypeError."""


def located(url: str) -> URL:
    """Raises `ValueError` with a sentence, which never repeats the URL: there may be a password in it."""
    try:
        location = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(f"it does not read as {_FORMS}, where `@` in a name or secret is `%40`") from None
    driver = _DRIVERS.get(location.drivername)
    if driver is None:
        raise ValueError(f"a database of the kind `{location.drivername}` cannot be used: it is {_FORMS}")
    location = location.set(drivername=driver)
    if location.get_backend_name() == "sqlite":
        if location.host or not location.database:
            raise ValueError("a file of SQLite is named by `sqlite:///` and its path, with three slashes")
        return location
    if "@" in f"{location.host} {location.database}":
        raise ValueError("there is one `@` too many: in a name or secret it is `%40`, and `/` is `%2F`")
    return _as_asyncpg_says(location)


def _as_asyncpg_says(location: URL) -> URL:
    mode = location.query.get("sslmode")
    if mode is not None:
        if not isinstance(mode, str) or mode not in _TLS_MODES:
            raise ValueError(f"`sslmode` is one of {', '.join(_TLS_MODES)}")
        location = location.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    unknown = sorted(location.query.keys() - _PARAMETERS)
    if unknown:
        raise ValueError(
            f"the parameter `{unknown[0]}` is not known; leave it out, or set libpq's environment variable for it"
        )
    return location
