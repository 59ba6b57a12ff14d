"""The steps against a plain-Python reference: the same rows, by the same definitions."""

import hashlib
import random
import unicodedata
from collections import defaultdict

import pytest
from prompt_tools import SPLITS, adds_up, outcome, random_log, rows_of, run, write_lines

from data_prep.pii import (
    find_pii,
    redact,
)


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
    """{id: (split, reason, kept_id, dup_count, prompt)} by the definitions, a row at a time."""
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


VARIANTS = [
    {},
    {"prefix": 20, "most": 3},
    {"seed": 5, "pii": "redact", "prefix": 45},
    {"pii": "keep", "most": 1},
    {"pii_splits": "train", "prefix": 60, "seed": 2, "shares": (0.5, 0.25, 0.25)},
    {"pii": "redact", "pii_splits": "train", "shares": (0.4, 0.3, 0.3)},
]


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
        run(write_lines(tmp_path / "log.jsonl", log), tmp_path / "out", *flags_of(variant))
        adds_up(tmp_path / "out")
        expected = reference(log, **variant)
        assert outcome(tmp_path / "out") == expected
        assert (
            len({reason for _, reason, *_ in expected.values()}) >= 2
        )  # the log exercises the steps


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
    run(write_lines(tmp_path / "log.jsonl", log), tmp_path / "out")
    removed = {r["id"]: r["kept_id"] for r in rows_of(tmp_path / "out", "removed")}
    assert {i for i, dup in expected.items() if dup} == set(removed)
    assert removed["short again"] == "short" and removed["p250"] == "first"


def test_append_moves_nobody_and_same_seed_same_bytes(tmp_path):
    log = random_log(3, 600)
    old, grown = (
        write_lines(tmp_path / "a.jsonl", log[:500]),
        write_lines(tmp_path / "b.jsonl", log),
    )
    # of its own, each run would hash under another key
    (tmp_path / "key").write_text("the same secret for all")
    (tmp_path / "key").chmod(0o600)
    for source, name in ((old, "one"), (old, "two"), (grown, "grown")):
        run(source, tmp_path / name, "--pii_key_file", str(tmp_path / "key"))
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
    run(write_lines(tmp_path / "log.jsonl", log), tmp_path / "out", "--turns", "all")
    assert {r["id"]: r["kept_id"] for r in rows_of(tmp_path / "out", "removed")} == {
        "c#0": "a#0",
        "c#1": "a#1",
    }
