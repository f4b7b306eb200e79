"""`/users`, `/guests`, `/tokens`, devices and bans."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from msgspec import structs
from pydantic import Field
from sqlalchemy import delete

from signaling.api.v1.call_routes import milliseconds
from signaling.api.v1.http import PAGE_DEFAULT, PAGE_MAX, Ask, Body, Instant, Route, require_admin
from signaling.api.v1.replies import Reply
from signaling.calls import views
from signaling.calls.capabilities import normalise
from signaling.calls.custom import checked, merge_patch
from signaling.calls.directory import check_role
from signaling.calls.identifiers import USER_ID, check, check_name, rfc3339
from signaling.calls.model import Ban, Device, User
from signaling.calls.principal import mint
from signaling.calls.problems import Problem, missing, not_found, unprocessable
from signaling.calls.queries import USER_FIELDS, compile_filter, compile_sort
from signaling.calls.rights import is_viewer
from signaling.calls.state import Refresh, RemoveUser
from signaling.store import schema
from signaling.store.database import deletion, fetch, fetch_one, save
from signaling.store.directory_repository import Directory
from signaling.store.kinds import BANS, DEVICES, PUSH_JOBS, USERS
from signaling.store.pages import Column, newest_first, page_of
from signaling.store.queries import condition, user_columns

TOKEN_TTL_MAX_SECONDS = 31_536_000
GUEST_TTL_SECONDS = 86_400
BANNED_ADDRESSES_MAX = 100
"""Of one ban: each time it is given again, those are added where the user was seen meanwhile."""


class PutUser(Body):
    name: str | None = Field(None, max_length=256)
    image: str | None = Field(None, max_length=2_048)
    role: str | None = Field(None, max_length=64)
    teams: Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=64)] | None = None
    custom: dict[str, Any] | None = None


class NewGuest(Body):
    name: str | None = Field(None, max_length=256)
    image: str | None = Field(None, max_length=2_048)


class NewToken(Body):
    user_id: str
    ttl_seconds: int = Field(3_600, ge=1, le=TOKEN_TTL_MAX_SECONDS)
    calls: Annotated[list[str], Field(max_length=100)] | None = None
    role: str | None = None
    ceiling: Annotated[list[str], Field(max_length=200)] | None = None
    teams: Annotated[list[str], Field(max_length=64)] | None = None


class NewDevice(Body):
    provider: Literal["apns", "apns_voip", "fcm", "webpush"]
    token: str = Field(min_length=1, max_length=4_096)
    push_provider: str | None = Field(None, max_length=64)


class PutBan(Body):
    reason: str | None = Field(None, max_length=256)
    expires_at: Instant | None = None
    ip: bool = Field(False, description="Also ban the addresses from which the user was seen of late.")


class QueryUsers(Body):
    filter: dict[str, Any] | None = None
    sort: list[Any] | None = None
    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    next: str | None = None
    prev: str | None = None


async def put_user(ask: Ask) -> Reply:
    body = await ask.body(PutUser)
    user_id = check(USER_ID, ask.path["user"], "/id")
    if is_viewer(user_id):
        raise unprocessable("/id", "This prefix is for viewers without an account.")
    return await _write_user(ask, user_id, body, replace=True)


def _checked_name(ask: Ask, name: str | None) -> str | None:
    return None if name is None else check_name(name, ask.service.name_max_bytes, "/name")


async def patch_user(ask: Ask) -> Reply:
    return await _write_user(ask, ask.path["user"], await ask.body(PutUser), replace=False)


async def _write_user(ask: Ask, user_id: str, body: PutUser, *, replace: bool) -> Reply:
    service, now = ask.service, ask.service.now()
    if "name" in body.model_fields_set:
        body.name = _checked_name(ask, body.name)
    async with service.realm() as (connection, current):
        known: User | None = (await current.users(connection, [user_id])).get(user_id)
        if known is not None and known.deleted_at is not None:
            known = None
        if known is None and not replace:
            raise not_found("user")
        if body.role is not None:
            check_role(body.role, current.roles, "/role")
        base = known or User(id=user_id, created_at=now, updated_at=now)
        user = _changed(base, body, replace=replace and known is None)
        user = structs.replace(user, updated_at=now)
        await save(connection, [user])
        before = views.user(known) if known else None
        await service.note(connection, ask.principal, "user.write", user_id, before, views.user(user))
        order = None
        if known is not None and (known.role != user.role or known.teams != user.teams):
            order = await service.orders.owe(connection, Refresh("role_changed", user_id=user_id))
    service.channel.change_user(user)
    if order is not None:
        await service.orders.do(order)
        await service.recheck_watchers()
    return Reply({"user": views.user(user)}, 200 if known else 201)


def _changed(base: User, body: PutUser, *, replace: bool) -> User:
    changes: dict[str, Any] = {name: getattr(body, name) for name in ("name", "image") if name in body.model_fields_set}
    if body.role is not None:
        changes["role"] = body.role
    if body.teams is not None:
        changes["teams"] = tuple(dict.fromkeys(body.teams))
    if body.custom is not None:
        changes["custom"] = checked(merge_patch({} if replace else base.custom, body.custom), "/custom")
    return structs.replace(base, **changes)


async def get_user(ask: Ask) -> Reply:
    _self_or_admin(ask)
    async with ask.service.database.read() as connection:
        user = await _existing(ask.service.directory, connection, ask.path["user"])
    return Reply({"user": views.user(user)})


async def _existing(directory: Directory, connection: Any, user_id: str) -> User:
    user = (await directory.users(connection, [user_id])).get(user_id)
    if user is None or user.deleted_at is not None:
        raise not_found("user")
    return user


def _self_or_admin(ask: Ask) -> None:
    if not ask.principal.is_server and ask.path["user"] == ask.principal.user_id:
        return
    require_admin(ask)


async def delete_user(ask: Ask) -> Reply:
    """Delete a user: he is refused from now on, leaves the calls he is in, and nobody knows where he was seen."""
    service, user_id = ask.service, ask.path["user"]
    async with service.addresses.writing, service.realm() as (connection, current):
        user = await _existing(current, connection, user_id)
        await save(connection, [structs.replace(user, deleted_at=service.now(), updated_at=service.now())])
        await connection.execute(delete(schema.devices).where(schema.devices.c.user_id == user_id))
        await service.addresses.forget(connection, user_id)
        ban = current.bans.get(user_id)
        if ban is not None and ban.ip:
            await save(connection, [structs.replace(ban, ip=False, addresses=())])
        await service.note(connection, ask.principal, "user.delete", user_id, views.user(user), None)
        order = await service.orders.owe(connection, RemoveUser(user_id))
    await service.orders.do(order)
    return Reply(status=204)


async def query_users(ask: Ask) -> Reply:
    body = await ask.body(QueryUsers)
    wanted = compile_filter(body.filter or {}, USER_FIELDS)
    sort = compile_sort(body.sort or [{"field": "created_at", "direction": "desc"}], ("id", "created_at"))
    columns = user_columns()
    order = [Column(columns[name], descending) for name, descending in sort]
    if "id" not in dict(sort):
        order.append(Column(columns["id"], order[-1].descending))
    conditions = [schema.users.c.deleted.is_(False), condition(wanted, columns)]
    async with ask.service.database.read(long=True) as connection:
        page = await page_of(connection, USERS, conditions, order, body.limit, body.next, body.prev)
    return Reply(page.shown([views.user(user) for user in page.items]))


async def post_guest(ask: Ask) -> Reply:
    service, now = ask.service, ask.service.now()
    body = await ask.body(NewGuest)
    async with service.database.read() as connection:
        await service.directory.refresh(connection)
    if not service.directory.app.guests_enabled:
        raise Problem("feature_disabled", "Guests are not enabled here.")
    service.check_banned(ask.principal)
    name = _checked_name(ask, body.name)
    user = User(
        id=f"guest-{service.new_id()}", name=name, image=body.image, role="guest", created_at=now, updated_at=now
    )
    async with service.database.write() as connection:
        await save(connection, [user])
    expires_at = now + timedelta(seconds=GUEST_TTL_SECONDS)
    token = _mint(ask, {"sub": user.id, "exp": int(expires_at.timestamp())})
    return Reply({"user": views.user(user), "token": token}, 201)


def _mint(ask: Ask, claims: dict[str, Any]) -> str:
    key, secret = next(iter(ask.service.keys.items()))
    return mint({**claims, "iat": int(ask.service.now().timestamp())}, key, secret)


async def post_token(ask: Ask) -> Reply:
    body = await ask.body(NewToken)
    service = ask.service
    async with service.database.read() as connection:
        known = (await service.directory.users(connection, [body.user_id])).get(body.user_id)
    if known is None or known.deleted_at is not None:
        raise unprocessable("/user_id", f"There is no user {body.user_id!r}.", code="unknown_user")
    if body.role is not None:
        check_role(body.role, service.directory.roles, "/role")
    claims: dict[str, Any] = {"sub": body.user_id}
    if body.ceiling is not None:
        claims["ceiling"] = sorted(normalise(body.ceiling, "/ceiling"))
    claims.update({name: value for name in ("calls", "role", "teams") if (value := getattr(body, name)) is not None})
    # Whole seconds: what the claim says is what the reply says.
    expires_at = (service.now() + timedelta(seconds=body.ttl_seconds)).replace(microsecond=0)
    token = _mint(ask, {**claims, "exp": int(expires_at.timestamp())})
    return Reply({"token": token, "expires_at": rfc3339(expires_at)}, 201)


async def post_device(ask: Ask) -> Reply:
    _self_or_admin(ask)
    body, service, now = await ask.body(NewDevice), ask.service, ask.service.now()
    user_id = ask.path["user"]
    table = schema.devices
    async with service.database.write(alone="devices") as connection:
        await _existing(service.directory, connection, user_id)
        same = await fetch(
            connection,
            DEVICES,
            table.c.user_id == user_id,
            table.c.provider == body.provider,
            table.c.token == body.token,
        )
        if body.push_provider is not None:
            providers = schema.push_providers
            found = (await connection.execute(providers.select().where(providers.c.name == body.push_provider))).first()
            if found is None:
                raise unprocessable("/push_provider", f"There is no push provider {body.push_provider!r}.")
        # A phone that changed hands: its token belongs to whoever registered it last.
        await connection.execute(
            delete(table).where(
                table.c.provider == body.provider, table.c.token == body.token, table.c.user_id != user_id
            )
        )
        device = Device(
            id=same[0].id if same else service.new_id(),
            user_id=user_id,
            provider=body.provider,
            token=body.token,
            push_provider=body.push_provider,
            created_at=same[0].created_at if same else now,
            updated_at=now,
        )
        await save(connection, [device])
        await _keep_latest_devices(connection, device, service.settings.devices_per_user)
    return Reply({"device": views.device(device)}, 200 if same else 201)


async def _keep_latest_devices(connection: Any, latest: Device, most: int) -> None:
    """Forget those of the user's devices that were not registered for longest, beyond so many."""
    table = schema.devices
    devices = await fetch(connection, DEVICES, table.c.user_id == latest.user_id, table.c.id != latest.id)
    devices.sort(key=lambda device: (device.updated_at, device.id), reverse=True)
    too_many = [device.id for device in devices[most - 1 :]]
    for start in range(0, len(too_many), 500):
        await connection.execute(delete(table).where(table.c.id.in_(too_many[start : start + 500])))


async def list_devices(ask: Ask) -> Reply:
    _self_or_admin(ask)
    async with ask.service.database.read() as connection:
        page = await page_of(
            connection,
            DEVICES,
            [schema.devices.c.user_id == ask.path["user"]],
            newest_first(DEVICES),
            ask.limit(),
            ask.query("next"),
            ask.query("prev"),
        )
    return Reply(page.shown([views.device(device) for device in page.items]))


async def delete_device(ask: Ask) -> Reply:
    _self_or_admin(ask)
    async with ask.service.database.write() as connection:
        gone = await connection.execute(deletion(DEVICES, id=ask.path["device"], user_id=ask.path["user"]))
        if gone.rowcount == 0:
            raise not_found("device")
    return Reply(status=204)


async def list_device_deliveries(ask: Ask) -> Reply:
    """Return what was sent to a device, newest first; also of one that was forgotten because its token was dead."""
    _self_or_admin(ask)
    table = schema.push_jobs
    mine = [table.c.device_id == ask.path["device"], table.c.doc["user_id"].as_string() == ask.path["user"]]
    async with ask.service.database.read() as connection:
        page = await page_of(
            connection,
            PUSH_JOBS,
            mine,
            newest_first(PUSH_JOBS),
            ask.limit(),
            ask.query("next"),
            ask.query("prev"),
        )
    return Reply(page.shown([views.push_job(job) for job in page.items]))


async def put_ban(ask: Ask) -> Reply:
    _may_ban(ask)
    body, service, now = await ask.body(PutBan), ask.service, ask.service.now()
    user_id = ask.path["user"]
    if body.ip:
        await service.addresses.write()
    async with service.realm() as (connection, current):
        target = await _existing(current, connection, user_id)
        if target.role == "admin" and not ask.principal.is_server and _role_of(ask) != "admin":
            raise Problem("role_escalation", "You cannot ban someone above you.")
        known = current.bans.get(user_id)
        seen = await service.addresses.of_user(connection, user_id) if body.ip else []
        if body.ip and known is not None:
            seen = list(dict.fromkeys([*seen, *known.addresses]))
        ban = Ban(
            user_id=user_id,
            reason=body.reason,
            expires_at=milliseconds(body.expires_at),
            ip=body.ip,
            banned_by=ask.principal.user_id,
            created_at=known.created_at if known else now,
            updated_at=now,
            addresses=tuple(seen[:BANNED_ADDRESSES_MAX]),
        )
        await save(connection, [ban])
        await service.note(
            connection, ask.principal, "ban", user_id, views.ban(known) if known else None, views.ban(ban)
        )
        await service.announce(connection, ask.principal, "user.banned", {"ban": views.ban(ban)})
        order = await service.orders.owe(connection, Refresh("blocked", user_id=user_id))
    await service.orders.do(order)
    await service.recheck_watchers()
    return Reply({"ban": views.ban(ban)})


def _role_of(ask: Ask) -> str:
    user = ask.service.directory.known_user(ask.principal.user_id)
    return user.role if user else "user"


def _may_ban(ask: Ask) -> None:
    if ask.principal.is_server:
        return
    scope = ask.principal.scope
    if scope.ceiling is not None or scope.role is not None or _role_of(ask) not in ("admin", "moderator"):
        raise missing("app.admin")


async def delete_ban(ask: Ask) -> Reply:
    _may_ban(ask)
    service, user_id = ask.service, ask.path["user"]
    async with service.realm() as (connection, _):
        known = await fetch_one(connection, BANS, user_id=user_id)
        if known is None:
            raise not_found("ban")
        await connection.execute(deletion(BANS, user_id=user_id))
        await service.note(connection, ask.principal, "unban", user_id, views.ban(known), None)
        await service.announce(connection, ask.principal, "user.unbanned", {"ban": views.ban(known)})
    return Reply(status=204)


_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
_USER = "/v1/users/{user}"
ROUTES = [
    Route("PUT", _USER, put_user, "Make or change a user", auth="server", body=PutUser, example={"name": "Alice"}),
    Route("PATCH", _USER, patch_user, "Change a user", auth="server", body=PutUser, example={"role": "moderator"}),
    Route("GET", _USER, get_user, "Read a user"),
    Route("DELETE", _USER, delete_user, "Delete a user", auth="server", status=204),
    Route("POST", "/v1/users/query", query_users, "Search users", auth="server", body=QueryUsers,
          example={"filter": {"role": "user"}}),
    Route("POST", "/v1/guests", post_guest, "Become a guest", auth="public", body=NewGuest, status=201,
          example={"name": "Visitor"}),
    Route("POST", "/v1/tokens", post_token, "Make a user token", auth="server", body=NewToken, status=201,
          example={"user_id": "alice"}),
    Route("POST", f"{_USER}/devices", post_device, "Register a device for push", body=NewDevice, status=201,
          example={"provider": "fcm", "token": "registration-token"}),
    Route("GET", f"{_USER}/devices", list_devices, "List devices", query=_PAGE),
    Route("DELETE", f"{_USER}/devices/{{device}}", delete_device, "Forget a device", status=204),
    Route("GET", f"{_USER}/devices/{{device}}/deliveries", list_device_deliveries, "List what was sent to a device",
          query=_PAGE),
    Route("PUT", "/v1/bans/{user}", put_ban, "Ban a user", body=PutBan, example={"reason": "spam"}),
    Route("DELETE", "/v1/bans/{user}", delete_ban, "Lift a ban", status=204),
]  # fmt: skip
