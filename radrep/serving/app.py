"""The page's server: what it answers, and to whom.

It answers the hosts that it was started for (another Host is a sign of DNS rebinding), takes
requests of its own page alone, asks for the token if it has one, bounds what is sent, and keeps
nothing: files are decoded in memory, answers are not cached, and no request is logged.
"""

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Set
from importlib.resources import files
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radrep.errors import RadrepError
from radrep.inference.films import Films
from radrep.json_text import load_json
from radrep.serving.reader import FilmReader

MAX_BODY = 200 * 2**20  # bytes; films are sent in base64, which takes a third more
MAX_FILMS = 8
_MAX_TEXT = 20_000  # characters of a report that is edited, and of each text of its context
COOKIE = "radrep-token"
_PAGE = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class RefusedError(RadrepError):
    """A request that is not answered; `status` is HTTP's."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Guard:
    """Refuses whom the page is not for, before anything of the request is read."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        request = Request(scope)
        answer = self._refuse(request)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refuse(self, request: Request) -> Response | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if host.lower() not in self._hosts:
            return PlainTextResponse("This server has another name.", 421)
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return PlainTextResponse("Only radrep's own page may ask this.", 403)
        if self._token is None:
            return None
        typed = request.query_params.get("token")
        if typed is not None and _equal(typed, self._token):
            to_page = RedirectResponse("/", 303)  # the token leaves the address line
            to_page.set_cookie(COOKIE, typed, httponly=True, samesite="strict")
            return to_page
        if _equal(request.cookies.get(COOKIE, ""), self._token):
            return None
        return PlainTextResponse("Open the address with the token that radrep serve printed.", 401)


def _equal(typed: str, token: str) -> bool:
    return hmac.compare_digest(typed.encode(), token.encode())


def make_app(reader: FilmReader, hosts: frozenset[str], token: str | None = None) -> Starlette:
    """The application; `hosts` are the Host headers that it answers, with their ports."""

    async def show(request: Request) -> Response:
        name = _PAGE[request.url.path]
        content = files("radrep.serving").joinpath(name).read_bytes()
        return Response(content, media_type=_KINDS[name.rpartition(".")[2]])

    async def about(_: Request) -> Response:
        return JSONResponse(
            {
                "name": reader.name,
                "thresholds": reader.thresholds,
                "suggested": reader.suggested,
                "context": reader.context,
                "max_text": _MAX_TEXT,
                "max_films": MAX_FILMS,
            }
        )

    async def report(request: Request) -> Response:
        body = await _read_json(request)
        films = _films_of(body, "films")
        prior = _films_of(body, "prior") if body.get("prior") else []
        given = await run_in_threadpool(reader.read, films, _texts_of(body), prior)
        return StreamingResponse(_lines(reader, *given), media_type="application/x-ndjson")

    async def edit(request: Request) -> Response:
        body = await _read_json(request)
        text = body.get("text")
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise RefusedError(f"text must be a report of at most {_MAX_TEXT:,} characters", 422)
        numbers = [_numbers_of(body, name) for name in ("probabilities", "thresholds")]
        return JSONResponse({"sentences": await run_in_threadpool(reader.edit, text, *numbers)})

    async def explain(_: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, RefusedError) else 422
        return JSONResponse({"error": str(error)}, status)

    return Starlette(
        routes=[
            *(Route(path, show) for path in _PAGE),
            Route("/about", about),
            Route("/report", report, methods=["POST"]),
            Route("/edit", edit, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={RadrepError: explain},
    )


async def _read_json(request: Request) -> Mapping[str, Any]:
    """The body, counted while it arrives, since its stated length may be wrong."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RefusedError("send JSON", 415)
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > MAX_BODY:
            raise RefusedError(f"more than {MAX_BODY >> 20} MB were sent; give fewer films", 413)
        parts.append(part)
    try:
        body = load_json(b"".join(parts))
    except ValueError as error:
        raise RefusedError(f"no JSON: {error}", 422) from error
    if not isinstance(body, dict):
        raise RefusedError("expected a JSON object", 422)
    return body


async def _lines(reader: FilmReader, films: Films, notes: Set[str]) -> AsyncIterator[str]:
    """The rows of a report, which is not written to its end for a reader who has gone."""
    gone = Event()
    rows = _until_error(reader.stream(films, notes, gone))
    try:
        while row := await asyncio.to_thread(next, rows, None):
            yield f"{json.dumps(row)}\n"
    finally:
        gone.set()


def _until_error(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, and behind them what went wrong: the status of the answer is sent already."""
    try:
        yield from rows
    except RadrepError as error:
        yield {"error": str(error)}


def _texts_of(body: Mapping[str, Any]) -> dict[str, str]:
    texts = body.get("context", {})
    if not isinstance(texts, dict) or not all(
        isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts.values()
    ):
        raise RefusedError(f"context must be texts of at most {_MAX_TEXT:,} characters", 422)
    return {kind: text for kind, text in texts.items() if text.strip()}


def _films_of(body: Mapping[str, Any], field: str) -> list[tuple[str, bytes]]:
    films = body.get(field)
    if not isinstance(films, list) or not 0 < len(films) <= MAX_FILMS:
        raise RefusedError(f"give 1 to {MAX_FILMS} films of one study", 422)
    found = []
    for film in films:
        name, data = (film.get("name"), film.get("data")) if isinstance(film, dict) else ("", None)
        if not isinstance(name, str) or not isinstance(data, str):
            raise RefusedError("a film has a name and data in base64", 422)
        try:
            found.append((name[:200] or "film", base64.b64decode(data, validate=True)))
        except (binascii.Error, ValueError) as error:
            raise RefusedError(f"{name[:200]}: no base64", 422) from error
    return found


def _numbers_of(body: Mapping[str, Any], name: str) -> dict[str, float]:
    values = body.get(name)
    if not isinstance(values, dict) or not all(
        isinstance(value, int | float) and 0 <= value <= 1 for value in values.values()
    ):
        raise RefusedError(f"{name} must be numbers from 0 to 1 by observation", 422)
    return {key: float(value) for key, value in values.items()}
