"""Items, who has them and what he said: one SQLite file, each write one transaction.

    store = Store.create_or_open(path, Project("rankings"), read_items("rankings", "samples.jsonl"))
    task = store.take("ada")
    store.answer("ada", task.item, {"ranks": [1, 2], "quality": [6, 3], "flags": [[], []]}, 31.0)

Who changes his mind adds an answer: the latest counts, all are kept.
"""

import contextlib
import json
import os
import sqlite3
import statistics
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from data_prep.labeling import answers, queue
from data_prep.labeling.items import Item
from data_prep.labeling.project import Project, Task, check_same, project_of
from data_prep.labeling.schema import open_to_read, open_to_write, told
from data_prep.labeling.turns import Turn
from instruct.errors import UserError
from instruct.files import as_plain
from instruct.plain_text import check_name
from instruct.run.folders import claim

__all__ = ["Item", "Project", "Store", "Task"]

RECENT = 100  # latest answers whose median is told as the time of an item


class Store:
    """One database of labels. Threads may share it; other processes may only read."""

    def __init__(self, path: Path, connection: sqlite3.Connection, can_write: bool):
        self.path, self.can_write = path, can_write
        self._connection = connection
        self._file = _identity(path)
        self._lock = threading.RLock()
        self.now = time.time  # leases outlive a server, so they are told by the wall's clock
        self.database, settings = self._about()
        self.project = None if settings is None else project_of(path, settings)

    ################
    # Opening
    ################

    @classmethod
    def create_or_open(cls, path: Path, project: Project, items: Iterable[Item]) -> "Store":
        """The database for the page: made, or gone on with; items that it has not are added.

        Raises:
            UserError: another server has it, another project or program made it, it cannot be
                written, there is nothing to label.
        """
        path = Path(path)
        claim(path)
        store = cls(path, open_to_write(path), can_write=True)
        try:
            store._begin(project, list(items))
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def read(cls, path: Path) -> "Store":
        """The database as it is, also while a server writes.

        Raises:
            UserError: there is none, or another program's or version's.
        """
        path = Path(path)
        store = cls(path, open_to_read(path), can_write=False)
        if store.project is None:
            store.close()
            raise UserError(f"{path}: is empty; start the page with it first")
        return store

    def close(self) -> None:
        """Lets go of the file; the server's claim on it ends with the process."""
        with self._lock, told(self.path):
            self._connection.close()

    def _about(self) -> tuple[str | None, dict | None]:
        with told(self.path):
            found = self._connection.execute("SELECT database, settings FROM project").fetchone()
        return (found[0], json.loads(found[1])) if found else (None, None)

    def _begin(self, project: Project, items: list[Item]) -> None:
        if self.project is not None:
            check_same(self.path, self.project, project)
        with self._writing() as db:
            identity = self.database or uuid.uuid4().hex
            db.execute(
                "INSERT INTO project VALUES (1, ?, ?) ON CONFLICT DO UPDATE SET settings = ?2",
                [identity, json.dumps(asdict(project))],
            )
            for item in items:
                self._add(db, project, item)
            # taken while the clock was ahead, it would be held until then
            db.execute("UPDATE assignments SET taken = ?1 WHERE taken > ?1", [self.now()])
            if not db.execute("SELECT count(*) FROM items").fetchone()[0]:
                raise UserError(f"{self.path}: there is nothing to label; give an --input")
        self.database, self.project = identity, project

    def _add(self, db: sqlite3.Connection, project: Project, item: Item) -> None:
        key, owner = item.key, item.owner and _as_json(item.owner)
        to_all = item.is_screening or queue.goes_to_all(key, project.overlap, project.seed)
        # known as a row to label, and screened by now: all get it
        db.execute(
            "INSERT INTO items (key, row, to_all, is_screening, owner) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET to_all = 1, is_screening = 1, open = 1, "
            "owner = excluded.owner WHERE excluded.is_screening = 1",
            [key, _as_json(item.row), to_all, item.is_screening, owner],
        )

    ################
    # A labeler's turn
    ################

    def take(self, labeler: str) -> Task | None:
        """The item that he has already, or a new one; None where nothing is left for him."""
        with self._writing() as db:
            turn = self._turn(db, labeler)
            item = turn.his_item() or turn.new_item()
            return item and turn.task(item)

    def task_of(self, labeler: str, item: int) -> Task:
        """An item that was given to him, whatever became of it since.

        Raises:
            UserError: it never was.
        """
        with self._lock, told(self.path):
            turn = self._turn(self._connection, labeler)
            turn.state_of(item)
            return turn.task(item)

    def answer(self, labeler: str, item: int, answer: dict, seconds: float) -> None:
        """Stores an answer: it is on the disk when this returns.

        The same answer sent once more, as the page does where the network ate what it was told,
        is no second one.

        Raises:
            UserError: not his item, no answer to it, or he was so late that another has it.
        """
        seconds = answers.check_seconds(seconds)
        project = self.project
        with self._writing() as db:
            turn = self._turn(db, labeler)
            mine = turn.state_of(item)
            row = json.loads(mine.row)
            checked = answers.check(
                project.kind, row, answer, project.questions, project.ranking_only
            )
            if mine.state == "answered" and not mine.reopened:
                if json.loads(mine.answer) == checked:
                    return
                raise UserError(f"item {item} was saved before; undo to change it")
            turn.check_room(item, mine)
            # who changes his mind has taken the time of both
            seconds = round(seconds + (mine.seconds or 0), 1)
            turn.save(item, "answered", seconds, answer=json.dumps(checked))

    def skip(self, labeler: str, item: int, reason: str) -> None:
        """Leaves an item out; it goes to another labeler.

        Raises:
            UserError: not his item, or no reason.
        """
        reason = answers.check_reason(reason)
        with self._writing() as db:
            turn = self._turn(db, labeler)
            mine = turn.state_of(item)
            if mine.state == "answered" and not mine.reopened:
                raise UserError(f"item {item} was saved before; undo to change it")
            if mine.state == "skipped" and not mine.reopened:
                if mine.reason == reason:
                    return
                raise UserError(f"item {item} was left out before; undo to change the reason")
            # what was worked before counts where he thinks again
            turn.save(item, "skipped", mine.seconds or 0.0, reason=reason)

    def undo(self, labeler: str) -> Task | None:
        """His latest item again, with his answer as `previous`; undone again, the one before it.

        What he said counts until he saves anew. None where there is no earlier item.
        """
        with self._writing() as db:
            turn = self._turn(db, labeler)
            item = turn.reopened()
            return item and turn.task(item)

    ################
    # What there is
    ################

    def progress(self, labeler: str | None = None) -> dict:
        """How far one labeler is, or all of them together.

        Returns:
            done: answers that count. skipped: items left out. left: items that he may still get;
            of all, answers that are missing. items: all there are. seconds_per_item: median of
            the latest answers, None before the first.
        """
        mine = "" if labeler is None else " AND labeler = :labeler"
        values = {"labeler": labeler, "recent": RECENT}
        count = "SELECT count(*) FROM assignments WHERE state = '{}'" + mine
        recent = f"SELECT seconds FROM answers WHERE answer IS NOT NULL{mine} ORDER BY id DESC"
        per_item = self.project.per_item
        with self._lock, told(self.path):
            db = self._connection
            done, skipped = (
                db.execute(count.format(state), values).fetchone()[0]
                for state in ("answered", "skipped")
            )
            if labeler is None:
                left = queue.left_to_do(db, per_item)
            else:
                left = queue.left_for(db, labeler, per_item, self._turn(db, labeler).since)
            # none is ever deleted, so the last number is their count
            items = db.execute("SELECT max(id) FROM items").fetchone()[0]
            seconds = [s for (s,) in db.execute(f"{recent} LIMIT :recent", values)]
        return {
            "done": done,
            "skipped": skipped,
            "left": left,
            "items": items,
            "seconds_per_item": round(statistics.median(seconds), 1) if seconds else None,
        }

    def answers(self) -> Iterator[dict]:
        """The latest answer of each labeler to each item, by item.

        Yields {item, row, order, answer, labeler, timestamp, seconds, is_screening, owner}: the
        whole row, models included, and what the owner said of a screening item.
        """
        query = (
            "SELECT i.id, i.row, i.is_screening, i.owner, a.shown_order, a.labeler, "
            "n.answer, n.timestamp, n.seconds FROM items i "
            "JOIN assignments a ON a.item = i.id JOIN answers n ON n.id = a.answer "
            "WHERE n.answer IS NOT NULL ORDER BY i.id, a.labeler"
        )
        for item, row, screening, owner, order, labeler, answer, timestamp, seconds in self._rows(
            query
        ):
            yield {
                "item": item,
                "row": json.loads(row),
                "order": json.loads(order),
                "answer": json.loads(answer),
                "labeler": labeler,
                "timestamp": timestamp,
                "seconds": seconds,
                "is_screening": bool(screening),
                "owner": owner and json.loads(owner),
            }

    def history(self) -> Iterator[dict]:
        """Everything that was ever saved, in order: {item, labeler, answer or reason, …}.

        `seconds` are those of the item until then, changes of mind included.
        """
        query = "SELECT item, labeler, answer, reason, seconds, timestamp FROM answers ORDER BY id"
        for item, labeler, answer, reason, seconds, timestamp in self._rows(query):
            yield {
                "item": item,
                "labeler": labeler,
                "answer": answer and json.loads(answer),
                "reason": reason,
                "seconds": seconds,
                "timestamp": timestamp,
            }

    def skips(self) -> Iterator[dict]:
        """Who leaves out which item now, and why, latest first.

        Yields {item, labeler, reason, timestamp}; one that was undone counts until he saves anew.
        """
        query = (
            "SELECT n.item, n.labeler, n.reason, n.timestamp FROM assignments a "
            "JOIN answers n ON n.id = a.answer WHERE a.state = 'skipped' ORDER BY n.id DESC"
        )
        for item, labeler, reason, timestamp in self._rows(query):
            yield {"item": item, "labeler": labeler, "reason": reason, "timestamp": timestamp}

    def items_for_all(self) -> int:
        """How many items go to all labelers, screening included."""
        [(count,)] = self._rows("SELECT count(*) FROM items WHERE to_all = 1")
        return count

    def labelers(self) -> list[str]:
        """Names of all who took an item."""
        return [n for (n,) in self._rows("SELECT DISTINCT labeler FROM assignments ORDER BY 1")]

    def _rows(self, query: str) -> Iterator[tuple]:
        # on a connection of its own: who exports holds up nobody who labels
        connection = open_to_read(self.path)
        with contextlib.closing(connection), told(self.path):
            yield from connection.execute(query)

    ################
    # Behind them
    ################

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on the disk when the block ends well, else undone."""
        if not self.can_write:
            raise UserError(f"{self.path}: was opened to read")
        # SQLite would go on writing into a file without a name
        if _identity(self.path) != self._file:
            raise UserError(
                f"{self.path}: was moved, removed or replaced since it was opened, so this was not "
                "saved; put it back with its -wal, and start the page anew"
            )
        db = self._connection
        with self._lock, told(self.path):
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # SQLite itself takes back what a full disk ended
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _turn(self, db: sqlite3.Connection, labeler: str) -> Turn:
        check_name(labeler, "labeler")
        return Turn(db, self.project, labeler, self.now())


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a name stands for; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _as_json(value) -> str:
    # ASCII: NUL and half characters are no text to SQLite
    return json.dumps(value, default=as_plain)
