"""Parquet and Arrow files, and datasets of the Hub, as a `datasets.Dataset`."""

import re
from pathlib import Path

from instruct.errors import UserError
from instruct.hub import ask_hub
from instruct.rows.raw_files import RawFile


def load_parquet(source: str | Path, files: list[str]):
    """The rows of Parquet files, memory-mapped.

    Raises:
        UserError: a broken file, files of other columns, no rows.
    """
    # imported here: `datasets` takes a second, and every command imports this module
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import load_dataset
    from datasets.config import HF_DATASETS_CACHE
    from datasets.exceptions import DatasetGenerationError

    from instruct.hashes import files_hash

    try:
        # `datasets` refuses a file without rows, which an empty split is
        files = [path for path in files if pq.read_metadata(path).num_rows]
        if not files:
            raise UserError(f"{source}: no rows")
        return load_dataset(
            "parquet",
            data_files=files,
            split="train",
            # its cache goes by path and time: rows of a file that was replaced would come back
            cache_dir=str(Path(HF_DATASETS_CACHE) / "by-content" / files_hash(files)[:32]),
        )
    except (DatasetGenerationError, pa.ArrowException) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{source}: cannot be read as parquet: {cause}") from error


def load_arrow(source: str | Path, files: list[str]):
    """The rows of Arrow files, as `save_to_disk` and `pyarrow.feather` write them, memory-mapped.

    Raises:
        UserError: a broken file, files of other columns.
    """
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets
    from datasets.table import InMemoryTable

    try:
        # mapped: what is in a batch is read when it is asked for
        batches = [list(arrow_batches(pa.memory_map(file))) for file in files]
        tables = [InMemoryTable(pa.Table.from_batches(b)) for b in batches if b]
        if not tables:
            raise UserError(f"{source}: no rows")
        return concatenate_datasets([Dataset(table) for table in tables])
    except UserError:
        raise
    except (pa.ArrowException, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"{source}: cannot be read as Arrow: {cause}") from error


def arrow_batches(raw):
    """The record batches of an Arrow file of either layout: a stream, or indexed at its end."""
    import pyarrow as pa

    indexed = raw.read(6) == b"ARROW1"
    raw.seek(0)
    if not indexed:
        return iter(pa.ipc.open_stream(raw))
    reader = pa.ipc.open_file(raw)
    return map(reader.get_batch, range(reader.num_record_batches))


def load_from_hub(dataset_id: str, split: str, name: str | None):
    """The rows of a split on the Hub.

    Raises:
        UserError: no such dataset, or none of that split or configuration, with those that it has.
    """
    from datasets import load_dataset

    ask_hub(dataset_id)
    try:
        return load_dataset(dataset_id, name, split=split)
    # the Hub client raises many unrelated types; all mean "could not be had"
    except Exception as error:
        raise UserError(f"{dataset_id}: {_why_not(str(error), split)}") from error


def _why_not(said: str, split: str) -> str:
    others = re.search(r"Unknown split .*?Should be one of \[(.*?)\]", said, re.S)
    if others:
        return f"no split {split!r} in this dataset; it has {others[1]}: name one of them"
    configs = re.search(r"available configs: \[(.*?)\]|Available: \[(.*?)\]", said, re.S)
    if configs:
        names = configs[1] or configs[2]
        return f"several data sets in one; give one of {names} by --dataset_config"
    first = (said.splitlines() or ["no answer"])[0]
    return f"neither a file or folder here nor a dataset the Hub could give: {first}"


def table_rows(file: RawFile):
    """(place, row) of every row of a Parquet or Arrow file.

    Raises:
        UserError: a broken file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with file.open() as raw:
            of_parquet = file.kind == "parquet"
            batches = pq.ParquetFile(raw).iter_batches(1024) if of_parquet else arrow_batches(raw)
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"{file.path}: cannot be read as {file.kind}: {cause}") from error
