"""Rows of every kind into parts: malformed ones, changing types, many parts and processes."""

import json

import pyarrow.parquet as pq
from prompt_tools import SPLITS, adds_up, random_log, rows_of, run, write_lines

from data_prep import prompts
from data_prep.formats import bounded, log_files
from data_prep.prompt_pipeline import outputs, staging
from data_prep.prompt_pipeline.staging import staged_parts

CHAT = [
    {"role": "system", "content": "be nice"},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A bot, mail a@b.org"},
    {"role": "user", "content": "And your name?"},
]


def test_many_parts_and_processes_give_the_same_rows(tmp_path, monkeypatch):
    source = write_lines(tmp_path / "log.jsonl", [*random_log(4), "broken", '{"prompt": 3}'])
    run(source, tmp_path / "one")
    monkeypatch.setattr(log_files, "CHUNK_ROWS", 7)
    # the hashes of both runs under one key
    key = ["--pii_key_file", str(tmp_path / "one.key")]
    prompts.main(
        ["--input", str(source), "--output_dir", str(tmp_path / "many"), "--num_proc", "2", *key]
    )
    for name in SPLITS:
        assert rows_of(tmp_path / "one", name) == rows_of(tmp_path / "many", name)
    one, many = (
        sorted(rows_of(tmp_path / d, "removed"), key=lambda r: (r["line"] or 0, str(r["id"])))
        for d in ("one", "many")
    )
    assert one == many  # malformed rows stand behind the part they are in


def test_a_conversation_of_many_turns_becomes_several_parts(tmp_path, monkeypatch):
    turns = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": f"turn {i} {'x' * 40}"}
        for i in range(60)
    ]
    log = [{"id": name, "user_id": "u", "messages": turns} for name in ("a", "b")]
    # a surrogate that only writing finds
    log.insert(1, {"id": "bad", "prompt": "y" * 300 + "\ud800"})
    source = write_lines(tmp_path / "log.jsonl", [*log, "broken", {"id": "last", "prompt": "x"}])
    flags = ["--turns", "all", "--prefix_chars", "10"]
    run(source, tmp_path / "one", *flags)
    monkeypatch.setattr(staging, "PART_CHARS", 5_000)
    parts = []
    monkeypatch.setattr(
        outputs, "staged_parts", lambda work: parts.extend(staged_parts(work)) or parts
    )
    report = run(source, tmp_path / "many", *flags)
    assert len(parts) > 2 and report["removed"] == {"malformed": 2, "duplicate_prefix": 30}
    for name in SPLITS:
        assert rows_of(tmp_path / "one", name) == rows_of(tmp_path / "many", name)
    by_place = [
        sorted(rows_of(tmp_path / d, "removed"), key=lambda r: (r["line"] or 0, str(r["id"])))
        for d in ("one", "many")
    ]
    assert by_place[0] == by_place[1]


def test_histories_that_multiply_a_row_are_malformed(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "LONGEST_ROW", 20_000)
    turns = [{"role": "user", "content": "x" * 100} for _ in range(100)]
    log = [{"id": "long", "messages": turns}, {"id": "short", "messages": turns[:10]}]
    source = write_lines(tmp_path / "log.jsonl", log)
    assert run(source, tmp_path / "out", "--turns", "all")["removed"] == {"malformed": 1}
    (removed,) = rows_of(tmp_path / "out", "removed")
    assert "histories" in removed["detail"] and removed["line"] == 1
    # the first turn alone has no history
    assert run(source, tmp_path / "out")["removed"] == {"duplicate_prefix": 1}


def test_ride_along_takes_only_what_is_named_and_no_conversation(tmp_path):
    source = write_lines(
        tmp_path / "log.jsonl", [{"id": "a", "messages": CHAT, "x": 1, "mail": "a@b.org"}]
    )
    names = {}
    for flags in ([], ["--ride_along", "x"], ["--ride_along"]):
        run(source, tmp_path / "out", *flags)
        names[" ".join(flags)] = pq.read_schema(tmp_path / "out/train.parquet").names[6:]
    assert names == {"": ["x", "mail"], "--ride_along x": ["x"], "--ride_along": []}


def test_malformed_rows_are_reported_with_file_and_line(tmp_path):
    good = json.dumps({"prompt": "fine", "user_id": "u"}).encode()
    lines = [
        good,
        b"",
        b"not json",
        b'{"prompt": 5}',
        b'{"prompt": null}',
        b'{"prompt": "  \\n"}',
        b'{"text": "x"}',
        b"[1]",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "ok", "x": "\\udfff"}',
        b'{"prompt": "a", "user_id": {"a": 1}}',
        b'{"prompt": "b", "user_id": true}',
        b'{"prompt": "c", "timestamp": "yesterday"}',
        b'{"prompt": "d", "timestamp": [1]}',
        b'{"prompt": "e", "timestamp": 1e30}',
        b"[" * 100_000,
        b'{"prompt": ' + b"9" * 5_000 + b"}",
        b'{"prompt": "f\\u0000g"}',
        b"null",
        good.replace(b"fine", b"last"),
    ]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(lines))
    run(path, tmp_path / "out", "--splits", "train=1")
    report = adds_up(tmp_path / "out")
    assert [r["prompt"] for r in rows_of(tmp_path / "out", "train")] == ["fine", "f\0g", "last"]
    removed = rows_of(tmp_path / "out", "removed")
    assert {(r["file"], r["line"]) for r in removed} == {
        (str(path), n) for n in (*range(3, 19), 20)
    }
    assert all(r["detail"] for r in removed) and report["removed"] == {"malformed": 17}


def test_mixed_schemas_and_reserved_names(tmp_path):
    log = [
        {"prompt": "a", "x": 1, "request_form": "mine", "split": "theirs"},
        {"prompt": "b", "x": "two"},
        {"prompt": "c", "x": {"deep": [None, {"k": None}]}, "y": True},
        {"prompt": "d", "x": 2**70},
        {"prompt": "e", "id": 7},
        {"prompt": "f", "id": "seven", "user_id": 3},
        {"prompt": "g", "id": "seven"},
        {"prompt": "h", "id": 7.0},
    ]
    run(write_lines(tmp_path / "log.jsonl", log), tmp_path / "out", "--splits", "train=1")
    rows = rows_of(tmp_path / "out", "train")
    assert [r["x"] for r in rows] == [
        "1",
        "two",
        '{"deep": [null, {"k": null}]}',
        str(2**70),
        None,
        None,
        None,
        None,
    ]
    assert [r["id"] for r in rows] == [f"log.jsonl:{n:09d}" for n in range(1, 5)] + [
        "7",
        "seven",
        "seven",
        "7",
    ]
    assert (
        rows[0]["input_request_form"] == "mine"
        and rows[0]["input_split"] == "theirs"
        and rows[2]["y"] is True
    )
