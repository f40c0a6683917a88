"""The page: served to this machine alone, to whoever knows the token, with nothing from outside.

Every page is made here and works by plain forms. A request whose path lacks the token, or whose
Host or Origin is another's, is refused before anything else looks at it.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import socket
from collections.abc import Callable
from importlib.resources import files
from urllib.parse import parse_qsl

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mipo_cli.arena import words
from mipo_mlx.errors import MipoError
from mipo_mlx.evaluation.human_votes import FORMATS, Arena

ADDRESS = "127.0.0.1"
MOST_BYTES = 4096  # of a form
MEDIA = {"jsonl": "application/x-ndjson", "csv": "text/csv"}


def _part(name: str) -> str:
    return (files("mipo_cli.arena") / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Guard:
    """Lets requests through that carry the token in their path and this server's own Host.

    Args:
        app: what is guarded.
        token: first part of the path; compared in constant time.
        host: ``address:port``; the only Host, and the only Origin where one is sent.
        headers: set on every response, refusals included.
    """

    def __init__(self, app: ASGIApp, token: str, host: str, headers: dict[str, str]) -> None:
        self.app, self.token, self.host, self.headers = app, token.encode(), host, headers

    def allows(self, scope: Scope) -> bool:
        """Whether token, Host and Origin are right."""
        headers = Headers(scope=scope)
        given = str(scope["path"]).split("/")[1:2] or [""]
        known = secrets.compare_digest(given[0].encode("utf-8", "surrogatepass"), self.token)
        own = headers.getlist("host") == [self.host]
        return (
            known
            and own
            and headers.get("origin", f"http://{self.host}") == (f"http://{self.host}")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        refusal = PlainTextResponse("Forbidden: open the address that mipo arena showed.\n", 403)
        await (self.app if self.allows(scope) else refusal)(scope, receive, guarded)


class Pages:
    """Handlers of the arena's addresses.

    Args:
        arena: what is voted on.
        home: path of the page, with a slash at its end.
        stop: called when the voter ends the arena.
    """

    def __init__(self, arena: Arena, home: str, stop: Callable[[], None]) -> None:
        self.arena, self.home, self.stop = arena, home, stop
        self.parts = {"style": _part("style.css"), "script": _part("keys.js")}
        self.template = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined
        ).from_string(_part("page.html"))

    def _page(self, title: str, *, duel: bool = False, ended: bool = False) -> Response:
        arena, current = self.arena, self.arena.current if duel else None
        summary = arena.summary()
        text = self.template.render(
            title=title,
            ended=ended,
            duel=current,
            answers=arena.answers(current) if current else (),
            done=len(arena.votes),
            total=len(arena.duels),
            last=arena.last,
            verdict=words.verdict(summary),
            figures=words.figures(summary),
            notes=words.notes(summary),
            **self.parts,
        )
        return HTMLResponse(text)

    async def show(self, request: Request) -> Response:
        """The next duel, or at the end the result."""
        if self.arena.current is None:
            return self._page("Your result")
        done, total = len(self.arena.votes), len(self.arena.duels)
        return self._page(f"{done + 1} of {total}: which answer is better?", duel=True)

    async def result(self, request: Request) -> Response:
        """The result so far."""
        return self._page("Your result")

    async def vote(self, request: Request) -> Response:
        """Keep a vote, then show what comes next."""
        form = await _form(request)
        try:
            self.arena.vote(form.get("duel", ""), form.get("choice", ""))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        return RedirectResponse(self.home, 303)

    async def undo(self, request: Request) -> Response:
        """Take back the last vote, and show its duel again."""
        self.arena.undo((await _form(request)).get("duel", ""))
        return RedirectResponse(self.home, 303)

    async def export(self, request: Request) -> Response:
        """The votes as a file."""
        format = request.url.path.rpartition(".")[2]
        headers = {"Content-Disposition": f'attachment; filename="votes.{format}"'}
        return Response(self.arena.export(format), media_type=MEDIA[format], headers=headers)

    async def quit(self, request: Request) -> Response:
        """Say goodbye, and end the command."""
        self.stop()
        return self._page("The arena is closed", ended=True)


async def _form(request: Request) -> dict[str, str]:
    """Fields of a posted form, of a few bytes."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413)
    try:
        return dict(parse_qsl(body.decode("ascii"), max_num_fields=8))
    except ValueError as error:
        raise HTTPException(400, "not a form") from error


async def _unwritten(request: Request, error: Exception) -> Response:
    """What became of a vote that could not be kept."""
    return PlainTextResponse(f"This vote was not kept.\n{error}\n", 500)


def make_app(arena: Arena, token: str, host: str, stop: Callable[[], None]) -> ASGIApp:
    """The arena's pages under ``/token/``, guarded."""
    pages = Pages(arena, f"/{token}/", stop)
    gets = {"": pages.show, "result": pages.result}
    gets |= {f"votes.{format}": pages.export for format in FORMATS}
    posts = {"vote": pages.vote, "undo": pages.undo, "quit": pages.quit}
    routes = [Route(f"/{token}/{name}", page, methods=["GET"]) for name, page in gets.items()]
    routes += [Route(f"/{token}/{name}", page, methods=["POST"]) for name, page in posts.items()]
    policy = {
        "default-src": "'none'",
        "style-src": _source(pages.parts["style"]),
        "script-src": _source(pages.parts["script"]),
        "img-src": "data:",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in policy.items()),
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",  # no-referrer would make a form's Origin null
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    app = Starlette(routes=routes, exception_handlers={MipoError: _unwritten})
    return Guard(app, token, host, headers)


def serve(arena: Arena, announce: Callable[[str], None]) -> None:
    """Serve the arena on a free port of this machine until Ctrl-C or the page's own end.

    Args:
        arena: what is voted on; votes are kept as they come in.
        announce: is told the address, token included, once it can be opened.
    """
    token = secrets.token_urlsafe(32)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((ADDRESS, 0))
        listener.listen(16)
        host = f"{ADDRESS}:{listener.getsockname()[1]}"

        def stop() -> None:
            server.should_exit = True

        server = uvicorn.Server(
            uvicorn.Config(
                make_app(arena, token, host, stop),
                access_log=False,  # it would hold the token
                log_config=None,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=2,
            )
        )
        announce(f"http://{host}/{token}/")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return
