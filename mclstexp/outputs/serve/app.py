"""The web application: a secret in the path, one host, reading only."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mclstexp.errors import MclstexpError
from mclstexp.outputs.report.page import page_html, policy
from mclstexp.outputs.serve.region import Box
from mclstexp.outputs.serve.session import Session

ABSENT = "Neither the prediction nor its reference has such a gene."

LONGEST_PATH = 1000
"""Characters of a path; a number of more than 4,300 digits, of all that could stand in one, is read by no int()."""


def make_app(sessions: Sequence[Session], token: str, title: str, host: str) -> ASGIApp:
    """Return the application.

    Parameters
    ----------
    sessions
        The served predictions.
    token
        First part of every path; without it nothing is answered.
    title
        Title of the page.
    host
        Address that the server listens on.
    """
    items = [session.description(f"/{token}/{number}") for number, session in enumerate(sessions)]
    page = page_html(title, {"mode": "served", "absent": ABSENT, "predictions": items}, served=True)

    def index(request: Request) -> Response:
        return HTMLResponse(page, headers={"Cache-Control": "no-store"})

    def of(number: int) -> Session:
        return sessions[number]

    kept = {"Cache-Control": "private, max-age=3600"}

    def answer(call: Callable[[Session, Request], Any]) -> Callable[[Request], Response]:
        def handler(request: Request) -> Response:
            number = request.path_params["number"]
            if number >= len(sessions):
                return PlainTextResponse("not found", 404)
            try:
                value = call(of(number), request)
            except MclstexpError as error:
                return JSONResponse({"error": str(error)}, 400)
            if isinstance(value, bytes):
                return Response(value, media_type="image/jpeg", headers=kept)
            return JSONResponse(value, headers={"Cache-Control": "no-store"})

        return handler

    base = f"/{token}"
    routes = [Route(f"{base}/", index)]
    routes += [Route(f"{base}/{{number:int}}/{path}", answer(call)) for path, call in _ANSWERS.items()]
    return _Guard(Starlette(routes=routes), token, host)


def _tile(session: Session, request: Request) -> bytes:
    place = request.path_params
    if session.pyramid is None:
        raise _Missing(f"There is no picture of the slide: {session.no_image}.")
    return session.pyramid.tile(place["level"], place["col"], place["row"])


class _Missing(MclstexpError):
    """Something that was asked for is not there."""


def _text(request: Request, name: str) -> str:
    if name not in request.query_params:
        raise _Missing(f"The question lacks {name!r}.")
    return request.query_params[name]


def _number(request: Request, name: str) -> float:
    text = _text(request, name)
    try:
        value = float(text)
    except ValueError:
        raise _Missing(f"{name} is no number: {text[:40]!r}.") from None
    if not abs(value) < 1e9:
        raise _Missing(f"{name} is out of range: {text[:40]!r}.")
    return value


def _box(request: Request) -> Box:
    return Box(*(_number(request, name) for name in ("x0", "y0", "x1", "y1")))


_ANSWERS: dict[str, Callable[[Session, Request], Any]] = {
    "gene": lambda session, request: session.gene(_text(request, "name")),
    "neighbours": lambda session, request: session.neighbours(_text(request, "spot")),
    "spot": lambda session, request: session.spot(_text(request, "spot")),
    "patch": lambda session, request: session.patch(int(_number(request, "row"))),
    "region": lambda session, request: session.region(_box(request), _text(request, "gene")),
    "slide_files/{level:int}/{col:int}_{row:int}.jpeg": _tile,
}


class _Guard:
    """Answers only who names this host, knows the token and asks to read; adds the headers that browsers obey."""

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app, self._token, self._host = app, token, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refusal(scope)
        app: ASGIApp = self._app if refused is None else refused
        await app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not host_allowed(headers.get(b"host", b"").decode("latin-1"), self._host):
            return PlainTextResponse("this server answers to its own address only", 421)
        first = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if not hmac.compare_digest(first.encode(), self._token.encode()):
            return PlainTextResponse("the address lacks the token that mst serve printed", 403)
        if len(scope["path"]) > LONGEST_PATH:
            return PlainTextResponse("the address is too long", 414)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this server is read-only", 405)
        return None


def host_allowed(header: str, host: str) -> bool:
    """Whether a Host header names the server itself, and not a foreign name that was pointed at its address.

    Examples
    --------
    >>> host_allowed("127.0.0.1:8000", "127.0.0.1"), host_allowed("evil.example:8000", "127.0.0.1")
    (True, False)
    """
    name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
    name = name.strip("[]").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        own = {"localhost", host.lower()}
        return name in (own if _is_loopback(host) else {*own, socket.gethostname().lower(), socket.getfqdn().lower()})
    return address.is_loopback or not _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _with_headers(send: Send) -> Send:
    extra = {
        "content-security-policy": f"{policy(served=True)}; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
    }
    encoded = [(name.encode(), value.encode()) for name, value in extra.items()]

    async def wrapped(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *encoded]}
        await send(message)

    return wrapped
