"""DuckDB or Spark behind Ibis."""

import glob
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.formats.log_files import first_line
from instruct.errors import UserError

# some 7 MB of prompts at the benchmark's 351 bytes a row
BATCH_ROWS = 20_000
NO_SPARK = "--backend pyspark needs Spark: pip install -e '.[spark]' and Java 17 or newer"


class Engine:
    """An Ibis backend that works in `folder`.

    Results are Parquet folders, so memory stays bounded and both engines read the same.

    Args:
        name: "duckdb" or "pyspark".
        folder: for results, and for what does not fit into memory.
        memory_limit: most memory, for example 4GB.
        spark_master: of Spark alone, for example local[*].

    Raises:
        UserError: the engine is not there or does not start.
    """

    def __init__(self, name: str, folder: Path, memory_limit: str | None, spark_master: str):
        self.name, self.folder = name, folder
        _silence_dependencies()
        if name == "duckdb":
            self.con = _duckdb(folder, memory_limit)
        else:
            self.con = ibis.pyspark.connect(_spark_session(folder, memory_limit, spark_master))

    def read(self, folder: Path) -> ibis.Table:
        if self.name == "duckdb":
            # names are patterns to it, and the output folder may be called run[1] or row=1
            files = [glob.escape(str(file)) for file in _files(folder)]
            return self.con.read_parquet(files, hive_partitioning=False)
        # to Spark as well; its folders hold other files too, which it knows to skip
        return self.con.read_parquet(re.sub(r"[\\*?{}\[\]]", r"\\\g<0>", str(folder)))

    def write(self, table: ibis.Table, name: str) -> Path:
        """Computes `table` into the folder `name`, files in row order."""
        folder = self.folder / name
        if self.name == "duckdb":
            # DuckDB makes none, Spark its own
            folder.mkdir()
            # not `to_parquet`: Ibis 12 quotes the name as Python does
            name = str(folder / "part-0.parquet").replace("'", "''")
            self.con.raw_sql(f"COPY ({self.con.compile(table)}) TO '{name}' (FORMAT parquet)")
        else:
            self.con.to_parquet(table, folder)
        return folder

    def close(self) -> None:
        if self.name == "pyspark":
            self.con._session.stop()
        else:
            self.con.disconnect()


def batches(folder: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """What `Engine.write`, or staging, left in a folder, in row order."""
    for path in _files(folder):
        with pq.ParquetFile(path) as file:
            # not over several row groups: those with texts were cut by their bytes
            for group in range(file.num_row_groups):
                yield from file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)


def _files(folder: Path) -> list[Path]:
    # Spark numbers its files in the order of the sorted rows
    return sorted(folder.glob("*.parquet"))


def write_marks(engine: Engine, name: str, marks: dict[int, str | None]) -> ibis.Table:
    """What a step in Python found, for `steps.marked`: {row: id that is kept in its place}."""
    # through a file, which both engines read alike
    (engine.folder / name).mkdir()
    table = pa.table(
        {
            "row": pa.array(list(marks), pa.int64()),
            "kept_id": pa.array(list(marks.values()), pa.string()),
        }
    )
    pq.write_table(table, engine.folder / name / "part-0.parquet")
    return engine.read(engine.folder / name)


def _silence_dependencies() -> None:
    """Two warnings that no user of ours can act upon; everything else warns as ever."""
    # Ibis 12 calls DuckDB by a name that DuckDB 2 renamed (to_arrow_table)
    warnings.filterwarnings("ignore", r"fetch_arrow_table", DeprecationWarning)
    # Spark on pandas 3; nothing here goes through pandas
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")


def _duckdb(folder: Path, memory_limit: str | None) -> ibis.BaseBackend:
    # beside the outputs: /tmp may be small, or memory
    settings = {"temp_directory": str(folder / "spill")}
    if memory_limit:
        settings["memory_limit"] = memory_limit
    try:
        return ibis.duckdb.connect(**settings)
    except Exception as error:  # DuckDB has a type for every setting it dislikes
        raise UserError(
            f"--memory_limit {memory_limit}: DuckDB says: {first_line(error)}"
        ) from error


def _spark_session(folder: Path, memory_limit: str | None, master: str):
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(NO_SPARK) from error
    # told here: Spark says only that its gateway exited
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        raise UserError(
            "--backend pyspark needs Java 17 or newer, and there is none on this machine"
        )
    settings = {
        # the same times on every machine
        "spark.sql.session.timeZone": "UTC",
        # no port opened
        "spark.ui.enabled": "false",
        # else in the working directory
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.local.dir": str(folder / "spill"),
    }
    if memory_limit:  # Java writes 4g for 4GB
        settings["spark.driver.memory"] = re.sub(r"(?i)i?b$", "", memory_limit).lower()
    if master.startswith("local"):
        settings["spark.sql.shuffle.partitions"] = "8"  # 200 by default, for clusters
        # host names often do not resolve in containers
        settings["spark.driver.bindAddress"] = settings["spark.driver.host"] = "127.0.0.1"
    builder = SparkSession.builder.master(master).appName("instruct-recipes")
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except Exception as error:  # Py4J's and Spark's many types all mean that Spark did not start
        raise UserError(
            f"--spark_master {master}: Spark did not start: {first_line(error)}"
        ) from error
    # its warnings would drown the counts
    session.sparkContext.setLogLevel("ERROR")
    return session
