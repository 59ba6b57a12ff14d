"""Run by test_kill.py: a server with eight labelers at once, killed (SIGKILL) after given seconds
and started again.

    python tests/labeling_kill.py DATABASE '<seconds as JSON>'

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


if __name__ == "__main__":
    path, delays = Path(sys.argv[1]), json.loads(sys.argv[2])
    for delay in delays:
        child = os.fork()
        if child == 0:
            try:
                serve(path)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
