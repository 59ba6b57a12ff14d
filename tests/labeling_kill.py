"""Run by test_kill.py: a server with eight labelers at once, killed (SIGKILL) after so many answers
and started again.

    python tests/labeling_kill.py DATABASE '<answers as JSON>'

Writes a line for each answer that `Store.answer` said is saved into DATABASE.acks.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from labeling_tools import ranked, store_of

NAMES = "abcdefgh"
LINE = len('["a", 1000, 12345.0]\n')  # bytes of an acknowledged answer, about
SETTINGS = {"count": 1500, "per_item": 2, "overlap": 0.1}


def label(store, name: str, acks: int) -> None:
    while (task := store.take(name)) is not None:
        seconds = float(time.time_ns() % 100_000)
        store.answer(name, task.item, ranked([1, 2, 2]), seconds)
        # one write: whole or not at all, and the kernel's once it returns
        os.write(acks, json.dumps([name, task.item, seconds]).encode() + b"\n")


def serve(path: Path) -> None:
    acks = os.open(f"{path}.acks", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    store = store_of(path, **SETTINGS)
    threads = [threading.Thread(target=label, args=(store, name, acks)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def kill_after(child: int, path: Path, answers: int) -> int:
    """Kills the server once so many more are saved; its exit code. Seconds mean nothing here:
    a quick machine is done before they are over."""
    acks = Path(f"{path}.acks")
    acks.touch()
    wanted = acks.stat().st_size + answers * LINE
    while acks.stat().st_size < wanted:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    path, rounds = Path(sys.argv[1]), json.loads(sys.argv[2])
    for answers in rounds:
        child = os.fork()
        if child == 0:
            try:
                serve(path)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        print(kill_after(child, path, answers), flush=True)
