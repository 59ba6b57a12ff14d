"""Runs the prompt pipeline on small logs, and checks that its files and its report agree."""

import json
import random
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_tools import stops

from data_prep import prompts

pytest.importorskip("phonenumbers", reason="needs the pii extra")


SPLITS = ("train", "validation", "test")


def run(source, output: Path, *flags: str) -> dict:
    sources = [str(s) for s in (source if isinstance(source, list) else [source])]
    prompts.main(["--input", *sources, "--output_dir", str(output), "--num_proc", "1", *flags])
    return json.loads((output / "report.json").read_text())


def fails(capsys, *argv: str) -> str:
    """The one sentence that a wrong call prints."""
    return stops(prompts.main, argv, capsys)


def rows_of(output: Path, name: str) -> list[dict]:
    return pq.read_table(output / f"{name}.parquet").to_pylist()


def write_lines(path: Path, rows: list) -> Path:
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows),
        encoding="utf-8",
        errors="surrogatepass",
    )
    return path


def adds_up(output: Path) -> dict:
    """in = kept + removed, in report and files, every removed row with its reason; the report."""
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
        "mail jo@acme.org",
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
                "id": f"r{i}" if text_ids else i,
                "prompt": prompt,
                "user_id": rng.choice([None, "ä", *"abcde"]),
                "timestamp": rng.choice([None, *range(1, 9)]),
                "rides": rng.choice([None, 1, 2.5]),
            }
        )
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
