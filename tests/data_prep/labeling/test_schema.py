"""A database that cannot be used, or not now: one sentence, and nothing in it is lost."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import SCRIPT_ENV
from labeling_tools import ranked, store_of

from data_prep.labeling import schema
from data_prep.labeling.schema import has_tables, open_to_read, open_to_write
from data_prep.labeling.store import Store
from instruct.errors import UserError

NOBODY = 65534


def refused(action) -> str:
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def labeled(tmp_path) -> Path:
    """A database with one answer, that nobody has open."""
    store = store_of(tmp_path / "labels.sqlite")
    store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
    store.close()
    return tmp_path / "labels.sqlite"


@pytest.fixture
def folder():
    """A folder that everybody reaches; pytest's own are closed to others."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o777)
    yield made
    made.chmod(0o777)
    shutil.rmtree(made)


@pytest.fixture
def as_nobody():
    """Root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.mark.parametrize("content", [b"x", b"no database\n" * 300, b'{"prompt": "Hi"}\n'])
def test_a_file_that_is_no_database_is_left_alone(tmp_path, content):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(content)
    for action in (lambda: store_of(path), lambda: Store.read(path)):
        assert "samples.jsonl: is no database" in refused(action)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE items (id)")
    before = path.read_bytes()
    for action in (lambda: store_of(path), lambda: Store.read(path)):
        assert "another program" in refused(action)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "version, told", [(0, "an earlier"), (schema.SCHEMA_VERSION + 1, "a later")]
)
def test_another_schema_version_is_left_alone(labeled, version, told):
    with sqlite3.connect(labeled) as database:
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    before = labeled.read_bytes()
    for action in (lambda: store_of(labeled), lambda: Store.read(labeled)):
        sentence = refused(action)
        assert f"made by {told} instruct-recipes (tables {version}" in sentence
    assert labeled.read_bytes() == before


def test_an_empty_file_becomes_a_database_and_is_none_to_read(tmp_path):
    path = tmp_path / "labels.sqlite"
    path.touch()
    assert "start the page" in refused(lambda: Store.read(path))
    assert store_of(path).take("ada").item == 1


@pytest.mark.parametrize("make", [os.mkfifo, None])
def test_a_pipe_or_a_device_is_no_database(tmp_path, make):
    path = Path("/dev/null") if make is None else tmp_path / "pipe"
    if make:
        make(path)
    for opens in (open_to_read, open_to_write, has_tables):
        with pytest.raises(UserError, match="is no file"):
            opens(path)


def test_a_database_without_tables_is_not_begun(tmp_path, labeled):
    """What is there after a page was killed at once: SQLite's first page, and nothing in it."""
    path = tmp_path / "young.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size and not has_tables(path) and has_tables(labeled)
    assert store_of(path).progress()["items"] == 4


def test_what_is_not_there_is_told_and_not_made(tmp_path):
    path = tmp_path / "labels.sqlite"
    assert "no such database" in refused(lambda: Store.read(path))
    assert not path.exists()
    assert "folder" in refused(lambda: store_of(tmp_path))


def test_a_damaged_database_is_told(labeled):
    content = bytearray(labeled.read_bytes())
    # all pages but the first
    content[4096:] = b"\xff" * (len(content) - 4096)
    labeled.write_bytes(content)
    assert "damaged" in refused(lambda: list(Store.read(labeled).answers()))


SERVER = """
import sys, time
from pathlib import Path
from labeling_tools import ranked, store_of
store = store_of(Path(sys.argv[1]))
store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
print(store.take("bob").item, flush=True)
time.sleep(60)
"""


def test_two_servers_are_refused_and_a_reader_is_not(tmp_path):
    path = tmp_path / "labels.sqlite"
    command = [sys.executable, "-c", SERVER, str(path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=SCRIPT_ENV, text=True)
    try:
        assert server.stdout.readline() == "2\n"
        sentence = refused(lambda: store_of(path))
        assert f"another run (process {server.pid}) is writing there" in sentence
        assert [row["labeler"] for row in Store.read(path).answers()] == ["ada"]
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    # a killed server has no claim, and what it gave away stays so
    assert store_of(path).take("bob").item == 2


def test_a_full_disk_is_told_and_what_was_saved_stays(tmp_path):
    store = store_of(tmp_path / "labels.sqlite", count=40)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    saved = []

    def label_on():
        while True:
            task = store.take("ada")
            store.skip("ada", task.item, "long " * 390)
            saved.append(task.item)

    sentence = refused(label_on)
    assert "no space left on this disk, so this was not saved" in sentence
    assert saved and [one["item"] for one in store.history()] == saved
    # once there is space again, the same server goes on
    store._connection.execute("PRAGMA max_page_count = 100000")
    task = store.take("ada")
    assert task.item not in saved
    store.answer("ada", task.item, ranked([1, 2, 3]), 1)
    assert [row["item"] for row in store.answers()] == [task.item]


def test_a_file_locked_by_another_program_is_told(labeled, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    store = store_of(labeled)
    other = sqlite3.connect(labeled, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "another program has it locked" in refused(lambda: store.take("ada"))
    other.execute("ROLLBACK")
    other.close()
    assert store.take("ada").item == 2


def test_a_read_only_file_is_told_to_who_writes_and_read_all_the_same(labeled, folder, as_nobody):
    path = folder / "labels.sqlite"
    # before the user changes: pytest's folder is closed to others
    if os.geteuid() == NOBODY:
        os.seteuid(0)
    shutil.copy(labeled, path)
    path.chmod(0o444)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    assert "cannot be written" in refused(lambda: store_of(path))
    assert [row["labeler"] for row in Store.read(path).answers()] == ["ada"]


def test_a_read_only_folder_is_told_to_who_writes_and_read_all_the_same(labeled, folder):
    path = folder / "labels.sqlite"
    shutil.copy(labeled, path)
    path.chmod(0o644)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        # by its own name: nobody has asked for a lock file
        told = refused(lambda: store_of(path))
        assert told.startswith(f"{path}: nothing can be written in its folder: no permission")
        assert [row["labeler"] for row in Store.read(path).answers()] == ["ada"]
    finally:
        if root:
            os.seteuid(0)
    assert sorted(p.name for p in folder.iterdir()) == ["labels.sqlite"]


def counted_by_another_program(path: Path) -> int:
    """Answers on the disk, as the sqlite3 shell sees them: it may write, and closes at its end."""
    code = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1])\n"
        "print(*database.execute('SELECT count(*) FROM answers').fetchone())\n"
        "database.close()"
    )
    seen = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    return int(seen.stdout)


def test_looking_at_a_database_lets_go_of_no_lock(tmp_path):
    path = tmp_path / "labels.sqlite"
    store = store_of(path)
    for count in (1, 2):
        store.answer("ada", store.take("ada").item, ranked([1, 2, 3]), 1)
        assert len(list(store.answers())) == count
        Store.read(path).close()
        # whoever closes a database that nobody has open deletes its -wal
        assert counted_by_another_program(path) == count
        assert path.with_name("labels.sqlite-wal").is_file()
