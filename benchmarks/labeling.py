"""20 labelers at once on the labeling page's own server, which is killed ten times.

    python benchmarks/labeling.py
    python benchmarks/labeling.py --items 100 --labelers 4 --kills 2

The server is started as a user starts it. Labelers log in, get an item, save an answer at once and
get the next; SIGKILL ends the server in the midst of it, it is started again, they log in again and
send what was not acknowledged once more. The owner looks at his view all the time, and another
program makes backups: both open and close the file that the server writes. At the end it is read:
every answer that was acknowledged is there once, as it was sent, no item twice to one person, none
to more people than it should. The last line is one JSON object: labelers, items, kills, looks,
answers, lost, doubled, too_many, submit_p50, submit_p95, submit_max (seconds, of answers that no
kill delayed), seconds.
"""

import argparse
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from data_prep.labeling.page.shown import as_row  # noqa: E402
from data_prep.labeling.store import Store  # noqa: E402
from data_prep.labeling.team import set_password  # noqa: E402
from instruct.files import write_rows  # noqa: E402

OUTPUTS = 4
PASSWORD = "a password of the benchmark"
OWNER = "owner"
# in a process of its own: a program that closes the file ends its locks on it
BACKUP = "import sqlite3, sys; a, b = map(sqlite3.connect, sys.argv[1:]); a.backup(b)"


class Server:
    """The page, as `python -m data_prep.label` opens it."""

    def __init__(self, folder: Path, overlap: float):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (folder / "server.log").open("ab")
        flags = {
            "labeler": "people",
            "input": folder / "samples.jsonl",
            "database": folder / "labels.sqlite",
            "passwords": folder / "team.txt",
            "overlap": overlap,
            "owner": OWNER,
            "port": self.port,
        }
        typed = [str(part) for flag, value in flags.items() for part in (f"--{flag}", value)]
        self.command = [sys.executable, "-m", "data_prep.label", *typed, "--ranking_only"]
        self.start()

    def start(self) -> float:
        """Seconds until it answers."""
        started = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, cwd=REPO, stdout=self.log, stderr=subprocess.STDOUT
        )
        while True:
            if self.process.poll() is not None:
                raise SystemExit(Path(self.log.name).read_text()[-2000:])
            try:
                httpx.get(self.url, timeout=5)
                return time.perf_counter() - started
            except httpx.TransportError:
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Labeler(threading.Thread):
    """One person with a browser: what was acknowledged, and how long each answer took."""

    shown = "label-board"

    def __init__(self, url: str, name: str):
        super().__init__(name=name, daemon=True)
        self.url, self.draws = url, random.Random(name)
        self.acknowledged: dict[int, list[int]] = {}
        self.latencies: list[float] = []
        self.error: str | None = None

    def run(self) -> None:
        try:
            self.come_back()
            answer = self.patiently("state")
            while answer["task"] is not None:
                answer = self.save(answer["task"])
        # told at the end: a thread that dies is no success
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    def log_in(self) -> None:
        # no certificates are read: it takes more than an answer does
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=False)
        data = {"username": self.name, "password": PASSWORD}
        self.http.post("/login", data=data).raise_for_status()
        page = self.http.get("/").text.partition("window.gradio_config = ")[2]
        config, _ = json.JSONDecoder().raw_decode(page)
        found = (c["id"] for c in config["components"] if c["props"].get("elem_id") == self.shown)
        self.number = next(found)

    def save(self, task: dict) -> dict:
        ranks = [self.draws.randint(1, OUTPUTS) for _ in range(OUTPUTS)]
        dense = sorted(set(ranks))
        ranks = [dense.index(rank) + 1 for rank in ranks]
        answer = {"ranks": ranks, "quality": [None] * OUTPUTS, "flags": [[]] * OUTPUTS}
        form = {"item": task["item"], "answer": answer, "seconds": 0}
        told = self.patiently("save", form, timed=True)
        self.acknowledged[task["item"]] = ranks
        return told

    def patiently(self, function: str, form: dict | None = None, timed: bool = False) -> dict:
        """An answer of the server, which may die while it is asked."""
        first = True
        while True:
            started = time.perf_counter()
            try:
                told = self.ask(function, form or {})
            except (httpx.TransportError, httpx.HTTPStatusError):
                first = False
                self.come_back()
                continue
            if "error" in told:
                raise RuntimeError(told["error"])
            if timed and first:
                self.latencies.append(time.perf_counter() - started)
            return told

    def ask(self, function: str, form: dict) -> dict:
        body = {
            "data": form,
            "component_id": self.number,
            "fn_name": function,
            "session_hash": self.name,
        }
        answer = self.http.post("/gradio_api/component_server", json=body)
        # after a restart nobody is logged in
        return answer.raise_for_status().json()

    def come_back(self) -> None:
        while True:
            try:
                return self.log_in()
            except (httpx.TransportError, httpx.HTTPStatusError):
                # the server needs the processor to start again
                time.sleep(1)


class Owner(Labeler):
    """Looks at the progress of all, and makes backups, until he is stopped."""

    shown = "label-owner"

    def __init__(self, url: str, folder: Path):
        super().__init__(url, OWNER)
        self.folder, self.looks = folder, 0
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            self.come_back()
            while not self.stopped.wait(0.5):
                self.patiently("overview")
                names = (str(self.folder / name) for name in ("labels.sqlite", "backup.sqlite"))
                subprocess.run([sys.executable, "-c", BACKUP, *names], check=True)
                self.looks += 1
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"


def samples(count: int) -> list[dict]:
    return [
        {
            "prompt_id": f"p{n}",
            "prompt": [{"role": "user", "content": f"Question {n}? " + "And so on. " * 20}],
            "completions": [f"Answer {k} to {n}. " + "It goes on. " * 60 for k in range(OUTPUTS)],
            "model": "m",
            "sampling": {},
        }
        for n in range(count)
    ]


def check(folder: Path, labelers: list[Labeler]) -> dict:
    """What the database holds, against what each labeler was told is saved."""
    store = Store.read(folder / "labels.sqlite")
    stored, people, to_all = {}, Counter(), len(labelers)
    for given in store.answers():
        stored[given["labeler"], given["item"]] = given
        people[given["item"]] += 1
    saved = Counter((step["labeler"], step["item"]) for step in store.history())
    store.close()
    lost = 0
    for labeler in labelers:
        for item, ranks in labeler.acknowledged.items():
            given = stored.get((labeler.name, item))
            sent = given and as_row(ranks, tuple(given["order"]), "ranks")
            lost += given is None or given["answer"]["ranks"] != sent
    return {
        "answers": len(stored),
        "acknowledged": sum(len(labeler.acknowledged) for labeler in labelers),
        "lost": lost,
        "doubled": sum(times > 1 for times in saved.values()),
        # an item is for one person or for all
        "too_many": sum(n not in (1, to_all) for n in people.values()),
        "unanswered": len(samples_of(folder)) - len(people),
    }


def samples_of(folder: Path) -> list[str]:
    return (folder / "samples.jsonl").read_text().splitlines()


def work(server: Server, labelers: list[Labeler], expected: int, kills: int) -> None:
    for labeler in labelers:
        labeler.start()
    marks = [round(expected * (i + 1) / (kills + 1)) for i in range(kills)]
    for mark in marks:
        while sum(len(one.acknowledged) for one in labelers) < mark:
            if not any(one.is_alive() for one in labelers):
                break
            time.sleep(0.05)
        server.kill()
        print(f"killed at {mark} answers; up again in {server.start():.1f} s", flush=True)
    for labeler in labelers:
        labeler.join()
        if labeler.error:
            raise SystemExit(f"{labeler.name}: {labeler.error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--labelers", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--overlap", type=float, default=0.1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "samples.jsonl", samples(args.items))
        names = [f"labeler {n:02}" for n in range(args.labelers)]
        for one in (*names, OWNER):
            set_password(folder / "team.txt", one, PASSWORD)
        server = Server(folder, args.overlap)
        labelers = [Labeler(server.url, one) for one in names]
        owner = Owner(server.url, folder)
        started = time.perf_counter()
        expected = args.items * (1 - args.overlap) + args.items * args.overlap * args.labelers
        try:
            owner.start()
            work(server, labelers, round(expected), args.kills)
            seconds = time.perf_counter() - started
            owner.stopped.set()
            owner.join()
            if owner.error:
                raise SystemExit(f"{owner.name}: {owner.error}")
            found = check(folder, labelers)
        finally:
            server.kill()
        took = sorted(seconds for labeler in labelers for seconds in labeler.latencies)
        parts = statistics.quantiles(took, n=100)
        result = {
            "labelers": args.labelers,
            "items": args.items,
            "kills": args.kills,
            "looks": owner.looks,
            **found,
            "submit_p50": round(parts[49], 4),
            "submit_p95": round(parts[94], 4),
            "submit_max": round(took[-1], 4),
            "seconds": round(seconds, 1),
        }
    print(json.dumps(result))
    if result["lost"] or result["doubled"] or result["too_many"] or result["unanswered"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
