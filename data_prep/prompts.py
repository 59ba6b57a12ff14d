"""Prompt log -> prompts to train on and to hold out, the way the InstructGPT paper prepared its API log.

    python -m data_prep.prompts --input log.jsonl --output_dir prompts/

Steps, each counted in `report.json` (paper: section 3.2 and appendix A.1):

1. validate      every row is a prompt or is reported as `malformed`
2. split         train / validation / test by user, a stable hash of user id and seed
3. prefix        prompts that share a long common prefix: the earliest stays (`duplicate_prefix`)
4. exclude       --exclude: prompts that share a long n-gram with evaluation sets (`contaminated`)
5. near          --near_duplicates: MinHash, DuckDB only (`near_duplicate`)
6. pii           personal information: `drop`, `redact` or `keep`
7. cap           at most --max_per_user prompts of one user (`over_user_cap`)

Writes `{train,validation,test}.parquet`, `removed.parquet`, `report.json` and a dataset card, whole or not at all.
The steps are Ibis expressions over narrow columns, the same on DuckDB and on Spark; texts are joined back by position.
"""

import argparse
import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from data_prep.formats.prompt_log import (
    ARROW,
    LogFormat,
    Staged,
    first_line,
    log_files,
    parallel,
    parse,
    part,
    read_chunks,
    stage_log,
)  # fmt: skip
from data_prep.pii import (
    KINDS,
    REGIONS,
    ModelFinder,
    candidate_pattern,
    check_regions,
    find_pii,
    merge,
    redact,
)
from instruct.files import UserError, atomic_folder, command, write_json

PII = pa.schema(
    [("row", pa.int64()), ("kinds", pa.list_(pa.string())), ("hashes", pa.list_(pa.string())), ("prompt", pa.string()), ("history", pa.string())]
)  # fmt: skip
HISTORY = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


# --- engine ---------------------------------------------------------------------------------------------------------


class Engine:
    """DuckDB or Spark behind Ibis. Results are Parquet folders, so memory stays bounded and both read the same."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.folder, self.name = folder, args.backend
        if args.backend == "duckdb":
            settings = {"temp_directory": str(folder / "spill")}
            if args.memory_limit:
                settings["memory_limit"] = args.memory_limit
            try:
                self.con = ibis.duckdb.connect(**settings)
            except Exception as error:
                raise UserError(
                    f"--memory_limit {args.memory_limit}: DuckDB says: {first_line(error)}"
                ) from error
        else:
            self.con = ibis.pyspark.connect(_spark_session(args, folder))

    def read(self, folder: Path) -> ibis.Table:
        return self.con.read_parquet(
            f"{folder}/*.parquet" if self.name == "duckdb" else str(folder)
        )

    def write(self, table: ibis.Table, name: str) -> Path:
        """Computes `table` into the folder `name`, files in row order."""
        folder = self.folder / name
        if self.name == "duckdb":
            folder.mkdir()
            table.to_parquet(folder / "part-0.parquet")
        else:
            self.con.to_parquet(table, folder)
        return folder

    def close(self) -> None:
        if self.name == "pyspark":
            self.con._session.stop()
        else:
            self.con.disconnect()


def _spark_session(args: argparse.Namespace, folder: Path):
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(
            "--backend pyspark needs Spark: pip install 'instruct-recipes[spark]' and Java 17 or newer"
        ) from error
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise UserError(
            "--backend pyspark needs Java 17 or newer, and there is none on this machine"
        )
    builder = (
        SparkSession.builder.master(args.spark_master).appName("instruct-recipes")
        .config("spark.sql.session.timeZone", "UTC").config("spark.ui.enabled", "false")
        .config("spark.sql.warehouse.dir", str(folder / "warehouse")).config("spark.local.dir", str(folder / "spill"))
    )  # fmt: skip
    if args.memory_limit:
        builder = builder.config(
            "spark.driver.memory", re.sub(r"(?i)i?b$", "", args.memory_limit).lower()
        )
    if args.spark_master.startswith("local"):
        builder = (
            builder.config("spark.sql.shuffle.partitions", "8")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
        )
    warnings.filterwarnings(
        "ignore", "PySpark does not yet fully support pandas"
    )  # nothing here goes through pandas
    try:
        session = builder.getOrCreate()
    except (
        Exception
    ) as error:  # Py4J and Spark raise many unrelated types; all mean that Spark did not start
        raise UserError(
            f"--spark_master {args.spark_master}: Spark did not start: {first_line(error)}"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    return session


def batches(folder: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    for file in sorted(folder.glob("*.parquet")):
        yield from pq.ParquetFile(file).iter_batches(20_000, columns=columns)


# --- the steps, as Ibis expressions ---------------------------------------------------------------------------------


def parse_splits(text: str) -> dict[str, float]:
    """ "train=0.9,validation=0.05,test=0.05" as a dict; shares must add up to 1."""
    splits: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = item.partition("=")
        try:
            value = float(share)
        except ValueError:
            raise UserError(
                f"--splits: {item!r} is not NAME=SHARE (for example train=0.9,validation=0.05,test=0.05)"
            ) from None
        if (
            not re.fullmatch(r"[A-Za-z]\w*", name.strip())
            or name.strip() in {*splits, "removed"}
            or not 0 < value <= 1
        ):
            raise UserError(
                f"--splits: {item!r} needs a name used once and a share above 0 and at most 1"
            )
        splits[name.strip()] = value
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise UserError(f"--splits: the shares add up to {sum(splits.values()):g}, not 1")
    return splits


def with_split(rows: ibis.Table, splits: dict[str, float], seed: int) -> ibis.Table:
    """Split by user (paper, section 3.2): a hash of seed and user id alone, so nobody moves when the log grows.

    A prompt without a user id is its own user, by its id. Hexadecimal digests compare like the numbers they are.
    """
    owner = ibis.ifelse(
        rows.user.isnull(), ibis.literal("row:") + rows.id, ibis.literal("user:") + rows.user
    )
    digest = (ibis.literal(f"{seed}:split:") + owner).hexdigest("md5")
    *names, last = splits
    cases, reached = [], 0.0
    for name in names:
        reached += splits[name]
        cases.append((digest < f"{min(int(reached * 2**60), 2**60 - 1):015x}", name))
    return rows.mutate(
        owner=owner, split=ibis.cases(*cases, else_=last) if cases else ibis.literal(last)
    )


def earliest_first(rows: ibis.Table, numeric_ids: bool) -> list:
    """By timestamp, then id (ids that are all numbers compare as numbers), then place in the log; no timestamp last."""
    return [
        rows.time.asc(nulls_first=False),
        rows.id.cast("int64") if numeric_ids else rows.id,
        rows.row,
    ]


def without_shared_prefixes(rows: ibis.Table, numeric_ids: bool) -> ibis.Table:
    """Of the rows with one key the earliest stays (paper, section 3.2), over the whole log, so over all splits."""
    group = ibis.window(group_by=rows.key, order_by=earliest_first(rows, numeric_ids))
    first = rows.row.first().over(group)
    duplicate = first != rows.row
    return rows.mutate(
        kept_id=ibis.ifelse(duplicate, rows.id.first().over(group), ibis.null("string")),
        dup_count=ibis.ifelse(
            duplicate, ibis.null("int64"), rows.count().over(ibis.window(group_by=rows.key))
        ),
        reason=ibis.ifelse(duplicate, "duplicate_prefix", ibis.null("string")),
    )


def marked(
    rows: ibis.Table, marks: ibis.Table, reason: str, splits: list[str] | None = None
) -> ibis.Table:
    """Rows in `marks` (row, and the id that is kept in their place) that no earlier step removed get `reason`."""
    marks = marks.select(mark=marks.row, mark_kept_id=marks.kept_id)
    joined = rows.left_join(marks, rows.row == marks.mark)
    hit = joined.mark.notnull() & joined.reason.isnull()
    if splits:
        hit = hit & joined.split.isin(splits)
    return joined.mutate(
        reason=ibis.ifelse(hit, reason, joined.reason),
        kept_id=ibis.ifelse(hit, joined.mark_kept_id, joined.kept_id),
    ).drop("mark", "mark_kept_id")


def at_most_per_user(rows: ibis.Table, most: int, seed: int) -> ibis.Table:
    """At most `most` prompts of one user (paper, section 3.2): a seeded choice that depends on nothing but the prompts."""
    order = (ibis.literal(f"{seed}:cap:") + rows.id + ":" + rows.key).hexdigest("md5")
    rows = rows.mutate(order=order, left=rows.reason.isnull())
    place = ibis.row_number().over(
        ibis.window(group_by=[rows.owner, rows.left], order_by=[rows.order, rows.row])
    )
    over = rows.left & (place >= most) & rows.user.notnull()
    return rows.mutate(reason=ibis.ifelse(over, "over_user_cap", rows.reason)).drop("order", "left")


def with_pii_candidates(rows: ibis.Table, kinds: tuple[str, ...]) -> ibis.Table:
    """The few rows that the engine's own regular expressions let through to Python, with the kinds to look for."""

    def matches(pattern: str) -> ibis.Value:
        return rows.prompt.re_search(pattern) | rows.history.fill_null("").re_search(pattern)

    flags = {kind: matches(candidate_pattern([kind])) for kind in kinds}
    return (
        rows.filter(matches(candidate_pattern(kinds)))
        .select("row", "prompt", "history", **flags)
        .order_by("row")
    )


# --- the steps that need Python -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PiiJob:
    kinds: tuple[str, ...]
    regions: tuple[str, ...]
    key: bytes

    def hash(self, kind: str, value: str) -> str:
        """Tells equal values apart from different ones; keyed, since a bare hash of a phone number can be guessed."""
        return hmac.new(self.key, f"{kind}:{value}".encode(), "sha256").hexdigest()[:32]


def find_in_batch(
    batch: pa.RecordBatch, job: PiiJob, model_spans: dict | None = None
) -> list[tuple]:
    """(row, kinds, hashes, redacted prompt, redacted history) of the rows that hold personal information."""
    found = []
    suspected = [
        [kind for kind, flag in flags.items() if flag]
        for flags in batch.select([k for k in job.kinds if k in batch.schema.names]).to_pylist()
    ]
    columns = (batch.column(c).to_pylist() for c in ("row", "prompt", "history"))
    for row, prompt, history, kinds in zip(*columns, suspected, strict=True):
        texts = [prompt] + [turn["content"] for turn in (json.loads(history) if history else [])]
        spans = [
            merge(
                find_pii(text, kinds or job.kinds, job.regions),
                model_spans.get((row, i), []) if model_spans else [],
            )
            for i, text in enumerate(texts)
        ]
        if not any(spans):
            continue
        values = sorted(
            {
                (s.kind, text[s.start : s.end])
                for text, here in zip(texts, spans, strict=True)
                for s in here
            }
        )
        clean = [redact(text, here) for text, here in zip(texts, spans, strict=True)]
        if history:
            turns = zip(json.loads(history), clean[1:], strict=True)
            history = json.dumps(
                [{**turn, "content": text} for turn, text in turns], ensure_ascii=False
            )
        found.append(
            (row, [k for k, _ in values], [job.hash(k, v) for k, v in values], clean[0], history)
        )
    return found


def model_batches(folder: Path, finder: ModelFinder) -> Iterator[tuple[pa.RecordBatch, dict]]:
    """Every staged batch with the spans that the token classifier found: {(row, text number): spans}."""
    for batch in batches(folder, ["row", "prompt", "history"]):
        rows, prompts, histories = (
            batch.column(c).to_pylist() for c in ("row", "prompt", "history")
        )
        texts = [
            ((row, i), text)
            for row, prompt, history in zip(rows, prompts, histories, strict=True)
            for i, text in enumerate(
                [prompt] + [turn["content"] for turn in (json.loads(history) if history else [])]
            )
        ]
        answers = finder([text for _, text in texts])
        yield batch, {key: spans for (key, _), spans in zip(texts, answers, strict=True) if spans}


def find_all_pii(
    engine: Engine,
    rows: ibis.Table,
    staged: Staged,
    args: argparse.Namespace,
    progress: Callable[[int], None],
) -> int:
    """Writes the folder `found` (row, kinds, hashes, redacted texts), sorted by row; returns how many rows it has."""
    kinds = (
        tuple(k for k in KINDS if k in args.pii_kinds and k not in args.pii_off)
        if args.pii != "keep"
        else ()
    )
    # a key that only the log gives: whoever has removed.parquet alone cannot try values
    key = hashlib.sha256(f"{args.seed}:{staged.fingerprint}".encode()).digest()
    job = PiiJob(kinds, tuple(args.phone_regions), key)
    if args.pii_model and args.pii != "keep":
        finder = ModelFinder(args.pii_model, args.pii_model_labels)
        results = (
            find_in_batch(batch, job, spans)
            for batch, spans in model_batches(engine.folder / "rows", finder)
        )
    elif job.kinds:
        candidates = engine.write(with_pii_candidates(rows, job.kinds), "candidates")
        small = (
            batch.slice(i, 2_000)
            for batch in batches(candidates)
            for i in range(0, len(batch), 2_000)
        )
        results = parallel(find_in_batch, ((batch, job) for batch in small), args.num_proc)
    else:
        results = iter([])
    (engine.folder / "found").mkdir()
    total = 0
    with pq.ParquetWriter(engine.folder / "found" / "part-0.parquet", PII) as out:
        for found in results:
            total += len(found)
            progress(len(found))
            out.write_table(
                pa.Table.from_pylist(
                    [dict(zip(PII.names, record, strict=True)) for record in found], PII
                )
            )
    return total


WORD = re.compile(r"\w+")
ALIGNED = (
    5  # an n-gram of 9 words or more holds one block of 5 words that begins at a multiple of 5
)


class Ngrams:
    """Word n-grams of evaluation texts (GPT-3, appendix C, takes 13 words). Texts shorter than that match whole."""

    def __init__(self, texts: Iterator[str], n: int):
        self.n, self.grams, self.blocks, self.short = n, set(), set(), set()
        for text in texts:
            words = WORD.findall(text.lower())
            if len(words) < n:
                self.short |= {hash(tuple(words))} if len(words) >= ALIGNED else set()
            for i in range(len(words) - n + 1):
                self.grams.add(hash(tuple(words[i : i + n])))
            if len(words) >= n:
                self.blocks |= {
                    hash(tuple(words[i : i + ALIGNED])) for i in range(len(words) - ALIGNED + 1)
                }

    def hit(self, text: str) -> bool:
        words = WORD.findall(text.lower())
        if len(words) < self.n:
            return len(words) >= ALIGNED and hash(tuple(words)) in self.short
        if not any(
            hash(tuple(words[i : i + ALIGNED])) in self.blocks
            for i in range(0, len(words) - ALIGNED + 1, ALIGNED)
        ):
            return False
        return any(
            hash(tuple(words[i : i + self.n])) in self.grams for i in range(len(words) - self.n + 1)
        )


def strings_in(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


def write_marks(engine: Engine, name: str, marks: list[tuple[int, str | None]]) -> ibis.Table:
    (engine.folder / name).mkdir()
    table = pa.table(
        {
            "row": pa.array([r for r, _ in marks], pa.int64()),
            "kept_id": pa.array([k for _, k in marks], pa.string()),
        }
    )
    pq.write_table(table, engine.folder / name / "part-0.parquet")
    return engine.read(engine.folder / name)


def find_contaminated(
    folder: Path, ngrams: Ngrams, progress: Callable[[int], None]
) -> Iterator[tuple[int, None]]:
    for batch in batches(folder, ["row", "prompt"]):
        for row, prompt in zip(
            batch.column("row").to_pylist(), batch.column("prompt").to_pylist(), strict=True
        ):
            if ngrams.hit(prompt):
                yield row, None
        progress(len(batch))


def find_near_duplicates(
    folder: Path, threshold: float, seed: int, progress: Callable[[int], None]
) -> Iterator[tuple[int, str]]:
    """MinHash over word triples: a prompt goes when an earlier kept one is similar (estimated Jaccard ≥ threshold)."""
    try:
        from rensa import RMinHash, RMinHashLSH
    except ImportError as error:
        raise UserError(
            "--near_duplicates needs rensa: pip install 'instruct-recipes[near]'"
        ) from error
    permutations = 128
    # the most rows per band whose LSH threshold (1/bands)^(rows per band) still lies below the one asked for
    bands = next(
        b
        for b in (4, 8, 16, 32, 64, 128)
        if b == 128 or (1 / b) ** (b / permutations) <= threshold - 0.05
    )
    index, kept = RMinHashLSH(threshold, permutations, bands), {}
    for batch in batches(folder):
        for row, own_id, prompt in zip(
            *(batch.column(c).to_pylist() for c in ("row", "id", "prompt")), strict=True
        ):
            words = WORD.findall(prompt.lower())
            sketch = RMinHash(permutations, seed & 0x7FFFFFFF)
            sketch.update(
                [" ".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1))]
                if words
                else [prompt]
            )
            near = [
                k for k in sorted(index.query(sketch)) if kept[k][1].jaccard(sketch) >= threshold
            ]
            if near:
                yield row, kept[near[0]][0]
            else:
                index.insert(len(kept), sketch)
                kept[len(kept)] = (own_id, sketch)
        progress(len(batch))


# --- decisions + staged texts -> output files -----------------------------------------------------------------------


class RowStream:
    """Sorted record batches, taken a given number of rows, or up to a given row number, at a time."""

    def __init__(self, folder: Path, schema: pa.Schema | None = None):
        self.source, self.schema = batches(folder), schema
        self.buffer: pa.Table | None = None

    def _fill(self) -> bool:
        batch = next(self.source, None)
        if batch is None:
            return False
        table = pa.Table.from_batches([batch])
        self.buffer = table if self.buffer is None else pa.concat_tables([self.buffer, table])
        return True

    def take(self, count: int) -> pa.Table:
        while (self.buffer is None or len(self.buffer) < count) and self._fill():
            pass
        if self.buffer is None or len(self.buffer) < count:
            raise RuntimeError("fewer decisions than prompts: this is a bug in the pipeline")
        taken, self.buffer = self.buffer.slice(0, count), self.buffer.slice(count).combine_chunks()
        return taken

    def up_to(self, row: int) -> pa.Table:
        while (
            self.buffer is None or not len(self.buffer) or self.buffer["row"][-1].as_py() <= row
        ) and self._fill():
            pass
        if self.buffer is None:
            return self.schema.empty_table()
        count = pc.sum(pc.less_equal(self.buffer["row"], row)).as_py() or 0
        return self.take(count).combine_chunks()


class Outputs:
    """One Parquet file per split and one for what was removed, written in pieces of one row group each."""

    def __init__(self, folder: Path, schemas: dict[str, pa.Schema]):
        self.writers = {
            name: pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd")
            for name, schema in schemas.items()
        }
        self.waiting: dict[str, list[pa.Table]] = {name: [] for name in schemas}
        self.counts: Counter = Counter()

    def write(self, name: str, table: pa.Table) -> None:
        self.counts[name] += len(table)
        self.waiting[name].append(table)
        if sum(t.nbytes for t in self.waiting[name]) > 32 << 20:
            self._flush(name)

    def _flush(self, name: str) -> None:
        if self.waiting[name]:
            self.writers[name].write_table(pa.concat_tables(self.waiting[name]))
            self.waiting[name] = []

    def close(self) -> None:
        for name, writer in self.writers.items():
            self._flush(name)
            writer.close()


def output_schemas(splits: list[str], kinds: dict[str, str], history: bool) -> dict[str, pa.Schema]:
    def of(kind: str) -> pa.DataType:
        return pa.string() if kind == "null" else ARROW[kind]

    fields = [
        ("id", of(kinds["id"])),
        ("prompt", pa.string()),
        ("user_id", of(kinds["user_id"])),
        ("timestamp", of(kinds["timestamp"])),
    ]
    fields += [("request_form", pa.string()), ("dup_count", pa.int64())] + [
        ("history", HISTORY)
    ] * history
    fields += [
        (name, of(kind))
        for name, kind in kinds.items()
        if name not in ("id", "user_id", "timestamp")
    ]
    kept = pa.schema(fields)
    strings = pa.list_(pa.string())
    why = [
        ("reason", pa.string()),
        ("kept_id", of(kinds["id"])),
        ("split", pa.string()),
        ("pii_kinds", strings),
        ("pii_hashes", strings),
    ]
    why += [("file", pa.string()), ("line", pa.int64()), ("detail", pa.string())]
    return dict.fromkeys(splits, kept) | {"removed": pa.schema(fields + why)}


def assemble(
    rows: pa.Table,
    extras: pa.Table,
    decisions: pa.Table,
    pii: pa.Table,
    redacted_splits: list[str],
    schema: pa.Schema,
) -> pa.Table:
    """Staged rows with their decisions, as rows of `removed.parquet` (those that stay have no reason)."""
    if not rows["row"].equals(decisions["row"]):
        raise RuntimeError("decisions and prompts are out of step: this is a bug in the pipeline")
    # what is removed never shows personal information; what is kept does unless its split is redacted
    hidden = pc.or_(
        pc.is_valid(decisions["reason"]),
        pc.is_in(decisions["split"], pa.array(redacted_splits, pa.string())),
    )
    at = pc.index_in(rows["row"], pii["row"])  # where in `pii` each row is, null where it has none
    hidden = pc.and_(hidden, pc.is_valid(at))
    histories = (
        pc.if_else(hidden, pii["history"].take(at), rows["history"]).to_pylist()
        if "history" in schema.names
        else ()
    )
    columns = {
        "prompt": pc.if_else(hidden, pii["prompt"].take(at), rows["prompt"]), "request_form": rows["request_form"],
        "dup_count": decisions["dup_count"], "reason": decisions["reason"], "split": decisions["split"], "kept_id": decisions["kept_id"],
        "pii_kinds": pii["kinds"].take(at), "pii_hashes": pii["hashes"].take(at),
        "history": pa.array([h and json.loads(h) for h in histories], HISTORY),
    }  # fmt: skip
    nothing = pa.nulls(len(rows))
    arrays = []
    for field in schema:
        source = (
            columns
            if field.name in columns
            else extras
            if field.name in extras.column_names
            else {field.name: nothing}
        )
        arrays.append(source[field.name].cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def write_outputs(work: Path, decisions: Path, staged: Staged, args: argparse.Namespace, splits: list[str], folder: Path, progress: Callable[[int], None]) -> Counter:  # fmt: skip
    """Walks the staged parts and the sorted decisions side by side."""
    schemas = output_schemas(splits, staged.kinds, args.turns == "all")
    removed_schema = schemas["removed"]
    outputs, decided, pii = (
        Outputs(folder, schemas),
        RowStream(decisions),
        RowStream(work / "found", PII),
    )
    redacted = [] if args.pii != "redact" else splits if args.pii_splits == "all" else ["train"]
    for number in range(staged.parts):
        rows = pq.read_table(part(work / "rows", number))
        if len(rows):
            extras = pq.read_table(part(work / "extras", number))
            found = pii.up_to(rows["row"][-1].as_py())
            table = assemble(rows, extras, decided.take(len(rows)), found, redacted, removed_schema)
            gone = pc.is_valid(table["reason"])
            outputs.write("removed", table.filter(gone))
            kept = table.filter(pc.invert(gone))
            for split in splits:
                outputs.write(
                    split, kept.filter(pc.equal(kept["split"], split)).select(schemas[split].names)
                )
            progress(len(rows))
        malformed = part(work / "malformed", number)
        if malformed.exists():
            bad = pq.read_table(malformed)
            columns = {name: bad[name] for name in bad.column_names} | {
                "reason": pa.array(["malformed"] * len(bad), pa.string())
            }
            arrays = [columns.get(f.name, pa.nulls(len(bad))).cast(f.type) for f in removed_schema]
            outputs.write("removed", pa.Table.from_arrays(arrays, schema=removed_schema))
    outputs.close()
    return outputs.counts


def dataset_card(report: dict, splits: list[str]) -> str:
    """README.md with the metadata that lets `load_dataset(DIR)` find the splits (and leave removed.parquet alone)."""
    files = "".join(f"  - split: {name}\n    path: {name}.parquet\n" for name in splits)
    steps = "".join(
        f"| {s['step']} | {s['in']:,} | {s['removed']:,} | {s['out']:,} |\n"
        for s in report["steps"]
    )
    sizes = "".join(f"| {name} | {report['splits'][name]:,} |\n" for name in splits)
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}tags:\n- prompts\n- instruct-recipes\n---\n\n"
        "# Prompts\n\nA prompt log, cleaned and split by user as in Ouyang et al. 2022 (section 3.2) by `python -m data_prep.prompts`.\n\n"
        f"| split | prompts |\n|---|---|\n{sizes}\n| step | in | removed | out |\n|---|---|---|---|\n{steps}\n"
        "`dup_count`: how many prompts of the log this one stands for. `request_form`: how it asks (direct, few_shot, continuation).\n"
        f"Personal information: `--pii {report['options']['pii']}` on splits: {report['options']['pii_splits']}. Names and addresses are found only by `--pii_model`.\n"
        "`removed.parquet` has every removed row with its reason.\n"
    )


# --- command line ---------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        help="files, folders, globs, hf:// paths or Hub ids (JSONL, JSON, CSV, Parquet, .gz)",
    )
    add("--output_dir", type=Path, required=True)
    add("--prompt_column", default="prompt")
    add("--user_column", default="user_id")
    add("--time_column", default="timestamp")
    add("--id_column", default="id")
    add(
        "--messages_column",
        help="column with conversations (found by itself: messages, conversation, conversations)",
    )
    add(
        "--turns",
        choices=["first", "all"],
        default="first",
        help="of a conversation: the first user turn, or each with its history",
    )
    add(
        "--ride_along",
        nargs="*",
        help="other columns to copy, unsearched for PII (default: all; none: --ride_along alone)",
    )
    add(
        "--prefix_chars",
        type=int,
        default=200,
        help="prompts whose first characters agree are duplicates",
    )
    add("--max_per_user", type=int, default=200)
    add("--splits", default="train=0.9,validation=0.05,test=0.05")
    add("--seed", type=int, default=0)
    add("--pii", choices=["drop", "redact", "keep"], default="drop")
    add(
        "--pii_splits",
        choices=["all", "train"],
        default="all",
        help="train: only the training split, the paper's letter",
    )
    add("--pii_kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds to look for")
    add("--pii_off", nargs="+", choices=KINDS, default=[], help="kinds to switch off")
    add(
        "--phone_regions",
        nargs="+",
        default=list(REGIONS),
        help="countries whose national phone formats are read",
    )
    add(
        "--pii_model",
        help="Hub id or folder of a token classification model, for names and addresses",
    )
    add(
        "--pii_model_labels",
        nargs="+",
        default=[],
        help="only these labels of that model (for example PER LOC)",
    )
    add(
        "--exclude",
        nargs="+",
        default=[],
        help="evaluation sets: prompts that share a long n-gram with them go",
    )
    add("--exclude_words", type=int, default=13, help="length of that n-gram in words")
    add(
        "--near_duplicates",
        type=float,
        metavar="SIMILARITY",
        help="also drop near duplicates (0.8, say); DuckDB only",
    )
    add("--backend", choices=["duckdb", "pyspark"], default="duckdb")
    add("--spark_master", default="local[*]")
    add("--memory_limit", help="most memory for the engine, for example 4GB; more goes to disk")
    add(
        "--num_proc",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        help="processes that read and search",
    )
    return parser


def check(args: argparse.Namespace) -> dict[str, float]:
    splits = parse_splits(args.splits)
    for flag, least in (
        ("prefix_chars", 1),
        ("max_per_user", 1),
        ("num_proc", 1),
        ("exclude_words", 9),
    ):
        if getattr(args, flag) < least:
            raise UserError(f"--{flag} {getattr(args, flag)}: must be {least} or more")
    if args.near_duplicates is not None and not 0.3 <= args.near_duplicates <= 1:
        raise UserError(f"--near_duplicates {args.near_duplicates}: must lie between 0.3 and 1")
    if args.near_duplicates is not None and args.backend != "duckdb":
        raise UserError(
            "--near_duplicates works with --backend duckdb only (it compares prompts in one process)"
        )
    if args.pii_splits == "train" and "train" not in splits:
        raise UserError("--pii_splits train: --splits has no split named train")
    if args.memory_limit and not re.fullmatch(r"(?i)\d+(\.\d+)?\s*[kmgt]i?b", args.memory_limit):
        raise UserError(f"--memory_limit {args.memory_limit}: expected a size like 4GB")
    if args.backend == "pyspark" and importlib.util.find_spec("pyspark") is None:
        raise UserError(
            "--backend pyspark needs Spark: pip install 'instruct-recipes[spark]' and Java 17 or newer"
        )
    if args.pii != "keep":
        args.phone_regions = check_regions(args.phone_regions)
    out = args.output_dir
    if out.is_file() or (
        out.is_dir() and any(out.iterdir()) and not (out / "report.json").exists()
    ):
        raise UserError(
            f"--output_dir {out}: there is something else in it; name a new folder or one of an earlier run"
        )
    return splits


class Ledger:
    """The count of every step: printed as it ends, and kept for the report."""

    def __init__(self):
        self.steps: list[dict] = []
        self.since = time.time()

    def add(self, step: str, rows_in: int, rows_out: int, note: str = "") -> None:
        now = time.time()
        removed, seconds = rows_in - rows_out, round(now - self.since, 2)
        self.since = now
        self.steps.append(
            {"step": step, "in": rows_in, "removed": removed, "out": rows_out, "seconds": seconds}
        )
        print(
            f"{step:9}{rows_in:>13,} in{removed:>13,} removed{rows_out:>13,} out{seconds:9.1f} s  {note}".rstrip(),
            flush=True,
        )

    @property
    def left(self) -> int:
        return self.steps[-1]["out"]


def bar(what: str, total: int | None = None) -> tqdm:
    return tqdm(desc=what, total=total, unit=" prompts", unit_scale=True, disable=None, leave=False)


def without_reason(folder: Path) -> int:
    return sum(batch.column("reason").null_count for batch in batches(folder, ["reason"]))


def decide(
    engine: Engine,
    staged: Staged,
    args: argparse.Namespace,
    splits: dict[str, float],
    ledger: Ledger,
) -> Path:
    """Steps 2 to 7: the folder with `row, split, reason, kept_id, dup_count` of every staged row, in the log's order."""
    rows = engine.read(engine.folder / "rows")
    numeric_ids = staged.kinds["id"] == "int"

    def step(name: str, table: ibis.Table, note: str = "") -> Path:
        folder = engine.write(table, name)
        ledger.add(name, ledger.left, without_reason(folder), note)
        return folder

    narrow = with_split(rows.select("row", "id", "user", "time", "key"), splits, args.seed)
    ledger.add(
        "split", ledger.left, ledger.left, f"{staged.without_user:,} prompts without a user id"
    )
    decided = engine.read(step("prefix", without_shared_prefixes(narrow, numeric_ids)))
    if args.exclude:
        chunks = (chunk for file in log_files(args.exclude) for chunk in read_chunks(file))
        ngrams = Ngrams(
            (text for chunk in chunks for _, row in parse(chunk) for text in strings_in(row)),
            args.exclude_words,
        )
        with bar("exclude", staged.rows) as shown:
            found = list(find_contaminated(engine.folder / "rows", ngrams, shown.update))
        decided = engine.read(
            step(
                "exclude",
                marked(decided, write_marks(engine, "contaminated", found), "contaminated"),
            )
        )
    if args.near_duplicates is not None:
        left = (
            decided.filter(decided.reason.isnull())
            .select("row", "id", "time")
            .join(rows.select("row", "prompt"), "row")
        )
        ordered = engine.write(left.order_by(earliest_first(left, numeric_ids)), "survivors")
        with bar("near", ledger.left) as shown:
            found = list(
                find_near_duplicates(ordered, args.near_duplicates, args.seed, shown.update)
            )
        decided = engine.read(
            step("near", marked(decided, write_marks(engine, "similar", found), "near_duplicate"))
        )
    with bar("pii") as shown:
        with_pii = find_all_pii(engine, rows, staged, args, shown.update)
    if args.pii == "drop":
        marks = engine.read(engine.folder / "found").select("row", kept_id=ibis.null("string"))
        decided = marked(decided, marks, "pii", ["train"] if args.pii_splits == "train" else None)
    decided = engine.read(
        step("pii", decided, f"{with_pii:,} prompts of the log hold personal information")
    )
    decided = at_most_per_user(decided, args.max_per_user, args.seed)
    return step(
        "cap", decided.select("row", "split", "reason", "kept_id", "dup_count").order_by("row")
    )


STEP_OF = {
    "malformed": "validate", "duplicate_prefix": "prefix", "contaminated": "exclude", "near_duplicate": "near", "pii": "pii",
    "over_user_cap": "cap",
}  # fmt: skip


def clear_leftovers(output: Path) -> None:
    """What a killed run left beside `output`: its work goes, and a folder it had moved away comes back."""
    for left in output.parent.glob(f".{output.name}.*.*"):
        pid, end = left.name.split(".")[-2:]
        if not pid.isdigit() or end not in ("part", "old") or _alive(int(pid)):
            continue
        if end == "old" and not output.exists():
            left.rename(output)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # someone else's process
    return True


def prepare(args: argparse.Namespace) -> dict:
    """Runs every step and writes `args.output_dir`, whole or not at all; returns the report."""
    splits, started, ledger = check(args), time.time(), Ledger()
    clear_leftovers(args.output_dir)
    form = LogFormat(
        args.prompt_column, args.user_column, args.time_column, args.id_column, args.messages_column, args.turns,
        args.prefix_chars, None if args.ride_along is None else tuple(args.ride_along),
    )  # fmt: skip
    with atomic_folder(args.output_dir) as folder:
        work = folder / "work"
        work.mkdir()
        with bar("read") as shown:
            staged = stage_log(log_files(args.input), form, work, args.num_proc, shown.update)
        if not staged.rows:
            why = (
                f"; the first of {staged.malformed} malformed rows is {staged.first_malformed}"
                if staged.malformed
                else ""
            )
            raise UserError(f"{' '.join(args.input)}: no prompt in it{why}")
        for flag, column in (("user_column", "user_id"), ("time_column", "timestamp")):
            named = getattr(args, flag)
            if named != column and staged.kinds[column] == "null":
                raise UserError(
                    f"--{flag} {named}: no row of {' '.join(args.input)} has a value in such a column"
                )
        ledger.add(
            "validate",
            staged.rows + staged.malformed,
            staged.rows,
            staged.first_malformed and f"(first: {staged.first_malformed})",
        )
        with contextlib.closing(Engine(args, work)) as engine:
            decisions = decide(engine, staged, args, splits, ledger)
        with bar("write", staged.rows) as shown:
            counts = write_outputs(
                work, decisions, staged, args, list(splits), folder, shown.update
            )
        ledger.add("write", ledger.left, sum(counts[name] for name in splits))
        removed = {step["step"]: step["removed"] for step in ledger.steps}
        report = {
            "in": ledger.steps[0]["in"], "kept": ledger.left,
            "removed": {reason: removed[step] for reason, step in STEP_OF.items() if removed.get(step)},
            "splits": {name: counts[name] for name in splits}, "without_user_id": staged.without_user, "steps": ledger.steps,
            "seconds": round(time.time() - started, 2), "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        }  # fmt: skip
        if (
            not report["in"] - report["kept"]
            == counts["removed"]
            == sum(report["removed"].values())
        ):
            raise RuntimeError(f"counts do not add up, this is a bug in the pipeline: {report}")
        write_json(folder / "report.json", report)
        (folder / "README.md").write_text(dataset_card(report, list(splits)), encoding="utf-8")
        shutil.rmtree(work)
    return report


@command
def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    try:
        report = prepare(args)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--output_dir {args.output_dir}: cannot be written: {error}") from error
    except duckdb.OutOfMemoryException as error:
        limit = args.memory_limit or "of this machine"
        raise UserError(
            f"the memory limit {limit} is too small for DuckDB ({first_line(error)}); raise --memory_limit"
        ) from error
    except duckdb.IOException as error:
        raise UserError(
            f"--output_dir {args.output_dir}: DuckDB cannot write beside it: {first_line(error)}"
        ) from error
    splits = ", ".join(f"{name} {n:,}" for name, n in report["splits"].items())
    print(
        f"{args.output_dir}: {report['kept']:,} of {report['in']:,} prompts kept ({splits}) in {report['seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()
