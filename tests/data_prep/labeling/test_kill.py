"""A server that is killed while eight people label: what it said is saved is there, once."""

import json
import random
import subprocess
import sys
from collections import Counter

from conftest import SCRIPT_ENV, TESTS

from data_prep.labeling.store import Store

KILLS = 8


def test_every_answer_that_was_acknowledged_is_there_once(tmp_path):
    path = tmp_path / "labels.sqlite"
    draw = random.Random(0)
    answers = [draw.randint(20, 250) for _ in range(KILLS)]
    command = [sys.executable, str(TESTS / "labeling_kill.py"), str(path), json.dumps(answers)]
    run = subprocess.run(command, env=SCRIPT_ENV, capture_output=True, text=True, timeout=240)
    # killed at work each time, not done nor stopped by an error
    assert run.stdout.split() == ["-9"] * KILLS, run.stderr
    assert run.stderr == ""

    lines = (tmp_path / "labels.sqlite.acks").read_text().splitlines()
    acknowledged = [tuple(json.loads(line)) for line in lines]
    assert len(acknowledged) > 100
    store = Store.read(path)
    kept = [(one["labeler"], one["item"], one["seconds"]) for one in store.history()]
    assert set(acknowledged) <= set(kept)
    # a kill between saving and saying so: at most one of each labeler
    assert len(kept) <= len(acknowledged) + KILLS * 8
    pairs = Counter((labeler, item) for labeler, item, _ in kept)
    assert set(pairs.values()) == {1}
    # nor has anybody more than was asked for
    to_all = {i for (i,) in store._rows("SELECT id FROM items WHERE to_all = 1")}
    people = Counter(item for _, item, _ in kept if item not in to_all)
    assert set(people.values()) <= {1, 2}
    assert len(list(store.answers())) == len(kept)
    assert list(store._rows("PRAGMA integrity_check")) == [("ok",)]
