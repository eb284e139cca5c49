"""Balancers that are told over HTTP: Caddy's admin API, and a signed webhook.

In: the set. Out: an answer that says that it was taken, or a Problem. A secret is read from its
file at each call, and never logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from poold.balancers.base import Server
from poold.balancers.told import as_json, backend_of, endpoint
from poold.errors import Permanent, Problem, Temporary
from poold.model.balancing import BalancerName
from poold.model.fleet import Pool

LONGEST_ANSWER_BYTES: Final = 1 << 20
SIGNATURE, TIMESTAMP = "X-Poold-Signature", "X-Poold-Timestamp"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookTeller:
    """Posts the set to a URL when it is news.

    The signature is the HMAC-SHA256 of time stamp, "." and body, in hexadecimal digits.
    """

    name: BalancerName
    url: str
    secret_file: str | None
    timeout_seconds: float
    clock: Callable[[], float] = time.time

    async def tell(self, pool: Pool, servers: tuple[Server, ...], *, anew: bool) -> bool:
        """See `Teller.tell`."""
        if anew:
            body = json.dumps(as_json(pool, servers)).encode()
            await ask(self.name, "POST", self.url, self.timeout_seconds, body, self._signed(body))
        return anew

    def _signed(self, body: bytes) -> Mapping[str, str]:
        if self.secret_file is None:
            return {}
        try:
            secret = Path(self.secret_file).read_bytes().strip()
        except OSError as error:
            raise Permanent(
                "balancer.secret", f"cannot read {self.secret_file}: {error.strerror}"
            ) from error
        if not secret:
            raise Permanent("balancer.secret", f"cannot sign with {self.secret_file}: it is empty")
        stamp = str(int(self.clock()))
        digest = hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {TIMESTAMP: stamp, SIGNATURE: f"sha256={digest}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaddyTeller:
    """Sets the upstreams of a reverse_proxy; they are read and compared at each call."""

    name: BalancerName
    url: str
    timeout_seconds: float

    async def tell(self, pool: Pool, servers: tuple[Server, ...], *, anew: bool) -> bool:
        """See `Teller.tell`; what is read says whether it is news."""
        del anew
        url = f"{self.url.rstrip('/')}/id/{backend_of(pool)}/upstreams"
        wanted = [{"dial": endpoint(each)} for each in servers]
        found = await ask(self.name, "GET", url, self.timeout_seconds)
        if found == wanted or (not found and not wanted):
            return False
        method = "PUT" if found is None else "PATCH"
        await ask(self.name, method, url, self.timeout_seconds, json.dumps(wanted).encode())
        return True


async def ask(
    name: BalancerName,
    method: str,
    url: str,
    timeout_seconds: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Send one request and return the JSON of its answer, None where there is none."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            aiohttp.ClientSession() as session,
            session.request(
                method, url, data=body, headers=sent, allow_redirects=False
            ) as response,
        ):
            answer = await response.content.read(LONGEST_ANSWER_BYTES)
            status = response.status
    except TimeoutError:
        raise Temporary(
            "balancer.timeout",
            f"cannot tell {name}: no answer in {timeout_seconds:g} s",
            retry_after_seconds=1,
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Temporary(
            "balancer.unreachable", f"cannot tell {name}: {error}", retry_after_seconds=1
        ) from error
    if not 200 <= status < 300:
        raise _refused(name, method, status, answer)
    try:
        return json.loads(answer) if answer.strip() else None
    except ValueError:
        return None


def _refused(name: BalancerName, method: str, status: int, answer: bytes) -> Problem:
    detail = answer[:500].decode("utf-8", "replace")
    text = f"cannot tell {name}: {method} was answered with {status}"
    if status in (400, 401, 403, 404):
        return Permanent("balancer.refused", text, detail=detail)
    return Temporary("balancer.refused", text, detail=detail, retry_after_seconds=1)
