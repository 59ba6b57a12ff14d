"""The whole command on anything that people may give it."""

import gzip
import json
import os
import shutil
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_tools import adds_up, run, write_lines

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


NAMES = st.sampled_from(
    ["prompt", "user_id", "timestamp", "id", "messages", "x", "reason", "", "PROMPT"]
)


LINE = st.one_of(
    st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")),
    st.dictionaries(NAMES, ANYTHING, max_size=5).map(lambda d: json.dumps(d).encode()),
    st.dictionaries(NAMES, ANYTHING, max_size=5).map(
        lambda d: json.dumps(d | {"prompt": "Call (212) 555-0123\0"}).encode()
    ),
    st.text(min_size=1, max_size=30).map(
        lambda t: json.dumps({"prompt": t, "user_id": t[:1]}, ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(LINE, max_size=12),
    st.sampled_from(["jsonl", "csv", "jsonl.gz"]),
    st.sampled_from(["drop", "redact", "keep"]),
    st.sampled_from(["first", "all"]),
)
def test_fuzz_never_a_traceback_never_a_lost_row(lines, ending, pii, turns):
    folder = (
        Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"fuzz-prompts-{os.getpid()}"
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        content = b"\n".join(
            [
                json.dumps({"prompt": "a whole row"}).encode()
                if ending != "csv"
                else b"prompt,user_id\nrow,u",
                *lines,
            ]
        )
        (folder / f"log.{ending}").write_bytes(
            gzip.compress(content) if ending.endswith("gz") else content
        )
        report = run(folder / f"log.{ending}", folder / "out", "--pii", pii, "--turns", turns)
        assert adds_up(folder / "out") == report
        if ending != "csv":
            assert report["in"] == 1 + sum(bool(line.strip()) for line in lines) or turns == "all"
    finally:
        shutil.rmtree(folder)


def test_megabyte_prompts(tmp_path):
    log = [{"id": i, "prompt": ("word " * 200_000) + str(i), "user_id": "u"} for i in range(3)] + [
        {"id": 9, "prompt": "é" * 500_000 + " a@b.org"}
    ]
    report = run(write_lines(tmp_path / "log.jsonl", log), tmp_path / "out")
    assert report["removed"] == {"duplicate_prefix": 2, "pii": 1}
