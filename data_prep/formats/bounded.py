"""Rows out of files in bounded memory, however long a row or a file is.

A row longer than `LONGEST_ROW` becomes malformed; what is left of it is skipped in small blocks.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

# prompts of 100 kB are long, and a worker holds a row several times over
LONGEST_ROW = 16 << 20  # bytes; characters where a file is read as text
BLOCK = 1 << 20
# a text that many rows share may be stored once: sizes in the file tell little of it
PARQUET_ROWS = 256


def too_long() -> str:
    """Why a row is malformed that is longer than `LONGEST_ROW`."""
    return f"longer than {LONGEST_ROW >> 20} MiB"


# --- lines ----------------------------------------------------------------------------------------


def lines_of(raw: IO[bytes]) -> Iterator[bytes | str]:
    """The lines of a file; in the place of one that is too long, why."""
    while line := raw.readline(LONGEST_ROW + 1):
        if len(line) <= LONGEST_ROW:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = raw.readline(BLOCK)
        yield too_long()


class CsvLines:
    """Lines for `csv.reader`, and `csv.Error` in the place of a row that is too long.

    An iterator: the reader asks again after an error, and a generator would have ended by then.
    """

    def __init__(self, text: IO[str]):
        self.text = text
        self.number = 0  # of the line that was read last
        self.begin()

    def begin(self) -> None:
        """Says that a new row begins."""
        self.size = self.quotes = 0

    def __iter__(self) -> "CsvLines":
        return self

    def __next__(self) -> str:
        line = self._line(LONGEST_ROW + 1 - self.size)
        if not line:
            raise StopIteration
        if self.size <= LONGEST_ROW:
            return line
        # on to the row's end: after an odd number of quotes a line break is one of a cell's
        while line and (self.quotes % 2 or not line.endswith(("\n", "\r"))):
            line = self._line(BLOCK)
        raise csv.Error(too_long())

    def _line(self, most: int) -> str:
        line = self.text.readline(most)
        self.size += len(line)
        self.quotes += line.count('"')
        self.number += line.endswith(("\n", "\r"))
        return line


# --- record batches -------------------------------------------------------------------------------


def record_batches(raw: IO[bytes], most_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file; `in_chunks` makes batches of one size of them."""
    # buffer_size: else the columns of a whole row group are read at once
    file = pq.ParquetFile(raw, buffer_size=BLOCK)
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        rows = most_bytes * group.num_rows // max(group.total_byte_size, 1)
        rows = max(1, min(PARQUET_ROWS, rows))
        yield from file.iter_batches(rows, row_groups=[number])


def in_chunks(
    batches: Iterable[pa.RecordBatch], most_bytes: int, most_rows: int
) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most so many bytes (or of one row) and rows."""
    waiting: list[pa.RecordBatch] = []
    size = rows = 0
    for batch in batches:
        for piece in _pieces(_plain(batch), most_bytes, most_rows):
            full = size + piece.nbytes > most_bytes or rows + len(piece) > most_rows
            if waiting and full:
                yield _joined(waiting)
                waiting, size, rows = [], 0, 0
            waiting.append(piece)
            size, rows = size + piece.nbytes, rows + len(piece)
    if waiting:
        yield _joined(waiting)


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries, which would count in the size of every piece."""
    columns = [
        column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _pieces(batch: pa.RecordBatch, most_bytes: int, most_rows: int) -> Iterator[pa.RecordBatch]:
    if len(batch) < 2 or (batch.nbytes <= most_bytes and len(batch) <= most_rows):
        yield batch
        return
    half = len(batch) // 2
    yield from _pieces(batch.slice(0, half), most_bytes, most_rows)
    yield from _pieces(batch.slice(half), most_bytes, most_rows)


def _joined(pieces: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of them that holds its own rows alone: a slice is pickled with all it is of."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_batches(pieces).combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()
