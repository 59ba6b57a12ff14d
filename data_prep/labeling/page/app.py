"""The page that people label in: a Gradio app on this machine that loads nothing from elsewhere.

    serve(store, project)      # http://127.0.0.1:7860, until Ctrl-C

Two components: the board, for every labeler, and the owner's view. What they show comes by server
functions as JSON and becomes text nodes in the browser: no row is ever part of a template.
"""

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from data_prep.labeling.page.board import Board
from data_prep.labeling.page.guard import Guard, is_loopback
from data_prep.labeling.page.owner import OwnersView
from data_prep.labeling.team import composed
from instruct.errors import UserError

PORT = 7860
ALONE = "labeler"  # who labels where nobody logs in and no --owner is named
INSTRUCTIONS = {"rankings": "rank.md", "judgements": "judge.md", "demonstrations": "write.md"}
LOGINS_AT_ONCE = 2
# Gradio's login page has no title of its own; a document's is its first, wherever it stands
LOGIN = "<title>Labeling</title>Log in with the name and password that the owner gave you."
HERE = Path(__file__).parent
# the first parts are shared: each component runs in a function of its own
BOARD_PARTS = ("dom.js", "server.js", "keys.js", "each.js", "ranking.js", "drag.js", "write.js")
BOARD_SCRIPT = (*BOARD_PARTS, "aside.js", "board.js")
OWNER_SCRIPT = ("dom.js", "server.js", "owner.js")


def serve(store, project, passwords=None, owner=None, host="127.0.0.1", port=PORT) -> None:
    """Opens the page and waits until it is stopped. Answers are stored as they come.

    Args:
        store: items and answers, `data_prep.labeling.store.Store`.
        project: what is asked of labelers, `data_prep.labeling.store.Project`.
        passwords: who may log in, `data_prep.labeling.team.Team`; None: one person, on loopback.
        owner: the name that sees the owner's view; the one person is the owner without passwords.

    Raises:
        UserError: an address that others reach without passwords or that is none of this machine,
            a port in use, no Gradio.
    """
    app, url = launch(store, project, passwords, owner, host, port)
    print(f"{url} is open; Ctrl-C closes it (every answer is stored as it is saved)", flush=True)
    try:
        threading.Event().wait()
    finally:
        app.close(verbose=False)


def launch(store, project, passwords=None, owner=None, host="127.0.0.1", port=PORT) -> tuple:
    """Starts the server in a thread of its own: (the app, its address). As `serve`."""
    check_address(host, passwords)
    check_listens(host, port)
    if passwords is not None and owner is not None and owner not in passwords.names:
        raise UserError(f"--owner {owner}: is not in the file of --passwords; add that name")
    gr = gradio()
    app = build(gr, store, project, passwords, owner)
    try:
        _, url, _ = app.launch(
            server_name=host,
            server_port=port,
            auth=None if passwords is None else _login(passwords),
            auth_message=LOGIN,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            inline=False,
            footer_links=[],
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            css=_read("page.css"),
            theme=_theme(gr),
            app_kwargs={"middleware": [_guard(passwords)], "openapi_url": None},
        )
    except OSError as error:
        # which Gradio says without a reason; the address has been looked at before
        raise UserError(_in_use(port)) from error
    return app, url


def check_address(host: str, passwords) -> None:
    """That nobody else reaches a page without passwords.

    Raises:
        UserError: they would.
    """
    if passwords is None and not is_loopback(host):
        raise UserError(
            f"--host {host}: others reach this address; give --passwords FILE, or leave --host out"
        )


def check_listens(host: str, port: int) -> None:
    """That a server can listen there, without one: before a database is made for it.

    Raises:
        UserError: the port is another's, or the address is none of this machine.
    """
    try:
        # Gradio takes the port of this machine's loopback address, whatever the host
        for name in dict.fromkeys((host.strip("[]"), "127.0.0.1")):
            family, kind, _, _, place = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                # as servers do: a port whose last connections are being closed is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        raise UserError(_cannot_listen(host, port, error)) from error


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return _in_use(port)
    if error.errno == errno.EACCES:
        return f"--port {port}: is kept for the system's own programs; give one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            f"--host {host}: is no address of this machine; give one that it has, or leave it out"
        )
    return f"--host {host} --port {port}: cannot be listened on ({error.strerror}); give others"


def _in_use(port: int) -> str:
    return (
        f"--port {port}: another program listens there, perhaps another page; stop that, or give "
        "another --port"
    )


def gradio():
    """The package, told not to call home.

    Raises:
        UserError: it is not installed.
    """
    # read when it is imported and when it starts
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # nor to keep what was sent in the browser
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UserError(f"the page needs {error.name}: pip install -e '.[label]'") from error
    return gradio


def build(gr, store, project, passwords=None, owner=None):
    """The app itself, not started.

    Args:
        gr: the package `gradio`.
    """
    who = visitor(passwords, owner)
    board = Board(store, project, project.instructions or instructions_of(project.kind))
    view = OwnersView(store, project)
    boss = owner or (ALONE if passwords is None else None)

    def state(form, request: gr.Request):
        name = who(request)
        return _told(lambda: {**board.state(name), "is_owner": name == boss})

    def save(form, request: gr.Request):
        return _told(lambda: board.save(who(request), form))

    def skip(form, request: gr.Request):
        return _told(lambda: board.skip(who(request), form))

    def undo(form, request: gr.Request):
        return _told(lambda: board.undo(who(request), form))

    def overview(form, request: gr.Request):
        return _told(lambda: _owned(who(request), boss, view.overview))

    def export(form, request: gr.Request):
        return _told(lambda: _owned(who(request), boss, view.export))

    with gr.Blocks(title="Labeling", analytics_enabled=False, fill_width=True) as app:
        _component(gr, "board", BOARD_SCRIPT, [state, save, skip, undo])
        _component(gr, "owner", OWNER_SCRIPT, [overview, export])
    return app


def visitor(passwords, owner: str | None) -> Callable[[object], str]:
    """Function from a request to the name of who asks, by the session, never by the form.

    Gradio hands the web framework's own request to server functions, without `username`: the name
    is looked up as Gradio does for its own (`get_current_user` in its routes).
    """

    def name_of(request) -> str:
        if passwords is None:
            return owner or ALONE
        request = getattr(request, "request", None) or request
        app = request.app
        cookies = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        token = next((request.cookies[name] for name in cookies if name in request.cookies), None)
        name = app.tokens.get(token)
        if name is None:
            raise UserError("you are not logged in; load the page again")
        # Gradio keeps it as it was typed
        return composed(name)

    return name_of


def instructions_of(kind: str) -> str:
    """Our own instructions to labelers, Markdown (paper, appendix B)."""
    folder = HERE.parent / "instructions"
    return (folder / INSTRUCTIONS[kind]).read_text(encoding="utf-8")


def _login(passwords) -> Callable:
    # hashing takes a fifth of a second: in threads of its own, else a flood of logins would take
    # all those that answers are saved in
    few = anyio.CapacityLimiter(LOGINS_AT_ONCE)

    async def check(name: str, password: str) -> bool:
        return await anyio.to_thread.run_sync(passwords.check, name, password, limiter=few)

    return check


def _owned(name: str, owner: str | None, answer: Callable[[], dict]) -> dict:
    if name != owner:
        raise UserError("only the owner sees this")
    return answer()


def _told(answer: Callable[[], dict]) -> dict:
    try:
        return answer()
    except UserError as error:
        return {"error": str(error)}


def _component(gr, name: str, script: tuple[str, ...], functions: list[Callable]):
    return gr.HTML(
        value="",
        html_template=_read(f"{name}.html"),
        css_template=_read("colors.css") + _read(f"{name}.css"),
        js_on_load="\n".join(map(_read, script)),
        apply_default_css=False,
        server_functions=functions,
        elem_id=f"label-{name}",
    )


def _theme(gr):
    # fonts of the system: nothing to load
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    # the login's button: `--accent` of colors.css, as Gradio's grey on grey is hard to read
    fill = {"button_primary_background_fill": "#2352bd", "button_primary_text_color": "#ffffff"}
    return theme.set(**fill, **{f"{name}_dark": color for name, color in fill.items()})


def _guard(passwords):
    from starlette.middleware import Middleware

    return Middleware(Guard, loopback_names=passwords is None)


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
