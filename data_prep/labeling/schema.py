"""The database of labels: its tables, how it is opened, and what each of SQLite's errors means.

    project      what the page was started with, and an id of its own
    items        rows to label
    assignments  who has which item, in which order its outputs are shown, and how far he is
    answers      all that was ever saved, one row each: never changed, never deleted

WAL lets others read while one server writes; with `synchronous=FULL` an answer is on the disk
before it counts as saved.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from instruct.command.known_errors import disk_sentence
from instruct.errors import UserError, first_line

SCHEMA_VERSION = 1
APPLICATION = 0x1A8E1  # PRAGMA application_id: another program's database is left alone
IS_FOLDER = "this is a folder; give the database's file, labels.sqlite in it, say"
BUSY_SECONDS = 30  # how long a write waits for another program (a backup, say)

TABLES = """
CREATE TABLE project (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    database TEXT NOT NULL,
    settings TEXT NOT NULL
);
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    row TEXT NOT NULL,
    to_all INTEGER NOT NULL,
    is_screening INTEGER NOT NULL,
    owner TEXT,
    open INTEGER NOT NULL DEFAULT 1
);
-- the queue: what may still be given to somebody
CREATE INDEX open_items ON items (is_screening DESC, id, to_all) WHERE open = 1;
CREATE TABLE assignments (
    labeler TEXT NOT NULL,
    item INTEGER NOT NULL REFERENCES items (id),
    state TEXT NOT NULL CHECK (state IN ('held', 'answered', 'skipped', 'lapsed')),
    taken REAL NOT NULL,
    shown_order TEXT NOT NULL,
    answer INTEGER REFERENCES answers (id),
    reopened INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (labeler, item)
) WITHOUT ROWID;
CREATE INDEX by_item ON assignments (item, state, taken);
CREATE INDEX by_state ON assignments (labeler, state);
CREATE INDEX held ON assignments (item, taken) WHERE state = 'held';
CREATE INDEX by_answer ON assignments (labeler, answer);
CREATE INDEX reopened ON assignments (labeler, answer) WHERE reopened = 1;
CREATE TABLE answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    item INTEGER NOT NULL REFERENCES items (id),
    labeler TEXT NOT NULL,
    answer TEXT,
    reason TEXT,
    seconds REAL NOT NULL,
    timestamp TEXT NOT NULL,
    CHECK ((answer IS NULL) <> (reason IS NULL))
);
CREATE INDEX answers_of ON answers (labeler, id);
CREATE TRIGGER answers_are_not_changed BEFORE UPDATE ON answers
BEGIN SELECT RAISE(ABORT, 'answers are only added'); END;
CREATE TRIGGER answers_are_not_deleted BEFORE DELETE ON answers
BEGIN SELECT RAISE(ABORT, 'answers are only added'); END;
"""

# {SQLite's primary code: what is wrong and what to do}; {} is what SQLite says
WORDS = {
    sqlite3.SQLITE_NOTADB: "is no database of labels; give another path",
    sqlite3.SQLITE_CORRUPT: "is damaged ({}); take a backup, or `sqlite3 FILE .recover`",
    sqlite3.SQLITE_READONLY: "cannot be written; make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; look at its path and who may read and write there",
    sqlite3.SQLITE_PERM: "cannot be opened; look at who may read and write there",
    sqlite3.SQLITE_FULL: "no space left on this disk, so this was not saved; free some, save again",
    sqlite3.SQLITE_IOERR: "the disk fails ({}), and this was not saved; look at it, save again",
    sqlite3.SQLITE_BUSY: "another program has it locked; close that, and try again",
    sqlite3.SQLITE_LOCKED: "another program has it locked; close that, and try again",
    sqlite3.SQLITE_TOOBIG: "a text is larger than a database takes; shorten it",
}


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the disk in this block, as one sentence.

    Raises:
        UserError: a user can change it; anything else is a bug, and stays what it is.
    """
    try:
        yield
    except sqlite3.Error as error:
        # extended codes have the primary one in their last byte
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in WORDS:
            raise
        raise UserError(f"{path}: {WORDS[code].format(first_line(error))}") from error
    except OSError as error:
        sentence = disk_sentence(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def open_to_write(path: Path) -> sqlite3.Connection:
    """A connection that writes; tables are made where there are none.

    Raises:
        UserError: another program's file, another version's, one that cannot be written.
    """
    check_file(path)
    with told(path):
        _check_size(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(str(path))
        try:
            # before anything is written: it may be somebody else's
            is_new = _is_empty(connection)
            if not is_new:
                check_version(path, connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            if is_new:
                _make_tables(connection)
                # of two that made it at once, the later finds what the first made
                check_version(path, connection)
            # a file that only looks writable is told now, not with the first answer
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that only reads, also while a server writes.

    Raises:
        UserError: no such file, another program's, another version's.
    """
    check_file(path)
    if not path.is_file():
        raise UserError(f"{path}: no such database")
    with told(path):
        _check_size(path)
        connection = _read_only(path)
        try:
            if _is_empty(connection):
                raise UserError(f"{path}: is empty; start the page with it first")
            check_version(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


def has_tables(path: Path) -> bool:
    """Whether a page has begun a database there: one that was killed at once may have no tables.

    Raises:
        UserError: something there that is no database, or cannot be read.
    """
    check_file(path)
    if not path.is_file() or not path.stat().st_size:
        return False
    with told(path):
        _check_size(path)
        connection = _read_only(path)
        with contextlib.closing(connection):
            return not _is_empty(connection)


def check_file(path: Path) -> None:
    """That a path is a file, or none yet.

    Raises:
        UserError: a folder, a pipe, a device.
    """
    if path.is_dir():
        raise UserError(f"{path}: {IS_FOLDER}")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file (a pipe, a device); give another path")


def check_version(path: Path, connection: sqlite3.Connection) -> None:
    """That this version of the repo knows the tables.

    Raises:
        UserError: another program's database, or one of an earlier or a later version.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION:
        raise UserError(f"{path}: a database of another program; nothing was changed: give another")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < SCHEMA_VERSION:
        raise UserError(
            f"{path}: made by an earlier instruct-recipes (tables {version}, here "
            f"{SCHEMA_VERSION}); export it with that version; nothing was changed"
        )
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: made by a later instruct-recipes (tables {version}, here "
            f"{SCHEMA_VERSION}); update this one; nothing was changed"
        )


def _check_size(path: Path) -> None:
    # SQLite takes one byte for nothing, and writes over it; it looks at all other files itself.
    # Never by `open`: closing that lets go of the locks that this process has on the file, and
    # the next program to close it would then delete the -wal that the page still writes into
    # (https://sqlite.org/howtocorrupt.html, 2.2)
    if path.is_file() and path.stat().st_size == 1:
        raise UserError(f"{path}: {WORDS[sqlite3.SQLITE_NOTADB]}")


def _connect(name: str, uri: bool = False) -> sqlite3.Connection:
    # transactions are begun by hand; threads take turns by the store's lock
    return sqlite3.connect(
        name, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
    )


def _read_only(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri()
    connection = _connect(f"{uri}?mode=ro", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
        return connection
    except sqlite3.Error as error:
        connection.close()
        # a lock, say, is no reason to read past it
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
    # on a disk that cannot be written, SQLite cannot put its notes for readers beside the file;
    # without a -wal nobody is writing
    wal = path.with_name(f"{path.name}-wal")
    if wal.is_file() and wal.stat().st_size:
        raise UserError(f"{path}: cannot be read here with its {wal.name}; copy both elsewhere")
    return _connect(f"{uri}?mode=ro&immutable=1", uri=True)


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_empty(connection):
            for statement in _statements(TABLES):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    # `executescript` would commit before each of them
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
