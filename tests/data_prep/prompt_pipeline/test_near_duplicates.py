"""Prompts that say nearly what an earlier one says."""

import random

import pytest
from prompt_tools import rows_of, run, write_lines


def test_near_duplicates(tmp_path):
    pytest.importorskip("rensa", reason="needs the near extra")
    rng = random.Random(1)
    text = " ".join(f"word{rng.randint(0, 10**6)}" for _ in range(60)).split()
    near, far = [*text], [*text]
    near[30] = "changed"
    for i in range(0, 60, 4):
        far[i] = f"other{i}"
    log = [
        {"id": n, "prompt": " ".join(w), "timestamp": t}
        for n, w, t in (("late", near, 9), ("early", ["Well", *text], 1), ("far", far, 2))
    ]
    log += [
        {
            "id": f"x{i}",
            "prompt": " ".join(f"w{rng.randint(0, 10**6)}" for _ in range(30)),
            "timestamp": 5,
        }
        for i in range(50)
    ]
    source = write_lines(tmp_path / "log.jsonl", log)
    report = run(source, tmp_path / "out", "--near_duplicates", "0.8")
    removed = rows_of(tmp_path / "out", "removed")
    assert [(r["id"], r["reason"], r["kept_id"]) for r in removed] == [
        ("late", "near_duplicate", "early")
    ]
    assert report["removed"] == {"near_duplicate": 1}
    assert run(source, tmp_path / "out")["removed"] == {}  # off by default
