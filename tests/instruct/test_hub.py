"""The Hub away, slow, or refusing."""

import contextlib
import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from command_tools import stops
from conftest import write_jsonl
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

import instruct.hub as module
from instruct import runs
from instruct.errors import UserError
from instruct.hub import ask_hub, is_refusal
from instruct.models import load_policy, load_reward
from recipes import ppo, sft

COMMON = [
    "--use_cpu", "--disable_tqdm", "True", "--max_steps", "1", "--per_device_train_batch_size", "4",
    "--lora_r", "2",
]  # fmt: skip


def refused(status: int) -> HfHubHTTPError:
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, f"{status} for the url")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (refused(401), True),
        (refused(403), True),
        (refused(404), True),
        (refused(429), False),
        (refused(503), False),
        (ConnectionError("no route"), False),
        (OfflineModeIsEnabled("offline"), False),
        (TimeoutError("timed out"), False),
        (HFValidationError("Repo id must be in the form"), True),
        (ValueError("shapes"), False),
    ],
)
def test_what_the_hub_will_say_again_is_told_from_a_hub_that_is_away(error, refuses):
    assert is_refusal(error) is refuses


def test_a_hub_away_at_the_start_stops_no_training(
    tmp_path, hub, capsys, tiny_model, demonstrations
):
    """Trainer makes the repository before it trains, and pushes each checkpoint to it."""
    out, tries = tmp_path / "out", []
    argv = [
        "--model_name_or_path", tiny_model, "--output_dir", str(out), "--push_to_hub",
        "--dataset_name", write_jsonl(tmp_path / "d.jsonl", demonstrations), "--hub_model_id",
        "me/tiny", "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none", *COMMON,
    ]  # fmt: skip
    there = hub.create_repo

    def away_once(repo_id, **kwargs):
        tries.append((out / "finished.json").is_file())
        if len(tries) == 1:
            raise ConnectionError("the Hub is away")
        return there(repo_id)

    hub.create_repo = away_once
    sft.cli(argv)
    assert "the Hub cannot be reached (the Hub is away)" in capsys.readouterr().out
    assert tries == [False, True]  # the second time by the push, of a finished run
    assert hub.pushes == ["me/tiny"] and (tmp_path / "hub/me/tiny/merged").is_dir()


def test_a_hub_that_refuses_is_one_sentence_before_training(
    tmp_path, hub, capsys, tiny_model, demonstrations
):
    def no(repo_id, **kwargs):
        raise refused(401)

    hub.create_repo = no
    argv = [
        "--model_name_or_path", tiny_model, "--output_dir", tmp_path / "out", "--push_to_hub",
        "--dataset_name", write_jsonl(tmp_path / "d.jsonl", demonstrations), *COMMON,
    ]  # fmt: skip
    error = stops(sft.cli, argv, capsys)
    assert "the Hub refuses (401 for the url); log in" in error and "HF_TOKEN" in error
    assert not list((tmp_path / "out").glob("checkpoint-*"))


################
# Whether it answers
################


@pytest.fixture
def no_hub(monkeypatch):
    """A Hub that refuses connections, not yet asked."""
    from datasets import config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    module._reach.cache_clear()
    yield constants
    module._reach.cache_clear()
    module._was.clear()


class Answers(BaseHTTPRequestHandler):
    """A Hub that is slow to say that it is there, and makes repositories."""

    seconds, status, headers_too = 0.0, 200, {}

    def do_HEAD(self):
        if self.path == "/":
            time.sleep(self.seconds)
        self._say(b"")

    def do_GET(self):
        self._say(b"")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(json.dumps({"url": f"http://{self.headers['Host']}/me/tiny"}).encode())

    def _say(self, body: bytes):
        with contextlib.suppress(OSError):  # who asked waits no longer
            self.send_response(self.status)
            for name, value in {"Content-Length": len(body), **self.headers_too}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def slow_hub(no_hub, monkeypatch):
    """`Answers`, as the Hub of this process."""
    handler = type("Handler", (Answers,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(no_hub, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        no_hub, "HUGGINGFACE_CO_URL_TEMPLATE",
        no_hub.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    monkeypatch.setattr(module, "PATIENCE", (0.1, 0.6))
    yield handler
    server.shutdown()
    server.server_close()


def test_a_slow_answer_is_waited_for_a_second_time(slow_hub, no_hub):
    slow_hub.seconds = 0.3
    ask_hub("nobody/nothing")
    assert not no_hub.HF_HUB_OFFLINE


def test_a_hub_that_was_slow_once_is_pushed_to_at_the_end(slow_hub, no_hub, tmp_path, monkeypatch):
    slow_hub.seconds = 1.5
    ask_hub("nobody/nothing")
    assert no_hub.HF_HUB_OFFLINE
    (tmp_path / "finished.json").write_text("{}")
    pushed = []
    monkeypatch.setattr(runs._PublicHub, "upload_folder", lambda _, **kwargs: pushed.append(kwargs))
    keys = dict.fromkeys(["hub_token", "hub_private_repo", "hub_revision"])
    args = SimpleNamespace(output_dir=str(tmp_path), hub_model_id="me/tiny", **keys)
    runs.push(args)  # its repository is made over the wire
    assert pushed[0]["repo_id"] == "me/tiny" and (tmp_path / "pushed.json").is_file()
    assert os.environ["HF_HUB_OFFLINE"] == "0" and not no_hub.HF_HUB_OFFLINE


@pytest.mark.parametrize("load", [load_policy, load_reward])
def test_a_gated_repository_asks_for_a_token_in_every_loader(slow_hub, load):
    slow_hub.status, slow_hub.headers_too = 403, {"X-Error-Code": "GatedRepo"}
    with pytest.raises(UserError, match="me/gated: the Hub refuses this.*terms.*HF_TOKEN"):
        load("me/gated")


def test_a_hub_that_cannot_be_reached_is_noticed_at_once(
    no_hub, tmp_path, capsys, tiny_model, demonstrations
):
    began = time.monotonic()
    data = write_jsonl(tmp_path / "d.jsonl", demonstrations)
    for cli, model, rows, more in (
        (sft.cli, "nobody/nothing", data, []),
        (sft.cli, tiny_model, "nobody/nothing", []),
        (ppo.cli, tiny_model, data, ["--reward_model_path", "nobody/nothing"]),
    ):
        argv = ["--model_name_or_path", model, "--dataset_name", rows, *more, *COMMON]
        error = stops(cli, [*argv, "--output_dir", tmp_path / "out"], capsys)
        # it may be the name of a folder, mistyped
        assert re.search("nobody/nothing: .*folder here", error.strip().splitlines()[-1])
    assert no_hub.HF_HUB_OFFLINE and time.monotonic() - began < 20


def test_local_names_never_ask_the_hub(no_hub, tmp_path):
    ask_hub(tmp_path)
    assert not no_hub.HF_HUB_OFFLINE
