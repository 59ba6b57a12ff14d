"""What reaches the page's server at all: our own page in a browser, asking for what it shows.

Gradio serves more than this page uses (uploads, files, API docs, a queue): none of it answers here.
"""

import ipaddress
import json
from urllib.parse import urlsplit

# of all that Gradio serves, what this page asks for
PAGES = ("/", "/login", "/login/", "/logout", "/theme.css", "/favicon.ico", "/manifest.json")
API = "/gradio_api/"
COMPONENTS = "component_server"
SERVED = (COMPONENTS, "login_check", "heartbeat/", "startup-events", "app_id")
STATIC = ("/assets/", "/static/")
ELSEWHERE = ("cross-site", "same-site")  # Sec-Fetch-Site of who is not this page
MOST_BYTES = 12_000_000  # of one form: two of the longest texts, in any script
# a browser is told: nothing from elsewhere, in no frame of others, no form to others
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses what no page of ours asks for.

    Args:
        loopback_names: whether the page must be asked for by a name of this machine. Without
            passwords it must: another site may point its own name at 127.0.0.1.
    """

    def __init__(self, app, loopback_names: bool):
        self.app = app
        self.loopback_names = loopback_names

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            # lifespan: no one asks; a websocket: no page of ours does
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if refusal := self._refusal(scope):
            await _refused(*refusal)(scope, receive, send)
            return
        receive = _at_most(receive)
        if scope["method"] == "POST" and scope["path"].startswith(API + COMPONENTS):
            receive, body = await _read_ahead(receive)
            if refusal := _unknown_component(scope["app"], body):
                await _refused(404, refusal)(scope, receive, send)
                return
        await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope) -> tuple[int, str] | None:
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        if not _is_served(scope["path"]):
            return 404, "no such page"
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
            # a form that another site sends has that site's origin, cookies or not
            origin = urlsplit(headers.get("origin", f"//{host}")).netloc
        except ValueError:
            return 400, "the Host or the Origin of this request is no address"
        if self.loopback_names and not is_loopback(name):
            return 403, "ask for this page by 127.0.0.1 or localhost"
        if origin != host:
            return 403, "this comes from another site"
        # an image that another site loads has no origin: /logout would end every session of his
        if scope["path"] != "/" and headers.get("sec-fetch-site") in ELSEWHERE:
            return 403, "this comes from another site"
        if int(headers.get("content-length") or 0) > MOST_BYTES:
            return 413, f"more than {MOST_BYTES} bytes"
        return None


def _refused(status: int, words: str):
    # imported here: it comes with Gradio, whose absence is told elsewhere
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(words, status)


def _is_served(path: str) -> bool:
    if path.startswith(API):
        return path[len(API) :].startswith(SERVED)
    return path in PAGES or path.startswith(STATIC)


def _at_most(receive):
    seen = 0

    async def counted():
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        # a body in chunks names no length
        return {"type": "http.disconnect"} if seen > MOST_BYTES else message

    return counted


async def _read_ahead(receive):
    """What a body says, and a `receive` that gives it once more."""
    messages = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
    body = b"".join(message.get("body", b"") for message in messages)
    left = iter(messages)

    async def again():
        message = next(left, None)
        return await receive() if message is None else message

    return again, body


def _unknown_component(app, body: bytes) -> str | None:
    """What is wrong with the component that is asked; Gradio itself fails over an unknown one."""
    try:
        asked = json.loads(body)
    # forms with files are none of this page's
    except (ValueError, RecursionError):
        return "this is no JSON"
    number = asked.get("component_id") if isinstance(asked, dict) else None
    if type(number) is not int or number not in app.get_blocks().blocks:
        return "no such part of this page"
    return None


def _with_headers(send):
    async def told(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return told
