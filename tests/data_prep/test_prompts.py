"""The prompt pipeline against a plain-Python reference, on bad input, on conversations, on both engines, and killed."""

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("phonenumbers", reason="needs the pii extra")

from data_prep import prompts
from data_prep.formats import log_files
from data_prep.formats.forms import request_form
from data_prep.pii import find_pii, redact

SPLITS = ("train", "validation", "test")


def run(source, output: Path, *flags: str) -> dict:
    sources = [str(s) for s in (source if isinstance(source, list) else [source])]
    prompts.main(["--input", *sources, "--output_dir", str(output), "--num_proc", "1", *flags])
    return json.loads((output / "report.json").read_text())


def fails(capsys, *argv: str) -> str:
    """The one sentence that a wrong call prints; exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        prompts.main(list(map(str, argv)))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def rows_of(output: Path, name: str) -> list[dict]:
    return pq.read_table(output / f"{name}.parquet").to_pylist()


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows),
        encoding="utf-8",
        errors="surrogatepass",
    )
    return path


def adds_up(output: Path) -> dict:
    """in = kept + removed, in the report and in the files; every removed row has its reason; returns the report."""
    report = json.loads((output / "report.json").read_text())
    kept = {name: rows_of(output, name) for name in report["splits"]}
    removed = rows_of(output, "removed")
    assert report["splits"] == {name: len(rows) for name, rows in kept.items()}
    assert report["kept"] == sum(map(len, kept.values()))
    assert report["in"] == report["kept"] + len(removed)
    assert report["removed"] == dict(Counter(r["reason"] for r in removed))
    assert [s["out"] for s in report["steps"]][:-1] == [s["in"] for s in report["steps"]][1:]
    for row in removed:
        assert (
            (row["reason"] == "malformed") == (row["line"] is not None) == (row["file"] is not None)
        )
    return report


# --- against a plain reference --------------------------------------------------------------------------------------


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def reference(
    log: list[dict],
    prefix=200,
    most=200,
    seed=0,
    pii="drop",
    pii_splits="all",
    shares=(0.9, 0.05, 0.05),
) -> dict:
    """{id: (split, reason, kept_id, dup_count, prompt)} by the definitions in the issue, a row at a time."""
    decided, groups, users = {}, defaultdict(list), defaultdict(list)
    bounds = [sum(shares[: i + 1]) for i in range(len(shares))]
    for row in log:
        owner = f"row:{row['id']}" if row["user_id"] is None else f"user:{row['user_id']}"
        place = int(md5(f"{seed}:split:{owner}"), 16) / 16**32
        split = SPLITS[next((i for i, b in enumerate(bounds) if place < b), 2)]
        key = " ".join(unicodedata.normalize("NFC", row["prompt"]).split())[:prefix]
        time_key = (row["timestamp"] is None, row["timestamp"] or 0)
        groups[key].append((time_key, row["id"]))
        decided[row["id"]] = {
            "split": split,
            "reason": None,
            "kept_id": None,
            "prompt": row["prompt"],
            "key": key,
            "user": row["user_id"],
        }
    for members in groups.values():
        (_, first), *rest = sorted(members)
        decided[first]["dup_count"] = len(members)
        for _, other in rest:
            decided[other] |= {"reason": "duplicate_prefix", "kept_id": first, "dup_count": None}
    for row in decided.values():
        found = find_pii(row["prompt"]) if pii != "keep" else []
        here = pii_splits == "all" or row["split"] == "train"
        if found and pii == "drop" and here and row["reason"] is None:
            row["reason"] = "pii"
        row["clean"] = redact(row["prompt"], found)
        row["hide"] = pii == "redact" and here
    for i, row in decided.items():
        if row["reason"] is None and row["user"] is not None:
            users[row["user"]].append((md5(f"{seed}:cap:{i}:{md5(row['key'])}"), i))
    for members in users.values():
        for _, i in sorted(members)[most:]:
            decided[i]["reason"] = "over_user_cap"
    return {
        i: (
            r["split"],
            r["reason"],
            r["kept_id"],
            r["dup_count"],
            r["clean"] if r["reason"] or r["hide"] else r["prompt"],
        )
        for i, r in decided.items()
    }


def random_log(seed: int, count: int = 400, text_ids: bool = False) -> list[dict]:
    rng = random.Random(seed)
    stems = [
        "Tell me about the moon and the tides, ",
        "café\u0301 au lait  ",
        "Write a\tpoem\n",
        "日本語の文を書いて ",
        "x" * 30,
        "hi",
    ]
    private = [
        "mail jo@example.com",
        "call (212) 555-0123",
        "card 4111 1111 1111 1111",
        "order 1029384756",
        "v1.2.3.4",
    ]
    log = []
    for i in rng.sample(range(10 * count), count):
        prompt = (
            rng.choice(stems)
            + rng.choice(["", " ", "\u00a0 "])
            + rng.choice("abcdefgh") * rng.randint(0, 25)
            + rng.choice(["", rng.choice(private)])
        )
        if rng.random() < 0.2:
            prompt = unicodedata.normalize("NFD", prompt).replace(" ", " \n")
        log.append(
            {
                "id": f"r{i}" if text_ids else i, "prompt": prompt, "user_id": rng.choice([None, "ä", *"abcde"]),
                "timestamp": rng.choice([None, *range(1, 9)]), "rides": rng.choice([None, 1, 2.5]),
            }
        )  # fmt: skip
    return log


def outcome(output: Path) -> dict:
    kept = {
        r["id"]: (n, None, None, r["dup_count"], r["prompt"])
        for n in SPLITS
        for r in rows_of(output, n)
    }
    gone = {
        r["id"]: (r["split"], r["reason"], r["kept_id"], r["dup_count"], r["prompt"])
        for r in rows_of(output, "removed")
    }
    assert not kept.keys() & gone.keys()
    return kept | gone


VARIANTS = [
    {}, {"prefix": 20, "most": 3}, {"seed": 5, "pii": "redact", "prefix": 45}, {"pii": "keep", "most": 1},
    {"pii_splits": "train", "prefix": 60, "seed": 2, "shares": (0.5, 0.25, 0.25)}, {"pii": "redact", "pii_splits": "train", "shares": (0.4, 0.3, 0.3)},
]  # fmt: skip


def flags_of(variant: dict) -> list[str]:
    names = {"prefix": "prefix_chars", "most": "max_per_user"}
    flags = [
        w for k, v in variant.items() if k != "shares" for w in (f"--{names.get(k, k)}", str(v))
    ]
    if "shares" in variant:
        flags += [
            "--splits",
            ",".join(f"{n}={s}" for n, s in zip(SPLITS, variant["shares"], strict=True)),
        ]
    return flags


@pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: " ".join(f"{k}={x}" for k, x in v.items()) or "defaults"
)
def test_same_rows_as_the_reference(tmp_path, variant):
    for seed in range(2):
        log = random_log(seed + 10 * len(variant), text_ids=bool(seed))
        run(write_jsonl(tmp_path / "log.jsonl", log), tmp_path / "out", *flags_of(variant))
        adds_up(tmp_path / "out")
        expected = reference(log, **variant)
        assert outcome(tmp_path / "out") == expected
        assert (
            len({reason for _, reason, *_ in expected.values()}) >= 2
        )  # the log exercises the steps


def test_columns_forms_and_what_rides_along(tmp_path):
    log = random_log(1)
    run(write_jsonl(tmp_path / "log.jsonl", log), tmp_path / "out")
    by_id = {r["id"]: r for r in log}
    assert pq.read_schema(tmp_path / "out/train.parquet").names == [
        "id",
        "prompt",
        "user_id",
        "timestamp",
        "request_form",
        "dup_count",
        "rides",
    ]
    for row in rows_of(tmp_path / "out", "train"):
        origin = by_id[row["id"]]
        assert (row["prompt"], row["user_id"], row["timestamp"], row["rides"]) == tuple(
            origin[c] for c in ("prompt", "user_id", "timestamp", "rides")
        )
        assert row["request_form"] == request_form(row["prompt"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "removed.parquet",
        "report.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


def test_prefix_threshold_is_exact(tmp_path):
    base = "".join(random.Random(0).choices("abcdefghij ", k=400)).replace("  ", "xy").strip()
    log, expected = [{"id": "first", "prompt": base, "timestamp": 0}], {}
    for length in range(150, 251):
        log.append(
            {
                "id": f"p{length}",
                "prompt": base[:length].rstrip() + "#" + str(length) * 60,
                "timestamp": 1,
            }
        )
        expected[f"p{length}"] = (
            len(base[:length].rstrip()) >= 200 or len(base[:length]) >= 200 and base[199] != " "
        )
    log += [
        {"id": "short", "prompt": base[:150]},
        {"id": "short again", "prompt": f" {base[:150]}\n"},
    ]
    expected |= {"short": False, "short again": True}
    run(write_jsonl(tmp_path / "log.jsonl", log), tmp_path / "out")
    removed = {r["id"]: r["kept_id"] for r in rows_of(tmp_path / "out", "removed")}
    assert {i for i, dup in expected.items() if dup} == set(removed)
    assert removed["short again"] == "short" and removed["p250"] == "first"


def test_append_moves_nobody_and_same_seed_same_bytes(tmp_path):
    log = random_log(3, 600)
    old, grown = (
        write_jsonl(tmp_path / "a.jsonl", log[:500]),
        write_jsonl(tmp_path / "b.jsonl", log),
    )
    for source, name in ((old, "one"), (old, "two"), (grown, "grown")):
        run(source, tmp_path / name)
    for file in (*SPLITS, "removed"):
        assert (tmp_path / "one" / f"{file}.parquet").read_bytes() == (
            tmp_path / "two" / f"{file}.parquet"
        ).read_bytes()

    def splits(name):
        return {i: split for i, (split, *_) in outcome(tmp_path / name).items()}

    before, after = splits("one"), splits("grown")
    assert all(after[i] == split for i, split in before.items())
    run(old, tmp_path / "other seed", "--seed", "1")
    assert splits("other seed") != before


def test_many_parts_and_processes_give_the_same_rows(tmp_path, monkeypatch):
    source = write_jsonl(tmp_path / "log.jsonl", [*random_log(4), "broken", '{"prompt": 3}'])
    run(source, tmp_path / "one")
    monkeypatch.setattr(log_files, "CHUNK_ROWS", 7)
    prompts.main(
        ["--input", str(source), "--output_dir", str(tmp_path / "many"), "--num_proc", "2"]
    )
    for name in SPLITS:
        assert rows_of(tmp_path / "one", name) == rows_of(tmp_path / "many", name)
    one, many = (
        sorted(rows_of(tmp_path / d, "removed"), key=lambda r: (r["line"] or 0, str(r["id"])))
        for d in ("one", "many")
    )
    assert one == many  # malformed rows stand behind the part they are in


def test_load_dataset_reads_the_folder(tmp_path):
    from datasets import load_dataset

    report = run(write_jsonl(tmp_path / "log.jsonl", random_log(5)), tmp_path / "out")
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == report["splits"]


# --- what is never written ------------------------------------------------------------------------------------------


def test_removed_never_holds_personal_information(tmp_path):
    secret = "jo.smith@example.com"
    log = [
        {"id": i, "prompt": f"{'Please answer this mail ' * 9}{i} {secret}", "user_id": f"u{i}"}
        for i in range(5)
    ]
    log += [
        {"id": 10 + i, "prompt": f"Question {i} from {secret} and 536-90-4399", "user_id": "v"}
        for i in range(5)
    ]
    source = write_jsonl(tmp_path / "log.jsonl", [*log, f'{{"prompt": "{secret}'])
    run(source, tmp_path / "out")
    removed = rows_of(tmp_path / "out", "removed")
    assert Counter(r["reason"] for r in removed) == {
        "duplicate_prefix": 4,
        "pii": 6,
        "malformed": 1,
    }
    assert secret not in json.dumps(removed) and "536-90-4399" not in json.dumps(removed)
    assert {k for r in removed for k in r["pii_kinds"] or ()} == {"email", "national_id"}
    hashes = {
        h
        for r in removed
        for k, h in zip(r["pii_kinds"] or (), r["pii_hashes"] or (), strict=True)
        if k == "email"
    }
    assert len(hashes) == 1  # the same address, told by its hash
    assert not any(h.startswith(hashlib.sha256(secret.encode()).hexdigest()[:8]) for h in hashes)
    run(source, tmp_path / "off", "--pii_off", "email", "national_id")
    assert adds_up(tmp_path / "off")["removed"] == {"duplicate_prefix": 4, "malformed": 1}


# --- formats --------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_rows(tmp_path):
    log = [
        {
            "id": f"r{i}",
            "prompt": f'prompt {i}, "quoted"\nline é',
            "user_id": f"u{i % 3}",
            "timestamp": 10 + i,
        }
        for i in range(30)
    ]
    table = pa.Table.from_pylist(log)
    pq.write_table(table, tmp_path / "a.parquet")
    write_jsonl(tmp_path / "a.jsonl", log)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps(log))
    import csv

    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(log[0]))
        writer.writeheader()
        writer.writerows(log)
    (tmp_path / "folder/deep").mkdir(parents=True)
    write_jsonl(tmp_path / "folder/1.jsonl", log[:10])
    pq.write_table(table.slice(10), tmp_path / "folder/deep/2.parquet")
    results = {}
    for source in ("a.parquet", "a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "folder", "a.j*l"):
        run(tmp_path / source, tmp_path / "out")
        results[source] = {
            n: [(r["id"], r["prompt"], r["user_id"]) for r in rows_of(tmp_path / "out", n)]
            for n in SPLITS
        }
    assert all(result == results["a.parquet"] for result in results.values())


def test_hub_ids_and_hub_paths(tmp_path, monkeypatch):
    """No Hub here: the two clients are replaced, what they are asked for is checked."""
    import datasets
    import fsspec
    import huggingface_hub

    log = [{"prompt": f"prompt {i}", "user_id": "u"} for i in range(5)]
    asked = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, split: asked.append((name, split)) or datasets.Dataset.from_list(log),
    )
    report = run("someone/their-log", tmp_path / "out")
    assert asked == [("someone/their-log", "train")] and report["in"] == 5
    write_jsonl(tmp_path / "log.jsonl", log)

    class Local(fsspec.implementations.local.LocalFileSystem):
        def open(self, path, mode):
            return open(path.removeprefix("hf://"), mode)

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Local)
    assert run(f"hf://{tmp_path}/log.jsonl", tmp_path / "out")["in"] == 5


CHAT = [
    {"role": "system", "content": "be nice"}, {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A bot, mail a@b.org"},
    {"role": "user", "content": "And your name?"},
]  # fmt: skip
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}.get(m["role"], m["role"]), "value": m["content"]}
    for m in CHAT
]


@pytest.mark.parametrize(
    ("column", "messages"),
    [("messages", CHAT), ("conversation", CHAT), ("conversations", SHAREGPT)],
)
def test_conversations(tmp_path, column, messages):
    log = [
        {"id": "c1", "user_id": "u", column: messages},
        {"id": "c2", "user_id": "v", column: messages[:2]},
    ]
    source = write_jsonl(
        tmp_path / "log.jsonl",
        [*log, {"id": "c3", column: messages[:1]}, {"id": "c4", column: [{"role": "user"}]}],
    )
    report = run(source, tmp_path / "first")
    rows = [r for n in SPLITS for r in rows_of(tmp_path / "first", n)]
    assert [(r["id"], r["prompt"], r["dup_count"]) for r in rows] == [("c1", "Who are you?", 2)]
    assert report["removed"] == {"malformed": 2, "duplicate_prefix": 1}
    run(source, tmp_path / "all", "--turns", "all", "--pii", "redact")
    adds_up(tmp_path / "all")
    rows = {r["id"]: r for n in SPLITS for r in rows_of(tmp_path / "all", n)}
    assert set(rows) == {
        "c1#0",
        "c1#1",
    }  # c2's turn has the same history (a system prompt) and the same words
    assert rows["c1#1"]["prompt"] == "And your name?"
    assert [m["content"] for m in rows["c1#1"]["history"]] == [
        "be nice",
        "Who are you?",
        "A bot, mail <EMAIL>",
    ]
    assert [m["role"] for m in rows["c1#1"]["history"]] == ["system", "user", "assistant"]
    run(source, tmp_path / "drop", "--turns", "all")
    assert "c1#1" not in {
        r["id"] for n in SPLITS for r in rows_of(tmp_path / "drop", n)
    }  # its history holds an address


def test_same_words_after_another_history_are_no_duplicate(tmp_path):
    def chat(first):
        return [
            {"role": "user", "content": first},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "go on"},
        ]

    log = [
        {"id": "a", "messages": chat("tell a story")},
        {"id": "b", "messages": chat("write a song")},
        {"id": "c", "messages": chat("tell a  story")},
    ]
    run(write_jsonl(tmp_path / "log.jsonl", log), tmp_path / "out", "--turns", "all")
    assert {r["id"]: r["kept_id"] for r in rows_of(tmp_path / "out", "removed")} == {
        "c#0": "a#0",
        "c#1": "a#1",
    }


def test_ride_along_takes_only_what_is_named_and_no_conversation(tmp_path):
    source = write_jsonl(
        tmp_path / "log.jsonl", [{"id": "a", "messages": CHAT, "x": 1, "mail": "a@b.org"}]
    )
    names = {}
    for flags in ([], ["--ride_along", "x"], ["--ride_along"]):
        run(source, tmp_path / "out", *flags)
        names[" ".join(flags)] = pq.read_schema(tmp_path / "out/train.parquet").names[6:]
    assert names == {"": ["x", "mail"], "--ride_along x": ["x"], "--ride_along": []}


# --- optional steps -------------------------------------------------------------------------------------------------


def test_exclude_drops_long_shared_ngrams(tmp_path):
    question = "Natalia sold clips to forty eight of her friends in April and then she sold half as many clips in May"
    write_jsonl(
        tmp_path / "eval.jsonl",
        [
            {
                "question": question + ".",
                "choices": ["yes, of course", {"text": "Name the largest planet there is"}],
            }
        ],
    )
    log = [
        {"id": "same", "prompt": f"please solve: {question.upper()}?"}, {"id": "part", "prompt": " ".join(question.split()[3:17])},
        {"id": "too short", "prompt": " ".join(question.split()[3:15])}, {"id": "whole short item", "prompt": "name the largest planet, there is!"},
        {"id": "other", "prompt": "Natalia likes clips of her friends and sold half of them in some other month of the year, not May"},
    ]  # fmt: skip
    report = run(
        write_jsonl(tmp_path / "log.jsonl", log),
        tmp_path / "out",
        "--exclude",
        str(tmp_path / "eval.jsonl"),
    )
    assert {r["id"] for r in rows_of(tmp_path / "out", "removed")} == {
        "same",
        "part",
        "whole short item",
    }
    assert report["removed"] == {"contaminated": 3}
    adds_up(tmp_path / "out")


def test_ngram_filter_equals_a_plain_search():
    rng = random.Random(0)
    words = [f"w{i}" for i in range(12)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(60)]
    ngrams = prompts.Ngrams(iter(texts), 9)
    grams = {tuple(t.split()[i : i + 9]) for t in texts for i in range(len(t.split()) - 8)}
    whole = {tuple(t.split()) for t in texts if 5 <= len(t.split()) < 9}
    hits = 0
    for _ in range(800):
        base, at = rng.choice(texts).split(), rng.randint(0, 20)
        probe = (
            rng.choices(words, k=rng.randint(0, 9))
            + base[at : at + rng.randint(0, 14)]
            + rng.choices(words, k=rng.randint(0, 9))
        )
        expected = any(tuple(probe[i : i + 9]) in grams for i in range(len(probe) - 8)) or (
            len(probe) < 9 and tuple(probe) in whole
        )
        assert ngrams.hit(" ".join(probe)) == expected
        hits += expected
    assert 100 < hits < 700


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
    source = write_jsonl(tmp_path / "log.jsonl", log)
    report = run(source, tmp_path / "out", "--near_duplicates", "0.8")
    removed = rows_of(tmp_path / "out", "removed")
    assert [(r["id"], r["reason"], r["kept_id"]) for r in removed] == [
        ("late", "near_duplicate", "early")
    ]
    assert report["removed"] == {"near_duplicate": 1}
    assert run(source, tmp_path / "out")["removed"] == {}  # off by default


# --- bad input ------------------------------------------------------------------------------------------------------


def test_malformed_rows_are_reported_with_file_and_line(tmp_path):
    good = json.dumps({"prompt": "fine", "user_id": "u"}).encode()
    lines = [
        good, b"", b"not json", b'{"prompt": 5}', b'{"prompt": null}', b'{"prompt": "  \\n"}', b'{"text": "x"}', b"[1]", b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}', b'{"prompt": "ok", "x": "\\udfff"}', b'{"prompt": "a", "user_id": {"a": 1}}', b'{"prompt": "b", "user_id": true}',
        b'{"prompt": "c", "timestamp": "yesterday"}', b'{"prompt": "d", "timestamp": [1]}', b'{"prompt": "e", "timestamp": 1e30}', b"[" * 100_000,
        b'{"prompt": ' + b"9" * 5_000 + b"}", b'{"prompt": "f\\u0000g"}', b"null", good.replace(b"fine", b"last"),
    ]  # fmt: skip
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


def test_malformed_csv_and_parquet_rows(tmp_path):
    (tmp_path / "log.csv").write_bytes(
        b'prompt,user_id\nfine,u\n"two\nlines",u\nthree,u,more\nbad\xff,u\n,u\nlast,u\n'
    )
    run(tmp_path / "log.csv", tmp_path / "out", "--splits", "train=1")
    assert [(r["line"]) for r in rows_of(tmp_path / "out", "removed")] == [5, 6, 7]
    assert [r["prompt"] for r in rows_of(tmp_path / "out", "train")] == [
        "fine",
        "two\nlines",
        "last",
    ]
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"\xff"]).buffers())
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "log.parquet")
    run(tmp_path / "log.parquet", tmp_path / "out")
    assert [(r["line"], r["detail"]) for r in rows_of(tmp_path / "out", "removed")] == [
        (2, "prompt is not UTF-8 text")
    ]


def test_mixed_schemas_and_reserved_names(tmp_path):
    log = [
        {"prompt": "a", "x": 1, "request_form": "mine", "split": "theirs"}, {"prompt": "b", "x": "two"}, {"prompt": "c", "x": {"deep": [None, {"k": None}]}, "y": True},
        {"prompt": "d", "x": 2**70}, {"prompt": "e", "id": 7}, {"prompt": "f", "id": "seven", "user_id": 3}, {"prompt": "g", "id": "seven"}, {"prompt": "h", "id": 7.0},
    ]  # fmt: skip
    run(write_jsonl(tmp_path / "log.jsonl", log), tmp_path / "out", "--splits", "train=1")
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


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--splits", "train=0.9,test=0.2"], "add up to 1.1"), (["--splits", "train"], "NAME=SHARE"), (["--splits", "removed=1"], "needs a name"),
        (["--splits", "train=1", "--max_per_user", "0"], "--max_per_user 0"), (["--prefix_chars", "-1"], "--prefix_chars -1"),
        (["--near_duplicates", "7"], "--near_duplicates"), (["--near_duplicates", "0.8", "--backend", "pyspark"], "duckdb only"),
        (["--memory_limit", "lots"], "--memory_limit lots"), (["--splits", "a=1", "--pii_splits", "train"], "no split named train"),
        (["--pii", "maybe"], "invalid choice"), (["--prompt_column", "text"], "no column 'text'"), (["--exclude", "/nowhere/x.jsonl"], "/nowhere/x.jsonl"),
        (["--user_column", "who"], "who"), (["--nonsense", "1"], "--nonsense"), (["--phone_regions", "us", "XQ"], "--phone_regions XQ"),
    ],
)  # fmt: skip
def test_wrong_flags_are_one_sentence(tmp_path, capsys, flags, sentence):
    source = write_jsonl(tmp_path / "log.jsonl", [{"prompt": "x", "user_id": "u"}])
    error = fails(
        capsys, "--input", source, "--output_dir", tmp_path / "out", "--num_proc", "1", *flags
    )
    assert sentence in error and "Traceback" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl"]  # nothing is left behind


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.jsonl", None, "no such file"), ("empty.jsonl", b"", "no prompt in it"), ("bad.jsonl", b"x\ny\n", "bad.jsonl, line 1: not valid JSON"),
        ("cut.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n' * 999, mtime=0)[:40], "broken gzip"), ("fake.parquet", b"PAR1", "cannot be read"), ("list.json", b"[{]", "not valid JSON"),
        ("notes.txt", b"hello", "unknown file ending"), ("head.csv", b"prompt,prompt\na,b\n", "two columns have one name"), ("fake.jsonl.gz", b"plain", "broken gzip"),
    ],
)  # fmt: skip
def test_wrong_files_are_one_sentence(tmp_path, capsys, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = fails(
        capsys, "--input", tmp_path / name, "--output_dir", tmp_path / "out", "--num_proc", "1"
    )
    assert (
        sentence in error
        and name in error
        and "Traceback" not in error
        and not (tmp_path / "out").exists()
    )


def test_an_output_folder_of_something_else_is_left_alone(tmp_path, capsys):
    source = write_jsonl(tmp_path / "log.jsonl", [{"prompt": "x"}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert "something else" in fails(capsys, "--input", source, "--output_dir", tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    run(source, tmp_path / "out")
    assert (
        run(source, tmp_path / "out", "--seed", "3")["options"]["seed"] == 3
    )  # an earlier run is replaced whole


def test_what_cannot_be_written_or_held_is_one_sentence(tmp_path, capsys, monkeypatch):
    source = write_jsonl(tmp_path / "log.jsonl", [{"prompt": "x"}])
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails(
        capsys, "--input", source, "--output_dir", tmp_path / "file/out", "--num_proc", "1"
    )
    write_jsonl(
        tmp_path / "log.jsonl",
        [{"prompt": f"{i} {'long ' * 30}", "user_id": str(i)} for i in range(5_000)],
    )
    error = fails(
        capsys,
        "--input",
        source,
        "--output_dir",
        tmp_path / "out",
        "--num_proc",
        "1",
        "--memory_limit",
        "1MB",
    )
    assert "--memory_limit" in error and not (tmp_path / "out").exists()


def test_a_folder_moved_away_by_a_killed_run_comes_back(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".out.{dead.pid}.old").mkdir()
    (tmp_path / f".out.{dead.pid}.old" / "train.parquet").write_text("kept")
    (tmp_path / f".out.{dead.pid}.part").mkdir()
    (tmp_path / f".out.{os.getpid()}.part").mkdir()  # of a run that lives
    prompts.clear_leftovers(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".out.{os.getpid()}.part", "out"]
    assert (tmp_path / "out/train.parquet").read_text() == "kept"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
)  # fmt: skip
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
    report = run(write_jsonl(tmp_path / "log.jsonl", log), tmp_path / "out")
    assert report["removed"] == {"duplicate_prefix": 2, "pii": 1}


def test_killed_at_any_moment_leaves_no_half_output(tmp_path):
    source = write_jsonl(tmp_path / "log.jsonl", random_log(6, 3_000))
    command = [
        sys.executable,
        "-m",
        "data_prep.prompts",
        "--input",
        str(source),
        "--output_dir",
        str(tmp_path / "out"),
        "--num_proc",
        "1",
    ]
    started = time.time()
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    whole, took = {n: rows_of(tmp_path / "out", n) for n in SPLITS}, time.time() - started
    shutil.rmtree(tmp_path / "out")
    killed = 0
    for share in (0.5, 0.7, 0.8, 0.9, 0.97):
        process = subprocess.Popen(
            command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(took * share)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if (tmp_path / "out").exists():
            adds_up(tmp_path / "out")
    assert killed >= 1
    assert (
        list(tmp_path.glob(".out.*")) or (tmp_path / "out").exists()
    )  # a killed run may leave its work folder
    subprocess.run(command, cwd=REPO, check=True, capture_output=True)
    assert {n: rows_of(tmp_path / "out", n) for n in SPLITS} == whole
    assert not list(tmp_path.glob(".out.*"))  # and the next run clears it


# --- Spark ----------------------------------------------------------------------------------------------------------


SPARK_VARIANTS = [
    pytest.param(["--pii", "redact", "--prefix_chars", "40", "--max_per_user", "3"], id="redact"),
    pytest.param(
        ["--exclude", "EVAL", "--seed", "4", "--turns", "all"], id="exclude", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize("flags", SPARK_VARIANTS)
def test_spark_gives_the_same_bytes(tmp_path, flags):
    pytest.importorskip("pyspark", reason="needs the spark extra")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java, and there is none on this machine")
    write_jsonl(
        tmp_path / "eval.jsonl", [{"q": "Tell me about the moon and the tides, one two three four"}]
    )
    flags = [str(tmp_path / "eval.jsonl") if flag == "EVAL" else flag for flag in flags]
    log = random_log(7)
    log += [
        {"id": 10**6, "prompt": "nul \0 and 'quotes' \\d \\x a@b.org"},
        {"id": 10**6, "prompt": "same id, \ud83d\ude00"},
        "broken",
    ]
    log += [
        {
            "id": 1,
            "prompt": "Tell me about the moon and the tides, one two three four five six seven eight nine",
        }
    ]
    source = write_jsonl(tmp_path / "log.jsonl", log)
    run(source, tmp_path / "duckdb", *flags)
    run(source, tmp_path / "spark", *flags, "--backend", "pyspark", "--spark_master", "local[2]")
    for name in (*SPLITS, "removed"):
        first, second = (tmp_path / engine / f"{name}.parquet" for engine in ("duckdb", "spark"))
        assert first.read_bytes() == second.read_bytes(), name
    assert len(rows_of(tmp_path / "spark", "train")) > 20
    assert len({r["reason"] for r in rows_of(tmp_path / "spark", "removed")}) >= 3
