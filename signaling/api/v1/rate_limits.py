"""Token buckets per user and route, and per route for everybody; in memory of this process.

What event sockets ask for counts by calls, not by frames. Not here: the limits on what a call may hold.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from signaling.calls.principal import Principal
from signaling.calls.problems import Problem
from signaling.calls.settings import RateLimits

if TYPE_CHECKING:
    from signaling.api.v1.http import Route
    from signaling.api.v1.service import CallsService

BUCKETS_MAX = 100_000
SUBSCRIPTIONS = "calls of event sockets"


class RateLimiter:
    def __init__(self, limits: RateLimits, now: Callable[[], datetime]) -> None:
        self._limits = limits
        self._now = now
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    @classmethod
    def of(cls, service: CallsService) -> RateLimiter:
        """Return the limiter that the service's settings ask for."""
        limits = service.settings.rate_limits
        return cls(limits.model_copy(update={"enabled": limits.enabled and not service.dev}), service.now)

    def take(self, route: Route, principal: Principal, address: str) -> dict[str, str]:
        """Count a request; return the headers that tell what is left, or raise 429."""
        if not self._limits.enabled or principal.is_server:
            return {}
        name = f"{route.method} {route.path}"
        mine = self._limits.user_requests_per_minute
        who = principal.user_id or address
        if route.auth == "public":
            mine, who = self._limits.guests_per_minute_per_address, address
        left = self._one(f"{principal.kind}:{who}", name, mine)
        self._one("", name, self._limits.app_requests_per_minute)
        return {"ratelimit-limit": str(mine), "ratelimit-remaining": str(left), "ratelimit-reset": "60"}

    def take_calls(self, principal: Principal, count: int, *, done: bool = False) -> None:
        """Count calls that an event socket asks for, or raise 429 if too many were asked for before.

        done: nothing is refused any more, it only counts. Whatever was allowed may leave a debt, to be waited for.
        """
        if not self._limits.enabled or principal.is_server:
            return
        who = f"{principal.kind}:{principal.user_id or ''.join(principal.sources[:1])}"
        self._one(who, SUBSCRIPTIONS, self._limits.user_subscriptions_per_minute, count, refuses=not done)
        self._one("", SUBSCRIPTIONS, self._limits.app_requests_per_minute, count, refuses=not done)

    def _one(self, who: str, route: str, per_minute: int, count: int = 1, *, refuses: bool = True) -> int:
        at = self._now().timestamp()
        tokens, since = self._buckets.get((who, route), (float(per_minute), at))
        tokens = min(float(per_minute), tokens + (at - since) * per_minute / 60)
        if tokens < 1 and refuses:
            wait_ms = math.ceil((1 - tokens) * 60_000 / per_minute)
            raise Problem("rate_limited", "Too many requests.", retry_after_ms=wait_ms)
        self._buckets[who, route] = (tokens - count, at)
        self._buckets.move_to_end((who, route))
        while len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return int(tokens - count)
