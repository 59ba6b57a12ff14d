"""Speed, memory and exactness of `data_prep.prompts` on a generated log with planted cases.

    python benchmarks/prompts.py --rows 1000000
    python benchmarks/prompts.py --rows 10000000 --memory_limit 4GB --skip_reference

Planted: families that share a prefix of 150 to 250 characters, around the threshold of 200 (also
under other white space and Unicode forms), users over the cap, prompts without a user, personal
information of every kind in sentences, and near misses that must stay. A plain-Python reference
that shares no step with the pipeline says which rows must stay.
The last line is one JSON object: rows, seconds, peak_gb, prefix_precision, prefix_recall, pii,
moved_users, ….
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from planted_log import MAKERS, Generator, write_log

SPLITS = ("train", "validation", "test")


@dataclass
class Cost:
    """Wall time, and CPU time and peak memory over all processes."""

    seconds: float
    cpu_seconds: float
    peak_gb: float


def run(files: list[Path], output: Path, extra: list[str]) -> Cost:
    """What the pipeline costs as a user runs it."""
    command = [sys.executable, "-m", "data_prep.prompts", "--input", *map(str, files)]
    command += ["--output_dir", str(output), *extra]
    print("$", " ".join(command), flush=True)
    started, peak, cpu = time.time(), 0, {}
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1])
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            family = [watched, *watched.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in family:
            try:
                total += member.memory_info().rss
                cpu[member.pid] = sum(member.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"the pipeline ended with exit code {process.returncode}")
    return Cost(seconds=time.time() - started, cpu_seconds=sum(cpu.values()), peak_gb=peak / 1e9)


def reference(
    files: list[Path], with_pii: set[int], most: int = 200, prefix: int = 200, seed: int = 0
) -> tuple[dict, dict]:
    """Plain Python, given which rows hold PII.

    Returns:
        {removed duplicate: the id kept for it} and {kept id: split}.
    """

    def digest(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    groups, users, keys = defaultdict(list), {}, {}
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                key = digest(" ".join(unicodedata.normalize("NFC", row["prompt"]).split())[:prefix])
                groups[key].append((row["timestamp"], row["id"]))
                users[row["id"]], keys[row["id"]] = row.get("user_id"), key
    duplicates, per_user, kept = {}, defaultdict(list), {}
    for members in groups.values():
        first, *rest = sorted(members)
        duplicates |= {i: first[1] for _, i in rest}
        if first[1] not in with_pii:
            per_user[users[first[1]] or f"\0{first[1]}"].append(first[1])
    for user, ids in per_user.items():
        owner = f"row:{user[1:]}" if user.startswith("\0") else f"user:{user}"
        place = int(digest(f"{seed}:split:{owner}"), 16) / 16**32
        ids.sort(key=lambda i: digest(f"{seed}:cap:{i}:{keys[i]}"))
        kept |= dict.fromkeys(
            ids[:most], "train" if place < 0.9 else "validation" if place < 0.95 else "test"
        )
    return duplicates, kept


def share(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 1.0


def pii_scores(output: Path) -> dict:
    """Per planted kind: how much of it was found, and how much of what was found was planted."""
    planted, hit, said, right = Counter(), Counter(), Counter(), Counter()
    for name in ("train", "validation", "test", "removed"):
        columns = ["planted"] + (["pii_kinds"] if name == "removed" else [])
        for batch in pq.ParquetFile(output / f"{name}.parquet").iter_batches(
            100_000, columns=columns
        ):
            kinds = (
                batch.column("pii_kinds").to_pylist() if name == "removed" else [None] * len(batch)
            )
            for truth, found in zip(batch.column("planted").to_pylist(), kinds, strict=True):
                found = found or []
                asked = "national_id" if truth == "ssn" else truth
                planted[truth] += 1
                hit[truth] += asked in found
                for kind in found:
                    said[kind] += 1
                    right[kind] += kind == asked
    return {
        kind: {
            "precision": share(
                right[shown := "national_id" if kind == "ssn" else kind], said[shown]
            ),
            "recall": share(hit[kind], planted[kind]),
            "planted": planted[kind],
        }
        for kind in MAKERS
    }


def splits_of_users(output: Path) -> dict[str, set[str]]:
    """Splits in which a user's prompts are, removed ones too."""
    splits = defaultdict(set)
    for name in ("train", "validation", "test", "removed"):
        columns = ["user_id"] + (["split"] if name == "removed" else [])
        for batch in pq.ParquetFile(output / f"{name}.parquet").iter_batches(
            100_000, columns=columns
        ):
            where = batch.column("split").to_pylist() if name == "removed" else [name] * len(batch)
            for user, split in zip(batch.column("user_id").to_pylist(), where, strict=True):
                if user is not None:
                    splits[user].add(split)
    return splits


def against_reference(log: Path, output: Path) -> dict:
    """How far the pipeline's duplicates and splits agree with plain Python's."""
    columns = ["id", "reason", "kept_id", "pii_kinds"]
    removed = pq.read_table(output / "removed.parquet", columns=columns).to_pylist()
    ours = {r["id"]: r["kept_id"] for r in removed if r["reason"] == "duplicate_prefix"}
    started = time.time()
    theirs, kept = reference([log], {r["id"] for r in removed if r["reason"] == "pii"})
    seconds = round(time.time() - started, 1)
    agreed = sum(theirs.get(i) == kept_id for i, kept_id in ours.items())
    split_of = {
        i: name
        for name in SPLITS
        for i in pq.read_table(output / f"{name}.parquet", columns=["id"])["id"].to_pylist()
    }
    return {
        "reference_seconds": seconds,
        "prefix_precision": share(agreed, len(ours)),
        "prefix_recall": share(agreed, len(theirs)),
        "same_rows_as_reference": split_of == kept,
    }


def after_growth(before: Path, grown: Path) -> dict:
    """How many users are in another split, or in several, now that the log has grown."""
    old, new = splits_of_users(before), splits_of_users(grown)
    moved = sum(len(splits) > 1 or new[user] != splits for user, splits in old.items())
    return {"moved_users": moved, "users": len(old)}


def measure(args: argparse.Namespace, work: Path) -> dict:
    log, more, output = work / "log-0.jsonl", work / "log-1.jsonl", work / "prompts"
    generator = Generator(args.seed)
    started = time.time()
    write_log(log, generator, args.rows)
    size, seconds = log.stat().st_size / 1e6, time.time() - started
    print(f"log: {args.rows:,} rows, {size:,.0f} MB, written in {seconds:.0f} s", flush=True)
    extra = ["--backend", args.backend]
    extra += ["--memory_limit", args.memory_limit] if args.memory_limit else []
    cost = run([log], output, extra)
    result = {
        "rows": args.rows,
        "seconds": round(cost.seconds, 1),
        "peak_gb": round(cost.peak_gb, 2),
        "cpu_seconds": round(cost.cpu_seconds, 1),
        "load_average": os.getloadavg()[0],
    }
    report = json.loads((output / "report.json").read_text())
    if not args.skip_reference:
        result |= against_reference(log, output)
    result |= {
        "pii": pii_scores(output),
        "rows_per_second": round(args.rows / cost.seconds),
        "kept": report["kept"],
        "removed": report["removed"],
    }
    if not args.skip_append:
        write_log(more, generator, args.rows // 10)
        run([log, more], work / "grown", extra)
        result |= after_growth(output, work / "grown")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=1_000_000)
    add("--seed", type=int, default=0)
    add("--work_dir", type=Path, help="where log and outputs go (default: a temporary folder)")
    add("--memory_limit", help="passed on to the pipeline")
    add("--backend", default="duckdb", choices=["duckdb", "pyspark"])
    no_reference = "no plain-Python reference (it holds the log's ids in memory)"
    add("--skip_reference", action="store_true", help=no_reference)
    add("--skip_append", action="store_true", help="do not run again with 10 %% more rows")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="prompts-bench-", dir=args.work_dir))
    try:
        print(json.dumps(measure(args, work)))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
