"""Decisions and staged texts -> the output files.

The staged parts, the sorted decisions and the sorted PII findings are walked side by side, a part
at a time, so that memory stays bounded.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.prompt_pipeline.column_types import ARROW
from data_prep.prompt_pipeline.pii_step import FOUND
from data_prep.prompt_pipeline.row_stream import RowStream
from data_prep.prompt_pipeline.staging import staged_parts

HISTORY = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
# so much waits in memory for every output file; smaller row groups compress worse
ROW_GROUP_BYTES = 32 << 20
TALLIED = ("request_form", "language")  # counted in the report, where they are ours
GIVEN = ("id", "user_id", "timestamp")  # columns with types of the log's own


class Outputs:
    """One Parquet file per split and one for what was removed, a row group at a time."""

    def __init__(self, folder: Path, schemas: dict[str, pa.Schema]):
        # it says whose prompts held what: for its owner alone, from the first byte on
        (folder / "removed.parquet").touch(mode=0o600)
        self.writers = {
            # zstd: these files stay, staged ones (lz4) go
            name: pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd")
            for name, schema in schemas.items()
        }
        self.waiting: dict[str, list[pa.Table]] = {name: [] for name in schemas}
        self.counts: Counter[str] = Counter()
        self.tallies: dict[str, Counter] = {}  # {column: kept prompts by value}

    def write(self, name: str, table: pa.Table) -> None:
        self.counts[name] += len(table)
        # a row group without rows is what `datasets` cannot read
        if len(table):
            self.waiting[name].append(table)
        # a row group per staged part would be many small ones
        if sum(t.nbytes for t in self.waiting[name]) > ROW_GROUP_BYTES:
            self._flush(name)

    def tally(self, kept: pa.Table) -> None:
        for column in kept.column_names:
            counts = self.tallies.setdefault(column, Counter())
            for value in pc.value_counts(kept[column]).to_pylist():
                counts[value["values"]] += value["counts"]

    def _flush(self, name: str) -> None:
        if self.waiting[name]:
            self.writers[name].write_table(pa.concat_tables(self.waiting[name]))
            self.waiting[name] = []

    def close(self) -> None:
        for name, writer in self.writers.items():
            self._flush(name)
            writer.close()


def output_schemas(
    splits: list[str], kinds: dict[str, str], history: bool, language: bool = False
) -> dict[str, pa.Schema]:
    """The schema of every split, and of `removed`.

    Args:
        kinds: the type of every column in `extras/` (a key of `ARROW`).
        history: whether prompts have what was said before them.
        language: whether theirs was detected.
    """

    def of(kind: str) -> pa.DataType:
        # a column without any value: text, as the null type is foreign to many readers
        return pa.string() if kind == "null" else ARROW[kind]

    # 1. what the pipeline adds
    kept = {
        "id": of(kinds["id"]),
        "prompt": pa.string(),
        "user_id": of(kinds["user_id"]),
        "timestamp": of(kinds["timestamp"]),
        "request_form": pa.string(),
        "dup_count": pa.int64(),
    }
    if history:
        kept["history"] = HISTORY
    if language:
        kept["language"] = pa.string()
    # 2. what rides along, of whatever type the whole log came to
    kept |= {name: of(kind) for name, kind in kinds.items() if name not in GIVEN}
    # 3. for `removed` alone: why, and where malformed rows stand
    why = {
        "reason": pa.string(),
        "kept_id": of(kinds["id"]),
        "split": pa.string(),
        "pii_kinds": pa.list_(pa.string()),
        "pii_hashes": pa.list_(pa.string()),
        "file": pa.string(),
        "line": pa.int64(),
        "detail": pa.string(),
    }
    # one schema for all splits, as `load_dataset` wants
    return dict.fromkeys(splits, pa.schema(kept)) | {"removed": pa.schema(kept | why)}


def assemble(
    rows: pa.Table,
    extras: pa.Table,
    decisions: pa.Table,
    pii: pa.Table,
    redacted_splits: list[str],
    schema: pa.Schema,
) -> pa.Table:
    """Staged rows with their decisions, as rows of `removed` (those that stay have no reason).

    Args:
        rows, extras, decisions: the same rows, in the same order.
        pii: those among them that hold personal information (schema `FOUND`).
        redacted_splits: where it is hidden in what is kept.
        schema: of `removed`.
    """
    # a slip would give every prompt its neighbour's decision
    if not rows["row"].equals(decisions["row"]):
        raise RuntimeError("decisions and prompts are out of step: this is a bug in the pipeline")
    at = pc.index_in(rows["row"], pii["row"])  # where in `pii` each row is, null where it has none
    # what is removed never shows personal information; what is kept does, unless it is redacted
    redacted = pc.is_in(decisions["split"], pa.array(redacted_splits, pa.string()))
    hidden = pc.and_(pc.or_(pc.is_valid(decisions["reason"]), redacted), pc.is_valid(at))
    # `take` by a null index gives null, so rows without PII need no case of their own
    columns = {
        "prompt": pc.if_else(hidden, pii["prompt"].take(at), rows["prompt"]),
        "request_form": rows["request_form"],
        "dup_count": decisions["dup_count"],
        "reason": decisions["reason"],
        "split": decisions["split"],
        "kept_id": decisions["kept_id"],
        "pii_kinds": pii["kinds"].take(at),
        "pii_hashes": pii["hashes"].take(at),
    }
    # else a column of the log may have that name
    if "language" in rows.column_names:
        columns["language"] = rows["language"]
    if "history" in schema.names:
        # JSON until here: the engine sees plain text
        histories = pc.if_else(hidden, pii["history"].take(at), rows["history"]).to_pylist()
        columns["history"] = pa.array([h and json.loads(h) for h in histories], HISTORY)
    return _as_schema(columns, extras, schema)


def _as_schema(columns: dict[str, pa.Array], extras: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`: ours first, else the log's, else nulls (another part has it)."""
    nothing = pa.nulls(len(extras))
    theirs = {name: extras[name] for name in extras.column_names}
    arrays = [
        # cast: the part's type may be narrower than the log's
        columns.get(field.name, theirs.get(field.name, nothing)).cast(field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def malformed_rows(file: Path, schema: pa.Schema) -> pa.Table:
    """A staged file of malformed rows, as rows of `removed`."""
    # no prompt was found in them, so no step decided on them
    bad = pq.read_table(file)
    return _as_schema({"reason": pa.array(["malformed"] * len(bad), pa.string())}, bad, schema)


def write_outputs(
    work: Path,
    decisions: Path,
    folder: Path,
    schemas: dict[str, pa.Schema],
    redacted_splits: list[str],
    progress: Callable[[int], None],
) -> Outputs:
    """Walks the staged parts and the sorted decisions side by side; returns what was written.

    Args:
        work: folder with `rows/`, `extras/`, `malformed/` and `found/`.
        decisions: folder with `row, split, reason, kept_id, dup_count` of every staged row.
        folder: where the output files go.
        schemas: of every split and of `removed`.
    """
    outputs = Outputs(folder, schemas)
    splits = [name for name in schemas if name != "removed"]
    decided, pii = RowStream(decisions), RowStream(work / "found", FOUND)
    # in the order of parts: the same bytes with any --num_proc
    for name in staged_parts(work):
        # a part may hold malformed rows alone
        if (work / "rows" / name).exists():
            rows = pq.read_table(work / "rows" / name)
            # 1. texts and decisions joined by place
            table = assemble(
                rows,
                extras=pq.read_table(work / "extras" / name),
                decisions=decided.take(len(rows)),
                pii=pii.up_to(rows["row"][-1].as_py()),
                redacted_splits=redacted_splits,
                schema=schemas["removed"],
            )
            # 2. what goes
            gone = pc.is_valid(table["reason"])
            outputs.write("removed", table.filter(gone))
            # 3. what stays, by split, without the columns that say why
            kept = table.filter(pc.invert(gone))
            outputs.tally(kept.select([name for name in TALLIED if name in rows.column_names]))
            for split in splits:
                here = kept.filter(pc.equal(kept["split"], split))
                outputs.write(split, here.select(schemas[split].names))
            progress(len(rows))
        # 4. what never was a prompt, so that in = kept + removed
        malformed = work / "malformed" / name
        if malformed.exists():
            outputs.write("removed", malformed_rows(malformed, schemas["removed"]))
    outputs.close()
    return outputs
