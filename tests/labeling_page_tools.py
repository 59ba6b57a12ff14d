"""Items, a team and a running page for the tests of data_prep.labeling.page."""

import contextlib
import json
import socket

import httpx
import pytest

from data_prep.labeling.store import Item, Project, Store

HOSTILE = (
    "<script>document.title='hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "[a link](javascript:alert(1)) ${document.title='hacked'} {{value}} `x` \\u0041",
    "nul \0 and right-to-left \u202egnp.exe\u202c שלום",
    "x" * 1_000_000,
)
HOSTILE_NAME = "<img src=x onerror=document.title='hacked'>"
PASSWORDS = {"ada": "ada's password", HOSTILE_NAME: "another one", "owner": "the owner's"}


class Team:
    """`data_prep.labeling.team.Team` without the hashing, which takes a fifth of a second."""

    names = list(PASSWORDS)

    def check(self, name: str, password: str) -> bool:
        return PASSWORDS.get(name) == password


def samples(count: int, outputs: int) -> list[Item]:
    """Samples rows whose outputs say which they are: "3 of 7" is output 3 of prompt 7."""
    return [
        Item(
            {
                "prompt_id": f"p{n}",
                "prompt": [{"role": "user", "content": f"Question {n}?"}],
                "completions": [f"{k} of {n}" for k in range(outputs)],
                "model": "SECRET-model",
                "sampling": {"temperature": 1.0},
            }
        )
        for n in range(count)
    ]


def answers_of_models(count: int) -> list[Item]:
    """Rows of `answers.jsonl` of two models, by prompt."""
    rows = [dict(item.row) for item in samples(count, 2)]
    for n, row in enumerate(rows):
        row |= {"user_id": f"u{n}", "models": ["SECRET-a", "SECRET-b"]}
        del row["model"], row["sampling"]
    return [Item(row) for row in rows]


def prompts(count: int) -> list[Item]:
    return [Item({k: i.row[k] for k in ("prompt_id", "prompt")}) for i in samples(count, 2)]


def make_store(path, items, **settings) -> tuple[Store, Project]:
    project = Project(**{"kind": "rankings", "overlap": 0.0, **settings})
    return Store.create_or_open(path, project, items), project


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def opened(store, project, passwords=None, owner=None):
    """A page that runs: its address, without the slash."""
    pytest.importorskip("gradio", reason="the extra `label` is not installed")
    from data_prep.labeling.page import app

    page, url = app.launch(store, project, passwords, owner, port=free_port())
    try:
        yield url.rstrip("/")
    finally:
        page.close(verbose=False)


class Visitor:
    """Who asks the server without a browser: a form may hold anything."""

    def __init__(self, url: str, name: str | None = None, password: str | None = None):
        self.http = httpx.Client(base_url=url, timeout=60)
        if name is not None:
            data = {"username": name, "password": password or PASSWORDS.get(name, "guessed")}
            self.login = self.http.post("/login", data=data)
        self.page = self.http.get("/").text
        self.ids = {
            component["props"].get("elem_id"): component["id"]
            for component in config_of(self.page)["components"]
        }

    def post(self, function: str, form=None, headers=None, number=None) -> httpx.Response:
        which = "label-owner" if function in ("overview", "export") else "label-board"
        body = {
            "data": {} if form is None else form,
            # who is not logged in is not told the number
            "component_id": self.ids[which] if number is None else number,
            "fn_name": function,
            "session_hash": "of-a-test",
        }
        return self.http.post("/gradio_api/component_server", json=body, headers=headers)

    def ask(self, function: str, form=None) -> dict:
        return self.post(function, form).raise_for_status().json()


def config_of(page: str) -> dict:
    """What Gradio tells a browser of its components."""
    beginning = page.partition("window.gradio_config = ")[2]
    return json.JSONDecoder().raw_decode(beginning)[0]
