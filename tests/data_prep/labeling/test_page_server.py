"""The page's own server, asked without a browser: who is let in, and to what."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from labeling_page_tools import (
    HOSTILE_NAME,
    Team,
    Visitor,
    free_port,
    make_store,
    opened,
    samples,
)

pytest.importorskip("gradio", reason="the extra `label` is not installed")

from data_prep.labeling.page import app, guard
from data_prep.labeling.page.guard import MOST_BYTES, is_loopback
from instruct.errors import UserError

TYPED = ("José", "Jose\u0301")  # one letter, and a letter with its accent


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """A page with passwords: (its address, the store)."""
    path = tmp_path_factory.mktemp("team") / "l.sqlite"
    store, project = make_store(path, samples(40, 3))
    with opened(store, project, Team(), owner="owner") as url:
        yield url, store


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A page of one person, without passwords: its address."""
    path = tmp_path_factory.mktemp("alone") / "l.sqlite"
    with opened(*make_store(path, samples(3, 3))) as url:
        yield url


def answer_to(task: dict) -> dict:
    count = len(task["outputs"])
    answer = {"ranks": [1] * count, "quality": [4] * count, "flags": [[]] * count}
    return {"item": task["item"], "answer": answer, "seconds": 0}


def test_who_has_the_password_labels_under_that_name(team):
    url, store = team
    ada = Visitor(url, "ada")
    task = ada.ask("state")["task"]
    assert ada.ask("save", answer_to(task))["saved"] == task["item"]
    assert store.progress("ada")["done"] == 1


def test_a_wrong_password_and_no_password_are_refused(team):
    url, _ = team
    ada = Visitor(url, "ada")
    for stranger in (Visitor(url, "ada", "guessed"), Visitor(url, "nobody"), Visitor(url)):
        if hasattr(stranger, "login"):
            assert stranger.login.status_code == 400
        # nothing of the page is told before the password is: no script, no number
        assert stranger.ids == {}
        for function in ("state", "save", "skip", "undo", "overview", "export"):
            for number in ada.ids.values():
                assert stranger.post(function, number=number).status_code == 401


def test_a_flood_of_logins_holds_up_no_answer(tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(2, 3))
    checking, done = threading.Semaphore(0), threading.Event()

    class Slow(Team):
        def check(self, name, password):
            if name == "nobody":
                checking.release()
                done.wait(60)
            return super().check(name, password)

    with opened(store, project, Slow()) as url, ThreadPoolExecutor(60) as pool:
        ada = Visitor(url, "ada")
        # more than there are threads for answers
        form = {"username": "nobody", "password": "guessed"}
        many = httpx.Client(base_url=url, timeout=90, limits=httpx.Limits(max_connections=60))
        flood = [pool.submit(many.post, "/login", data=form) for _ in range(60)]
        try:
            # all threads that there are for answers, or the few that logins have
            at_once = 0
            while at_once < 40 and checking.acquire(timeout=5):
                at_once += 1
            assert at_once > 0
            ada.http.timeout = 20
            assert "task" in ada.ask("state")
        finally:
            done.set()
        assert {one.result().status_code for one in flood} == {400}


def test_another_labelers_item_is_refused(team):
    url, store = team
    hers = Visitor(url, "ada").ask("state")["task"]
    other = Visitor(url, HOSTILE_NAME)
    assert "none of yours" in other.ask("save", answer_to(hers))["error"]
    assert "none of yours" in other.ask("skip", {"item": hers["item"], "reason": "no"})["error"]
    # nobody becomes somebody else by saying so
    other.ask("save", {**answer_to(hers), "labeler": "ada", "username": "ada"})
    assert store.progress("ada")["done"] <= 1


@pytest.mark.parametrize("form", [None, 5, "x", [], [1, 2], {"item": 1, "answer": [[]]}, {"a": 0}])
def test_a_forged_form_is_told_in_a_sentence(team, form):
    url, _ = team
    for function in ("save", "skip"):
        assert "error" in Visitor(url, "ada").ask(function, form)


def test_only_the_owner_sees_the_owners_view(team):
    url, _ = team
    ada, owner = Visitor(url, "ada"), Visitor(url, "owner")
    ada.ask("save", answer_to(ada.ask("state")["task"]))
    for function in ("overview", "export"):
        assert ada.ask(function) == {"error": "only the owner sees this"}
    assert not ada.ask("state")["is_owner"] and owner.ask("state")["is_owner"]
    assert {one["name"] for one in owner.ask("overview")["labelers"]} >= {"ada"}
    assert owner.ask("export")["name"] == "rankings.jsonl"


def test_nothing_else_of_gradios_server_answers(team):
    url, _ = team
    ada = Visitor(url, "ada")
    for path in (
        "/config",
        "/docs",
        "/openapi.json",
        "/gradio_api/info",
        "/gradio_api/queue/status",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/token",
        "/gradio_api/runs",
        "/monitoring",
        "/gradio_api/mcp/sse",
    ):
        assert ada.http.get(path).status_code == 404, path
    files = {"files": ("a.txt", b"x")}
    assert ada.http.post("/gradio_api/upload", files=files).status_code == 404
    # only functions that were given to the component
    assert ada.post("get_config").status_code == 404
    assert ada.post("__class__").status_code == 404


def test_a_part_that_the_page_has_not_is_refused_without_a_traceback(team, capfd):
    url, _ = team
    ada = Visitor(url, "ada")
    for number in (999, -1, 2**70, "1; --", "board", None, True, 1.5, [1], {}):
        # None is the tests' own word for the board
        body = {"data": {}, "component_id": number, "fn_name": "state", "session_hash": "x"}
        assert ada.http.post("/gradio_api/component_server", json=body).status_code == 404
    for path in ("/gradio_api/component_server", "/gradio_api/component_server/"):
        for content in (b"", b"{", b"[1]", b"5", b"[" * 100_000, b"\xff"):
            assert ada.http.post(path, content=content).status_code == 404
        files = {"files": ("a.txt", b"x")}
        assert ada.http.post(path, files=files, data={"component_id": "1"}).status_code == 404
    body = {"component_id": ada.ids["label-board"]}
    assert 400 <= ada.http.post("/gradio_api/component_server", json=body).status_code < 500
    assert "Traceback" not in capfd.readouterr().err
    assert "task" in ada.ask("state")


def test_another_sites_form_is_refused(alone):
    visitor = Visitor(alone)
    own = visitor.http.base_url
    good = {"origin": f"{own.scheme}://{own.netloc.decode()}"}
    assert visitor.post("state", headers=good).status_code == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{own.port}"):
        assert visitor.post("state", headers={"origin": origin}).status_code == 403
    # a name of another's that points here
    assert visitor.post("state", headers={"host": f"evil.example:{own.port}"}).status_code == 403


def test_an_address_that_is_none_is_refused_without_a_traceback(alone, capfd):
    visitor = Visitor(alone)
    for headers in ({"host": "[::1"}, {"origin": "http://["}, {"host": "["}):
        assert visitor.post("state", headers=headers).status_code == 400
    assert "Traceback" not in capfd.readouterr().err


def test_a_form_in_chunks_is_cut_off_where_it_gets_too_long():
    """Without a length in front: the server stops reading, whatever else would come."""

    async def chunk():
        return {"type": "http.request", "body": b"x" * (MOST_BYTES // 2), "more_body": True}

    async def read():
        receive = guard._at_most(chunk)
        return [(await receive())["type"] for _ in range(3)]

    assert asyncio.run(read()) == ["http.request", "http.request", "http.disconnect"]


def test_another_site_logs_nobody_out(team):
    url, _ = team
    ada = Visitor(url, "ada")
    # as a browser asks for an image that stands in another site's page
    for site in ("cross-site", "same-site"):
        assert ada.http.get("/logout", headers={"sec-fetch-site": site}).status_code == 403
    assert "task" in ada.ask("state")
    # a link to the page is one, and who wants to may go
    assert ada.http.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200
    assert ada.http.get("/logout", headers={"sec-fetch-site": "none"}).status_code != 403
    assert ada.post("state").status_code == 401


def test_a_form_of_megabytes_is_refused(alone):
    visitor = Visitor(alone)
    assert visitor.post("save", {"item": "x" * MOST_BYTES}).status_code == 413


def test_a_browser_is_told_to_load_nothing_from_elsewhere(alone):
    policy = Visitor(alone).http.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_one_person_alone_is_the_owner(alone):
    state = Visitor(alone).ask("state")
    assert state["is_owner"] and state["labeler"] == app.ALONE


def test_of_a_team_without_an_owner_nobody_is_one(tmp_path):
    with opened(*make_store(tmp_path / "l.sqlite", samples(1, 2)), Team()) as url:
        ada = Visitor(url, "ada")
        assert not ada.ask("state")["is_owner"]
        assert "only the owner" in ada.ask("overview")["error"]


def test_a_name_is_one_labeler_however_it_was_typed(tmp_path):
    class One(Team):
        names = ["José"]

        def check(self, name, password):
            return True

    store, project = make_store(tmp_path / "l.sqlite", samples(3, 2))
    with opened(store, project, One()) as url:
        items = [Visitor(url, name, "x").ask("state")["task"]["item"] for name in TYPED]
    assert items == [1, 1] and store.labelers() == ["José"]


def test_a_hostile_name_is_no_markup_in_the_page(team):
    url, _ = team
    visitor = Visitor(url, HOSTILE_NAME)
    assert visitor.ask("state")["labeler"] == HOSTILE_NAME
    assert "<img src=x" not in visitor.page


def test_many_at_once_get_an_item_each(team):
    url, store = team
    ada = Visitor(url, "ada")
    ready = threading.Barrier(8)

    def works(_):
        ready.wait()
        return [ada.ask("save", answer_to(ada.ask("state")["task"])).get("saved") for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(works, range(8)))
    # one name in eight tabs: what two of them save is one answer
    saved = {item for pair in found for item in pair if item}
    answered = [given["item"] for given in store.answers() if given["labeler"] == "ada"]
    assert saved <= set(answered) and len(answered) == len(set(answered))


def test_an_address_that_others_reach_needs_passwords(tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 2))
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.com", ""):
        assert not is_loopback(host)
        with pytest.raises(UserError, match="--passwords") as refused:
            app.serve(store, project, host=host)
        assert str(refused.value).count(".") <= 4
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))


def test_an_owner_whom_the_passwords_do_not_name_is_refused(tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 2))
    with pytest.raises(UserError, match="--owner eve"):
        app.launch(store, project, Team(), owner="eve", port=free_port())


def test_a_port_in_use_is_one_sentence(alone, tmp_path):
    store, project = make_store(tmp_path / "l.sqlite", samples(1, 2))
    port = Visitor(alone).http.base_url.port
    with pytest.raises(UserError, match=f"--port {port}: another program listens there"):
        app.serve(store, project, port=port)


def test_a_port_that_only_one_address_has_free_is_told():
    # Gradio listens on 127.0.0.1 as well, whatever --host says
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: another program"):
            app.check_listens("127.0.0.2", port)
