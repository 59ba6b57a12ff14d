"""Reads any prompt log into checked, normalised Parquet parts: the first step of `data_prep.prompts`.

Every row of every input becomes either prompts (`rows/`, and what rode along in `extras/`) or a malformed row
(`malformed/`, file and line). Rows are parsed, checked, normalised and keyed in Python, in parallel processes, so that
the DuckDB and the Spark path start from the same bytes. Part n of `rows/` and part n of `extras/` hold the same rows.
"""

import csv
import datetime
import gc
import glob
import gzip
import hashlib
import io
import json
import math
import multiprocessing
import os
import threading
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.formats.forms import request_form
from instruct.files import UserError

ENDINGS = (
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".parquet",
    ".jsonl.gz",
    ".ndjson.gz",
    ".json.gz",
    ".csv.gz",
)
MESSAGE_COLUMNS = (
    "messages",
    "conversation",
    "conversations",
)  # OpenAI style, LMSYS-Chat and WildChat, ShareGPT
RESERVED = (
    "request_form", "dup_count", "reason", "kept_id", "split", "pii_kinds", "pii_hashes", "file", "line", "detail", "history",
)  # fmt: skip
CHUNK_BYTES, CHUNK_ROWS, MAX_COLUMNS = 8 << 20, 20_000, 1_000

ROWS = pa.schema(
    [("row", pa.int64()), ("id", pa.string()), ("user", pa.string()), ("time", pa.int64()), ("key", pa.string()),
     ("prompt", pa.string()), ("history", pa.string()), ("request_form", pa.string())]
)  # fmt: skip
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MALFORMED = pa.schema([("file", pa.string()), ("line", pa.int64()), ("detail", pa.string())])


@dataclass(frozen=True)
class LogFormat:
    """Which columns hold what, and how long the prefix is that makes two prompts duplicates."""

    prompt: str = "prompt"
    user: str = "user_id"
    time: str = "timestamp"
    id: str = "id"
    messages: str | None = None
    turns: str = "first"
    prefix_chars: int = 200
    ride_along: tuple[str, ...] | None = None  # other columns to copy; None for all


class Malformed(Exception):
    """A row that is no prompt. The message names columns and types, never contents (they may be personal)."""


# --- one row --------------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """The one normalisation that duplicates are sought under: NFC, runs of white space to one space, stripped."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def prefix_key(prompt: str, history: str | None, prefix_chars: int) -> str:
    """Rows with one key are duplicates: equal first characters of the normalised prompt, after the same history.

    A prompt shorter than the prefix has its whole text as key, so it only meets exact duplicates of itself.
    """
    prefix = normalise(prompt)[:prefix_chars]
    text = prefix if history is None else f"{prefix}\0{normalise(history)}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def as_identifier(value: Any, column: str) -> int | str | None:
    """An id or user id as int or text; None when missing (null, NaN, empty)."""
    if type(value) is int:
        return value
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # pandas writes integer columns with gaps as floats
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Malformed(f"{column} is {type(value).__name__}, expected text or a whole number")


def as_microseconds(value: Any, column: str) -> int | None:
    """A point in time in microseconds since 1970 (UTC where no zone is given); None when missing."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise Malformed(f"{column} is neither ISO 8601 nor a number of seconds") from None
    if isinstance(value, datetime.datetime):
        value = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, datetime.date):
        return (value - EPOCH.date()).days * 86_400_000_000
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Malformed(f"{column} is {type(value).__name__}, expected a time")
    if value != value:  # NaN: how pandas writes a missing number
        return None
    # seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by size
    size = abs(value)
    if size < 1e11:
        return value * 1_000_000 if type(value) is int else round(value * 1e6)
    if size < 1e14:
        return value * 1_000 if type(value) is int else round(value * 1e3)
    if size < 1e17:
        return int(value)
    if size < 9e18:
        return int(value) // 1_000
    raise Malformed(f"{column} is not a point in time")


def as_turns(messages: Any, column: str) -> list[dict[str, str]]:
    """Messages as [{role, content}]: `role`/`content` (OpenAI, WildChat, LMSYS) or `from`/`value` (ShareGPT)."""
    if isinstance(messages, str):
        try:
            messages = json.loads(
                messages
            )  # CSV files, and our own output, hold conversations as JSON text
        except ValueError:
            raise Malformed(f"{column} is text, expected a list of messages") from None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Malformed(f"{column} is no list of messages")
    turns = []
    for message in messages:
        role, content = (
            message.get("role", message.get("from")),
            message.get("content", message.get("value")),
        )
        if isinstance(content, list):  # parts, as multimodal chats write them
            content = "\n".join(
                p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str)
            )
        if not isinstance(role, str) or not isinstance(content, str):
            raise Malformed(f"{column} has a message without role or content")
        turns.append(
            {
                "role": {"human": "user", "gpt": "assistant", "bot": "assistant"}.get(role, role),
                "content": content,
            }
        )
    return turns


def prompts_of(row: dict, form: LogFormat) -> list[tuple[str, str | None, int]]:
    """The prompts in a row: (text, history as JSON or None, number of the user turn)."""
    column = form.messages
    if column is None and form.prompt not in row:
        column = next((c for c in MESSAGE_COLUMNS if c in row), None)
    if column is None:
        if form.prompt not in row:
            raise Malformed(f"no column {form.prompt!r}")
        prompt = row[form.prompt]
        if not isinstance(prompt, str):
            raise Malformed(
                f"{form.prompt} is {'null' if prompt is None else type(prompt).__name__}, expected text"
            )
        found = [(prompt, None, 0)]
    else:
        if column not in row:
            raise Malformed(f"no column {column!r}")
        turns = as_turns(row[column], column)
        user_turns = [
            i for i, turn in enumerate(turns) if turn["role"] == "user" and turn["content"].strip()
        ]
        if not user_turns:
            raise Malformed(f"{column} has no user turn")
        found = []
        for number, i in enumerate(user_turns[: 1 if form.turns == "first" else None]):
            history = (
                json.dumps(turns[:i], ensure_ascii=False) if i and form.turns == "all" else None
            )
            found.append((turns[i]["content"], history, number))
    if not found[0][0].strip():
        raise Malformed(f"{form.prompt} is empty")
    return found


# --- files to chunks ------------------------------------------------------------------------------------------------


@dataclass
class Chunk:
    """Some consecutive rows of one file: raw JSON lines, a record batch, or (line, row or reason) pairs."""

    file: str
    first_line: int
    content: list[bytes] | pa.RecordBatch | list[tuple[int, dict | str]]


def log_files(inputs: Iterable[str]) -> list[str]:
    """Files behind files, folders, globs and `hf://` paths, in a stable order; Hub dataset ids stay as they are."""
    found: list[str] = []
    for source in inputs:
        if source.startswith("hf://"):
            found += _hub_files(source)
        elif os.path.isfile(source):
            found.append(source)
        elif os.path.isdir(source):
            files = sorted(
                str(p)
                for p in Path(source).rglob("*")
                if p.is_file() and p.name.lower().endswith(ENDINGS)
            )
            if not files:
                raise UserError(
                    f"{source}: no log file in this folder (looked for {', '.join(ENDINGS)})"
                )
            found += files
        elif glob.has_magic(source):
            files = sorted(f for f in glob.glob(source, recursive=True) if os.path.isfile(f))
            if not files:
                raise UserError(f"{source}: no file matches this pattern")
            found += files
        elif (
            source.lower().endswith(ENDINGS)
            or source.startswith((".", "/", "~"))
            or source.count("/") > 1
        ):
            raise UserError(f"{source}: no such file or folder")
        else:
            found.append(source)
    return list(dict.fromkeys(found))


def _hub_files(source: str) -> list[str]:
    from huggingface_hub import HfFileSystem

    fs = HfFileSystem()
    path = source.removeprefix("hf://")
    try:
        if glob.has_magic(path):
            names = fs.glob(path)
        else:
            names = fs.find(path) if fs.isdir(path) else [path]
    except (
        Exception
    ) as error:  # the Hub client raises many unrelated types; all mean "could not be had"
        raise UserError(f"{source}: the Hub could not list it: {first_line(error)}") from error
    files = sorted(n for n in names if n.lower().endswith(ENDINGS))
    if not files:
        raise UserError(f"{source}: no log file there (looked for {', '.join(ENDINGS)})")
    return [f"hf://{n}" for n in files]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _open(file: str):
    if file.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        raw = HfFileSystem().open(file, "rb")
    else:
        raw = open(file, "rb")
    return gzip.open(raw, "rb") if file.lower().endswith(".gz") else raw


def read_chunks(file: str) -> Iterator[Chunk]:
    """Splits a file (by its ending) or a Hub dataset (by its id) into chunks of a few megabytes."""
    name = file.lower().removesuffix(".gz")
    if not name.endswith(ENDINGS):
        if os.path.isfile(file):
            raise UserError(f"{file}: unknown file ending; use one of {', '.join(ENDINGS)}")
        yield from _hub_dataset(file)
        return
    try:
        with _open(file) as raw:
            if name.endswith(".parquet"):
                parquet, first = pq.ParquetFile(raw), 1
                for batch in parquet.iter_batches(CHUNK_ROWS):
                    yield Chunk(file, first, batch)
                    first += len(batch)
            elif name.endswith(".csv"):
                yield from _csv(file, raw)
            elif name.endswith(".json") and _starts_with_list(raw):
                yield from _json_list(file, raw)
            else:
                yield from _json_lines(file, raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}: broken gzip file ({first_line(error)})") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read: {first_line(error)}") from error


def _json_lines(file: str, raw) -> Iterator[Chunk]:
    lines, size, first = [], 0, 1
    for line in raw:
        lines.append(line)
        size += len(line)
        if size >= CHUNK_BYTES or len(lines) >= CHUNK_ROWS:
            yield Chunk(file, first, lines)
            first, lines, size = first + len(lines), [], 0
    if lines:
        yield Chunk(file, first, lines)


def _starts_with_list(raw) -> bool:
    head = raw.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    raw.seek(0)
    return head.startswith(b"[")


def _json_list(file: str, raw) -> Iterator[Chunk]:
    try:
        rows = json.loads(raw.read())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: not valid JSON ({first_line(error)}); one row a line is read row by row"
        ) from error
    for first in range(0, len(rows), CHUNK_ROWS):
        numbered = enumerate(rows[first : first + CHUNK_ROWS], first + 1)
        pairs = [
            (n, row if isinstance(row, dict) else f"not an object but {type(row).__name__}")
            for n, row in numbered
        ]
        yield Chunk(file, first + 1, pairs)


def _csv(file: str, raw) -> Iterator[Chunk]:
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=False)
    header = next(reader, None)
    if header is None:
        return
    if len(set(header)) < len(header):
        raise UserError(
            f"{file}: two columns have one name ({', '.join(c for c, n in Counter(header).items() if n > 1)})"
        )
    pairs, size, line = [], 0, reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            pairs.append((line, f"not valid CSV ({error})"))
            line = reader.line_num + 1
            continue
        if cells:
            fits = len(cells) == len(header)
            row = (
                {c: v if v != "" else None for c, v in zip(header, cells, strict=True)}
                if fits
                else None
            )
            pairs.append((line, row or f"{len(cells)} fields, the header has {len(header)}"))
            size += sum(map(len, cells))
        line = reader.line_num + 1
        if size >= CHUNK_BYTES or len(pairs) >= CHUNK_ROWS:
            yield Chunk(file, pairs[0][0], pairs)
            pairs, size = [], 0
    if pairs:
        yield Chunk(file, pairs[0][0], pairs)


def _hub_dataset(name: str) -> Iterator[Chunk]:
    from datasets import load_dataset

    try:
        table = load_dataset(name, split="train").data.table
    except (
        Exception
    ) as error:  # the Hub client raises many unrelated types; all mean "could not be had"
        raise UserError(
            f"{name}: neither a file or folder here nor a dataset the Hub could give: {first_line(error)}"
        ) from error
    first = 1
    for batch in table.to_batches(CHUNK_ROWS):
        yield Chunk(name, first, batch)
        first += len(batch)


def parse(chunk: Chunk) -> Iterator[tuple[int, dict | str]]:
    """(line, row) of every row in the chunk; (line, reason) where it cannot be read."""
    if isinstance(chunk.content, pa.RecordBatch):
        columns = {
            name: _values(chunk.content.column(i))
            for i, name in enumerate(chunk.content.schema.names)
        }
        for i in range(len(chunk.content)):
            row = {name: values[i] for name, values in columns.items()}
            bad = next((name for name, value in row.items() if value is UNREADABLE), None)
            yield chunk.first_line + i, f"{bad} is not UTF-8 text" if bad else row
        return
    for number, item in enumerate(chunk.content, chunk.first_line):
        if not isinstance(item, bytes):
            yield item
        elif item.strip():
            try:
                row = json.loads(item.decode("utf-8-sig" if number == 1 else "utf-8"))
                yield (
                    number,
                    row if isinstance(row, dict) else f"not an object but {type(row).__name__}",
                )
            except UnicodeDecodeError:
                yield number, "not UTF-8 text"
            except json.JSONDecodeError as error:
                yield number, f"not valid JSON ({error.msg}, column {error.colno})"
            except (ValueError, RecursionError) as error:
                yield number, f"not readable JSON ({type(error).__name__})"


UNREADABLE = object()


def _values(column: pa.Array) -> list:
    try:
        return column.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):
        values = []
        for scalar in column:
            try:
                values.append(scalar.as_py())
            except (UnicodeDecodeError, ValueError, OverflowError):
                values.append(UNREADABLE)
        return values


# --- types of what rides along --------------------------------------------------------------------------------------

ARROW = {
    "null": pa.null(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "time": pa.timestamp("us", "UTC"),
    "text": pa.string(),
}  # fmt: skip


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    return "time" if isinstance(value, datetime.datetime) else "text"


def wider(a: str, b: str) -> str:
    """The kind that holds both: a log may change a column's type on the way."""
    if a == b or b == "null":
        return a
    if a == "null":
        return b
    return "float" if {a, b} == {"int", "float"} else "text"


def as_text(value: Any) -> str | None:
    """What has no column type of its own rides along as text: nested values as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def column_of(values: list) -> tuple[str, pa.Array]:
    """Values of one column in one part, as the narrowest kind that holds them."""
    kind = "null"
    for sample in {type(v): v for v in values}.values():
        kind = wider(kind, kind_of(sample))
    if kind == "int" and not all(v is None or -(2**63) <= v < 2**63 for v in values):
        kind = "text"
    if kind == "text":
        values = [as_text(v) for v in values]
    elif kind == "time":
        values = [v if v is None or v.tzinfo else v.replace(tzinfo=datetime.UTC) for v in values]
    elif kind == "float":
        values = [v if v is None else float(v) for v in values]
    return kind, pa.array(values, ARROW[kind])


def as_kind(array: pa.Array, kind: str) -> pa.Array:
    return array if array.type == ARROW[kind] else array.cast(ARROW[kind])


# --- chunk -> part --------------------------------------------------------------------------------------------------


@dataclass
class Staged:
    """What a chunk, or the whole log, came to."""

    parts: int = 0
    rows: int = 0
    malformed: int = 0
    without_user: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    fingerprint: int = 0  # sum of all prompts' keys: of the log, not of how it was cut into parts
    first_malformed: str = ""

    def add(self, other: "Staged") -> None:
        self.parts += other.parts
        self.rows += other.rows
        self.malformed += other.malformed
        self.without_user += other.without_user
        for name, kind in other.kinds.items():
            self.kinds[name] = wider(self.kinds.get(name, "null"), kind)
        self.fingerprint = (self.fingerprint + other.fingerprint) % 2**128
        self.first_malformed = self.first_malformed or other.first_malformed


def encodable(row: dict) -> bool:
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def stage_chunk(chunk: Chunk, number: int, form: LogFormat, folder: Path) -> Staged:
    """Checks and normalises the chunk's rows and writes them as part `number`."""
    gc.disable()  # a chunk is a million small objects without cycles: looking for some takes a quarter of the time
    try:
        parsed = list(parse(chunk))
        return _stage(parsed, chunk.file, number, form, folder)
    except UnicodeEncodeError:  # a lone surrogate somewhere: find the rows, and do the others again
        reason = "not valid Unicode text (a lone surrogate)"
        parsed = [
            (line, row if isinstance(row, str) or encodable(row) else reason)
            for line, row in parsed
        ]
        return _stage(parsed, chunk.file, number, form, folder)
    finally:
        gc.enable()


def _stage(
    parsed: list[tuple[int, dict | str]], file: str, number: int, form: LogFormat, folder: Path
) -> Staged:
    name = os.path.basename(file.rstrip("/"))
    rows: list[tuple] = []
    originals: list[tuple] = []
    sources: list[dict] = []
    malformed: list[tuple[str, int, str]] = []
    base = number << 32
    used = {form.prompt, form.user, form.time, form.id, form.messages}

    def rides_along(column: str, row: dict) -> bool:
        if form.ride_along is not None and column not in form.ride_along:
            return False
        # a conversation whose turns became prompts does not ride along: it may hold what was removed from them
        return column not in used and not (column in MESSAGE_COLUMNS and form.prompt not in row)

    for line, row in parsed:
        try:
            if isinstance(row, str):
                raise Malformed(row)
            identifier = as_identifier(row.get(form.id), form.id)
            user = as_identifier(row.get(form.user), form.user)
            moment = as_microseconds(row.get(form.time), form.time)
            found = prompts_of(row, form)
        except Malformed as error:
            malformed.append((file, line, str(error)))
            continue
        for prompt, history, turn in found:
            own = f"{name}:{line:09d}" if identifier is None else identifier
            if form.turns == "all":
                own = f"{own}#{turn}"
            key = prefix_key(prompt, history, form.prefix_chars)
            user_text = None if user is None else str(user)
            rows.append(
                (
                    base + len(rows),
                    str(own),
                    user_text,
                    moment,
                    key,
                    prompt,
                    history,
                    request_form(prompt),
                )
            )
            originals.append((own, user, row.get(form.time)))
            sources.append(row)
    names = dict.fromkeys(column for row in sources for column in row if rides_along(column, row))
    extras = {column: [row.get(column) for row in sources] for column in names}
    if len(extras) > MAX_COLUMNS:
        raise UserError(
            f"{file}: more than {MAX_COLUMNS} different columns; is this one row a line?"
        )
    staged = Staged(1, len(rows), len(malformed), sum(r[2] is None for r in rows))
    if malformed:
        staged.first_malformed = "{}, line {}: {}".format(*malformed[0])
        _write(
            folder / "malformed",
            number,
            pa.Table.from_arrays(_columns(malformed, MALFORMED), schema=MALFORMED),
        )
    table = pa.Table.from_arrays(_columns(rows, ROWS), schema=ROWS)
    ids, users, times = zip(*originals, strict=True) if originals else ((), (), ())
    named = {"id": list(ids), "user_id": list(users), "timestamp": list(times)}
    for column, values in extras.items():
        named[
            f"input_{column}"
            if column in RESERVED or column in named or column == "prompt"
            else column
        ] = values
    arrays = {}
    for column, values in named.items():
        staged.kinds[column], arrays[column] = column_of(values)
    staged.fingerprint = sum(int(row[4], 16) for row in rows) % 2**128
    _write(folder / "rows", number, table)
    _write(folder / "extras", number, pa.table(arrays))
    return staged


def _columns(records: list[tuple], schema: pa.Schema) -> list[pa.Array]:
    columns = zip(*records, strict=True) if records else [()] * len(schema)
    return [pa.array(list(values), f.type) for values, f in zip(columns, schema, strict=True)]


def part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.parquet"


def _write(folder: Path, number: int, table: pa.Table) -> None:
    pq.write_table(table, part(folder, number), compression="lz4", write_statistics=False)


def stage_log(
    files: list[str], form: LogFormat, folder: Path, processes: int, progress: Callable[[int], None]
) -> Staged:
    """Stages the whole log under `folder`; parts are numbered in the order of the files and their rows."""
    for name in ("rows", "extras", "malformed"):
        (folder / name).mkdir()
    chunks = (chunk for file in files for chunk in read_chunks(file))
    total = Staged()
    jobs = ((chunk, number, form, folder) for number, chunk in enumerate(chunks))
    for staged in parallel(stage_chunk, jobs, processes):
        total.add(staged)
        progress(staged.rows + staged.malformed)
        if len(total.kinds) > MAX_COLUMNS:
            raise UserError(
                f"the log has more than {MAX_COLUMNS} different columns; is this one row a line?"
            )
    return total


# --- processes ------------------------------------------------------------------------------------------------------


def _leave_with_parent() -> None:
    """A worker ends when the main process is gone (killed), whatever it waits for."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def parallel(function: Callable, jobs: Iterable[tuple], processes: int) -> Iterator:
    """Results of `function(*job)` in order. A single job, or one process, runs right here."""
    jobs = iter(jobs)
    head = [job for _, job in zip(range(2), jobs, strict=False)]
    if processes < 2 or len(head) < 2:
        yield from (function(*job) for job in head)
        yield from (function(*job) for job in jobs)
        return
    # not "fork": engines have threads, and a fork would copy their locks
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(
        ["data_prep.pii", "data_prep.formats.prompt_log", "ibis"]
    )  # import once, not in every worker
    with ProcessPoolExecutor(processes, context, _leave_with_parent) as pool:
        pending = {i: pool.submit(function, *job) for i, job in enumerate(head)}
        submitted, due = len(pending), 0
        try:
            while pending:
                while len(pending) < processes + 2 and (job := next(jobs, None)) is not None:
                    pending[submitted] = pool.submit(function, *job)
                    submitted += 1
                if due in pending and pending[due].done():
                    yield pending.pop(due).result()
                    due += 1
                else:
                    wait([pending[due]], return_when=FIRST_COMPLETED)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, out of memory perhaps; try --num_proc 1"
            ) from error
        finally:
            for future in pending.values():
                future.cancel()
