"""The API's routes on Starlette: sign-in, limits, faults, the answer (docs/api.md §1 to §4)."""

import asyncio
import json
import time
from base64 import b64decode
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import Receive, Scope, Send

from etl.simulator.delivery import Delivery
from etl.simulator.devices import HOME
from etl.simulator.effects import Asked, Edit, Instead, Route, Wire
from etl.simulator.faults import Fault, Faults
from etl.simulator.pages import Rules, Source, read_query, turn_to
from etl.simulator.replies import RefusedError, Reply, error, json_reply, text_reply
from etl.simulator.request_log import RequestLog
from etl.simulator.tokens import Tokens
from etl.simulator.views import Choice
from etl.simulator.world import Row, Service, World


@dataclass(slots=True)
class Limits:
    """How the server treats load; may be changed while it serves."""

    latency_ms: float = 0
    max_concurrent: int | None = None
    gzip: bool = True


class Call(NamedTuple):
    """An authorized request."""

    request: Request
    world: World

    @property
    def service(self) -> Service:
        """Find the service of the path, or refuse: unknown is like deleted (docs/api.md §3.2)."""
        service = self.world.services.get(self.request.path_params["service"])
        if service is None:
            raise self.missing()
        return service

    @property
    def base(self) -> str:
        """Tell under which address the client reached the server: links name the same."""
        return f"{self.request.scope['scheme']}://{self.request.headers.get('host', '127.0.0.1')}"

    @property
    def path(self) -> str:
        """Tell the path asked for."""
        return str(self.request.scope["path"])

    def missing(self) -> RefusedError:
        """Make the refusal of a resource that is not there."""
        return RefusedError(20404, f"The requested resource {self.path} was not found")


Answer = Callable[[Call, list[Fault]], Reply]


@dataclass
class Api:
    """The ASGI application. All its state is in its parts."""

    worlds: Sequence[World]
    rules: Rules
    services_rules: Rules
    limits: Limits
    faults: Faults
    requests: RequestLog
    tokens: Tokens
    in_flight: int = 0
    most_in_flight: int = 0
    _ids: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        """Lay out the routes."""
        service = "/v1/Services/{service}"
        self._router = Starlette(
            routes=[
                self._path("/v1/Services", "services", self._services),
                self._path(service, "service", self._service),
                self._path(f"{service}/Bindings", "bindings", self._bindings),
                self._path(f"{service}/Bindings/{{binding}}", "binding", self._binding),
                self._path("/v1/Configuration", "configuration", self._configuration),
                Path("/v2/token", self._token, methods=["POST"]),
            ],
            exception_handlers={
                404: partial(self._refuse, 20404),
                405: partial(self._refuse, 20004),
            },
        )
        self._router.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Log a request and count it as in flight until it is answered."""
        self.requests.record(scope)
        scope["simulator.start"] = time.perf_counter()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._router(scope, receive, send)
        finally:
            self.in_flight -= 1

    def _path(self, path: str, route: Route, answer: Answer) -> Path:
        async def endpoint(request: Request) -> Response:
            return self._deliver(request, await self._reply(request, route, answer))

        return Path(path, endpoint, methods=["GET"])

    async def _reply(self, request: Request, route: Route, answer: Answer) -> Reply:
        """Check credentials, limits and faults before the resource, in the real API's order."""
        if self.limits.max_concurrent is not None and self.in_flight > self.limits.max_concurrent:
            return error(20429)
        if self.limits.latency_ms:
            await asyncio.sleep(self.limits.latency_ms / 1000)
        world = self._authenticate(request.headers.get("authorization", ""))
        if world is None:
            return error(20003)
        struck = self.faults.strike(_asked(request, route, world)) if self.faults else []
        return self._answer(Call(request, world), struck, answer)

    def _answer(self, call: Call, struck: list[Fault], answer: Answer) -> Reply:
        for fault in struck:
            if isinstance(fault.effect, Instead):
                return fault.effect.act(fault.knobs)
        try:
            reply = answer(call, struck)
        except RefusedError as refused:
            reply = refused.reply
        for fault in struck:
            if isinstance(fault.effect, Wire):
                reply = fault.effect.act(reply, fault.knobs)
        return reply

    def _authenticate(self, header: str) -> World | None:
        if header.startswith("Bearer "):
            return self.tokens.opened_by(header.removeprefix("Bearer "))
        user, password = _basic(header)
        return next((world for world in self.worlds if world.opens_to(user, password)), None)

    async def _token(self, request: Request) -> Response:
        """Grant a token, as the host of its own that Twilio has for it does (docs/api.md §4.2)."""
        form = parse_qs((await request.body()).decode("latin-1"))
        struck = self.faults.strike(Asked("token", "")) if self.faults else []
        for fault in struck:
            if isinstance(fault.effect, Instead):
                return self._deliver(request, fault.effect.act(fault.knobs))
        return self._deliver(request, self.tokens.grant(form, self.worlds))

    def _deliver(self, request: Request, reply: Reply) -> Delivery:
        """Add the headers that support asks for (docs/api.md §3.6)."""
        seconds = time.perf_counter() - request.scope["simulator.start"]
        headers = {
            "Twilio-Request-Id": f"RQ{self._ids.randbytes(16).hex()}",
            "Twilio-Request-Duration": f"{seconds:.3f}",
            "Twilio-Concurrent-Requests": str(self.in_flight),
        }
        packed = self.limits.gzip and "gzip" in request.headers.get("accept-encoding", "")
        return Delivery(reply, headers, packed)

    async def _refuse(self, code: int, request: Request, _: Exception) -> Response:
        return self._deliver(request, error(code))

    # The resources.

    def _services(self, call: Call, struck: list[Fault]) -> Reply:
        return self._list(call, struck, _services_of(call.world), self.services_rules)

    def _bindings(self, call: Call, struck: list[Fault]) -> Reply:
        return self._list(call, struck, None, self.rules)

    def _list(self, call: Call, struck: list[Fault], source: Source | None, rules: Rules) -> Reply:
        query = read_query(
            call.request.scope["query_string"].decode("latin-1"), call.path, call.base, rules
        )
        choice = Choice(rules.order, frozenset(query.types), frozenset(query.identities))
        page = turn_to(query, source or _bindings_of(call.service, choice), rules)
        for fault in struck:
            if isinstance(fault.effect, Edit):
                fault.effect.act(page, fault.knobs)
        return page.reply()

    def _service(self, call: Call, _: list[Fault]) -> Reply:
        return json_reply(call.service.resource())

    def _binding(self, call: Call, _: list[Fault]) -> Reply:
        text = call.service.text(call.request.path_params["binding"])
        if text is None:
            raise call.missing()
        return text_reply(text)

    def _configuration(self, call: Call, _: list[Fault]) -> Reply:
        return json_reply(_configuration_of(call.world))


def _asked(request: Request, route: Route, world: World) -> Asked:
    query = request.query_params
    page = query.get("Page", "0")
    service = request.path_params.get("service")
    number = int(page) if page.isdecimal() and len(page) < 10 else 0
    return Asked(route, world.account_sid, service, number, query.get("PageToken"))


def _basic(header: str) -> tuple[str, str]:
    scheme, _, packed = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = b64decode(packed, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password


def _bindings_of(service: Service, choice: Choice) -> Source:
    return Source(
        "bindings",
        partial(service.rows_after, choice),
        partial(service.rows_before, choice),
        partial(service.rows_at, choice),
        partial(service.find, choice),
    )


def _services_of(world: World) -> Source:
    sids = sorted(world.services)

    def rows(chosen: list[str]) -> list[Row]:
        return [_service_row(world, sid) for sid in chosen]

    def after(position: str | None, number: int) -> list[Row]:
        start = bisect_right(sids, _sid(position))
        return rows(sids[start : start + number])

    def before(position: str, number: int) -> list[Row]:
        stop = bisect_left(sids, _sid(position))
        return rows(sids[max(0, stop - number) : stop])

    def at(offset: int, number: int) -> list[Row]:
        return rows(sids[offset : offset + number])

    def find(sid: str) -> str | None:
        return _service_row(world, sid).position if sid in world.services else None

    return Source("services", after, before, at, find)


def _service_row(world: World, sid: str) -> Row:
    resource = world.services[sid].resource()
    position = f"{resource['date_updated'][:-1]}.000Z_{sid}"
    return Row(sid, position, json.dumps(resource).encode())


def _sid(position: str | None) -> str:
    return (position or "").rpartition("_")[2]


def _configuration_of(world: World) -> dict[str, object]:
    default = next(iter(world.services), None)
    url = f"{HOME}/v1/Configuration"
    return {
        "account_sid": world.account_sid,
        "default_chat_service_sid": default,
        "default_messaging_service_sid": None,
        "default_inactive_timer": None,
        "default_closed_timer": None,
        "url": url,
        "links": {
            "service": f"{HOME}/v1/Services/{default}/Configuration",
            "webhooks": f"{url}/Webhooks",
        },
    }
