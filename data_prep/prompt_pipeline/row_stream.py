"""Tables of rows, walked side by side in row order, so that memory stays bounded."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.prompt_pipeline.engine import batches


# Staged parts end where chunks of the log do, an engine's batches every so many rows: the stream
# cuts the one to the length of the other.
class RowStream:
    """Sorted record batches, taken so many rows, or up to a row number, at a time."""

    def __init__(self, folder: Path, schema: pa.Schema | None = None):
        self.source, self.schema = batches(folder), schema
        self.buffer: pa.Table | None = None

    def _fill(self) -> bool:
        batch = next(self.source, None)
        if batch is None:
            return False
        table = pa.Table.from_batches([batch])
        # no copy: the chunks are only listed one after another
        self.buffer = table if self.buffer is None else pa.concat_tables([self.buffer, table])
        return True

    def take(self, count: int) -> pa.Table:
        """The next `count` rows."""
        while (self.buffer is None or len(self.buffer) < count) and self._fill():
            pass
        if self.buffer is None or len(self.buffer) < count:
            raise RuntimeError("fewer decisions than prompts: this is a bug in the pipeline")
        # one chunk again, or what is left over piles up call by call
        taken, self.buffer = self.buffer.slice(0, count), self.buffer.slice(count).combine_chunks()
        return taken

    def up_to(self, row: int) -> pa.Table:
        """The next rows whose `row` is at most this one; perhaps none."""
        # only a row beyond this one tells that none is missing
        while not self._reaches_beyond(row) and self._fill():
            pass
        # no batch to take a schema from
        if self.buffer is None:
            return (self.schema or pa.schema({})).empty_table()
        # sorted by row, so how many is also how far
        count = pc.sum(pc.less_equal(self.buffer["row"], row)).as_py() or 0
        # rows are looked up in it by index, which wants one chunk
        return self.take(count).combine_chunks()

    def _reaches_beyond(self, row: int) -> bool:
        if self.buffer is None or not len(self.buffer):
            return False
        return self.buffer["row"][-1].as_py() > row


def with_texts(narrow: Path, staged: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a narrow table with `columns` of the staged texts, joined by place.

    So an engine never sorts texts, nor holds a row group of them.

    Args:
        narrow: folder with `row` and others, in row order.
        staged: the folder `rows`.
    """
    stream = RowStream(narrow)
    for batch in batches(staged, ["row", *columns]):
        # a part may hold malformed rows alone
        wanted = stream.up_to(batch["row"][-1].as_py()) if len(batch) else ()
        if not len(wanted):
            continue
        texts = batch.take(pc.index_in(wanted["row"].combine_chunks(), batch["row"]))
        for name in wanted.column_names:
            if name != "row":
                texts = texts.append_column(name, wanted[name].combine_chunks())
        yield texts
