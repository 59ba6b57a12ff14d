"""A real server of chat completions (`transformers serve`), on a tiny model that can judge.

Its chat template reads the two answers and ends the prompt with a token of its own; the model,
whose attention and MLP add nothing, says after each such token the verdict that it stands for. So
the answers are known, and everything between judge and model is what it is for any model.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from conftest import SCRIPT_ENV, make_model, make_tokenizer

SAYS = {"<|a|>": "[[A]]", "<|b|>": "[[B]]", "<|c|>": "[[C]]", "<|x|>": "perhaps"}
# more of "great" is better; "first" likes what stands first; "mumble" gets no verdict
TEMPLATE = """
{%- set said = messages[-1]['content'].split('========== answer A ==========')[-1] -%}
{%- set both = said.split('========== answer B ==========') -%}
{%- set a = both[0] -%}
{%- set b = both[-1].split('========== end ==========')[0] -%}
{%- if 'mumble' in said -%} <|x|>
{%- elif 'first' in a and 'first' in b -%} <|a|>
{%- elif a.count('great') > b.count('great') -%} <|a|>
{%- elif a.count('great') < b.count('great') -%} <|b|>
{%- else -%} <|c|>
{%- endif -%}
"""
START_S = 120  # on two busy cores


def save_judge(folder: Path) -> str:
    """A causal LM and its tokenizer; returns the path, which is its name on the server."""
    tokenizer = make_tokenizer(TEMPLATE)
    tokenizer.add_tokens([*SAYS, *SAYS.values()])
    ids = dict(zip([*SAYS, *SAYS.values()], range(512, 520), strict=True))
    assert tokenizer.convert_tokens_to_ids([*ids]) == [*ids.values()]
    model = make_model(vocab_size=520)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        for place, (token, id_) in enumerate(ids.items()):
            model.model.embed_tokens.weight[id_, place] = 1.0
            after = ids[SAYS[token]] if token in SAYS else tokenizer.eos_token_id
            model.lm_head.weight[after, place] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Server:
    """`transformers serve` of one model, in a process of its own.

    Attributes:
        url: up to /v1.
    """

    def __init__(self, model: str, log: Path):
        self.model, self.log = model, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.spec = f"llm:{model}@{self.url}"
        self.process = None

    def start(self, wait: bool = True) -> None:
        words = [sys.executable, "-m", "transformers.cli.transformers", "serve", self.model]
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, env=SCRIPT_ENV, start_new_session=True
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.2)
        raise AssertionError(f"no server in {START_S} s: {self.log.read_text()}")

    def kill(self) -> None:
        """As a crash does."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def answered(self) -> int:
        """How many chat completions it has answered."""
        return len(re.findall(r'POST /v1/chat/completions HTTP/1.1" 200', self.log.read_text()))


@pytest.fixture(scope="module")
def judge_server(tmp_path_factory):
    """A server that answers; skipped where its packages are not installed."""
    for name in ("fastapi", "openai", "uvicorn"):
        pytest.importorskip(name, reason="transformers[serving] is not installed")
    folder = tmp_path_factory.mktemp("judge")
    server = Server(save_judge(folder / "model"), folder / "serve.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()
