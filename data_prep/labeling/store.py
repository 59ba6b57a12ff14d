"""Items, who has them and what he said: one SQLite file, each write one transaction.

    store = Store.create_or_open(path, Project("rankings"), read_items("rankings", "samples.jsonl"))
    task = store.take("ada")
    store.answer("ada", task.item, {"ranks": [1, 2], "quality": [6, 3], "flags": [[], []]}, 31.0)

Who changes his mind adds an answer: the latest counts, all are kept.
"""

import contextlib
import json
import sqlite3
import statistics
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path

from data_prep.labeling import answers, queue
from data_prep.labeling.items import Item, shown
from data_prep.labeling.project import Project, Task, check_same, project_of
from data_prep.labeling.schema import open_to_read, open_to_write, told
from instruct.errors import UserError
from instruct.plain_text import check_name, one_line
from instruct.run.folders import claim

__all__ = ["Item", "Project", "Store", "Task"]

RECENT = 100  # latest answers whose median is told as the time of an item


class Store:
    """One database of labels. Threads may share it; other processes may only read."""

    def __init__(self, path: Path, connection: sqlite3.Connection, can_write: bool):
        self.path, self.can_write = path, can_write
        self._connection = connection
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
        with told(path):
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
        check_name(labeler, "labeler")
        with self._writing() as db:
            found = self._open_again(db, labeler) or self._held(db, labeler)
            if found is not None:
                return self._task(db, labeler, found)
            item = queue.next_item(db, labeler, self.project.per_item, self._since())
            if item is None:
                return None
            self._assign(db, labeler, item)
            return self._task(db, labeler, item)

    def answer(self, labeler: str, item: int, answer: dict, seconds: float) -> None:
        """Stores an answer: it is on the disk when this returns.

        The same answer sent once more, as the page does where the network ate what it was told,
        is no second one.

        Raises:
            UserError: not his item, no answer to it, or he was so late that another has it.
        """
        seconds = answers.check_seconds(seconds)
        with self._writing() as db:
            state, reopened, latest, row = self._mine(db, labeler, item)
            project = self.project
            checked = answers.check(
                project.kind, row, answer, project.questions, project.ranking_only
            )
            if state == "answered" and not reopened:
                if latest == checked:
                    return
                raise UserError(f"item {item} was saved before; undo to change it")
            self._check_room(db, labeler, item, state)
            self._save(db, labeler, item, "answered", seconds, answer=_as_json(checked))

    def skip(self, labeler: str, item: int, reason: str) -> None:
        """Leaves an item out; it goes to another labeler.

        Raises:
            UserError: not his item, or no reason.
        """
        reason = answers.check_reason(reason)
        with self._writing() as db:
            state, reopened, _, _ = self._mine(db, labeler, item)
            if state == "skipped":
                return
            if state == "answered" and not reopened:
                raise UserError(f"item {item} was saved before; undo to change it")
            self._save(db, labeler, item, "skipped", 0.0, reason=reason)

    def undo(self, labeler: str) -> Task | None:
        """His latest item again, with his answer as `previous`; undone again, the one before it.

        What he said counts until he saves anew. None where there is no earlier item.
        """
        with self._writing() as db:
            done = db.execute(
                "SELECT item, state FROM assignments WHERE labeler = ? AND answer IS NOT NULL "
                "AND reopened = 0 AND state IN ('answered', 'skipped') ORDER BY answer DESC",
                [labeler],
            ).fetchall()
            for item, state in done:
                # what he skipped has gone to somebody else by now
                if state == "skipped" and not self._has_room(db, item, labeler):
                    continue
                db.execute(
                    "UPDATE assignments SET reopened = 1, taken = ?, "
                    "state = CASE state WHEN 'skipped' THEN 'held' ELSE state END "
                    "WHERE labeler = ? AND item = ?",
                    [self.now(), labeler, item],
                )
                queue.close_if_full(db, item, self.project.per_item)
                return self._task(db, labeler, item)
        return None

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
                left = queue.left_for(db, labeler, per_item, self._since())
            items = db.execute("SELECT count(*) FROM items").fetchone()[0]
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
        """Everything that was ever saved, in order: {item, labeler, answer or reason, …}."""
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

    def _since(self) -> float:
        return self.now() - 60 * self.project.lease_minutes

    def _has_room(self, db: sqlite3.Connection, item: int, labeler: str) -> bool:
        return queue.has_room(db, item, labeler, self.project.per_item, self._since())

    def _open_again(self, db: sqlite3.Connection, labeler: str) -> int | None:
        # undone twice, the earlier one comes first: he goes on from there
        found = db.execute(
            "SELECT item FROM assignments WHERE labeler = ? AND reopened = 1 ORDER BY answer",
            [labeler],
        ).fetchall()
        return next((i for (i,) in found if self._keeps(db, labeler, i)), None)

    def _held(self, db: sqlite3.Connection, labeler: str) -> int | None:
        found = db.execute(
            "SELECT item FROM assignments WHERE labeler = ? AND state = 'held' ORDER BY taken",
            [labeler],
        ).fetchall()
        return next((i for (i,) in found if self._keeps(db, labeler, i)), None)

    def _keeps(self, db: sqlite3.Connection, labeler: str, item: int) -> bool:
        """Whether an item is still his; it is his anew from now, or another's."""
        state, taken = db.execute(
            "SELECT state, taken FROM assignments WHERE labeler = ? AND item = ?", [labeler, item]
        ).fetchone()
        late = state == "held" and taken <= self._since()
        if late and not self._has_room(db, item, labeler):
            db.execute(
                "UPDATE assignments SET reopened = 0, "
                "state = CASE WHEN answer IS NULL THEN 'lapsed' ELSE 'skipped' END "
                "WHERE labeler = ? AND item = ?",
                [labeler, item],
            )
            queue.close_if_full(db, item, self.project.per_item)
            return False
        db.execute(
            "UPDATE assignments SET taken = ? WHERE labeler = ? AND item = ?",
            [self.now(), labeler, item],
        )
        return True

    def _assign(self, db: sqlite3.Connection, labeler: str, item: int) -> None:
        key, row = db.execute("SELECT key, row FROM items WHERE id = ?", [item]).fetchone()
        outputs = Item(json.loads(row)).outputs
        order = queue.drawn_order(key, labeler, outputs, self.project.seed)
        # one that he left before is his again, in the order that he saw
        db.execute(
            "INSERT INTO assignments (labeler, item, state, taken, shown_order) "
            "VALUES (?, ?, 'held', ?, ?) ON CONFLICT DO UPDATE SET state = 'held', "
            "taken = excluded.taken",
            [labeler, item, self.now(), json.dumps(order)],
        )

    def _task(self, db: sqlite3.Connection, labeler: str, item: int) -> Task:
        row, screening, order, previous = db.execute(
            "SELECT i.row, i.is_screening, a.shown_order, n.answer FROM assignments a "
            "JOIN items i ON i.id = a.item LEFT JOIN answers n ON n.id = a.answer "
            "WHERE a.labeler = ? AND a.item = ?",
            [labeler, item],
        ).fetchone()
        return Task(
            item,
            self.project.kind,
            shown(json.loads(row)),
            tuple(json.loads(order)),
            bool(screening),
            previous and json.loads(previous),
        )

    def _mine(self, db: sqlite3.Connection, labeler: str, item: int) -> tuple:
        """(state, whether undone, his latest answer, the item's row) of one that was given to him.

        Raises:
            UserError: it was not.
        """
        # larger numbers are none to SQLite
        number = isinstance(item, int) and not isinstance(item, bool) and 0 < item < 2**63
        found = (
            number
            and db.execute(
                "SELECT a.state, a.reopened, n.answer, i.row FROM assignments a "
                "JOIN items i ON i.id = a.item LEFT JOIN answers n ON n.id = a.answer "
                "WHERE a.labeler = ? AND a.item = ?",
                [labeler, item],
            ).fetchone()
        )
        if not found:
            told_as = one_line(str(item), 40)
            raise UserError(f"item {told_as} is none of yours; load the page again")
        state, reopened, latest, row = found
        return state, bool(reopened), latest and json.loads(latest), json.loads(row)

    def _check_room(self, db: sqlite3.Connection, labeler: str, item: int, state: str) -> None:
        if state == "skipped":
            raise UserError(f"item {item} was left out by you; undo to answer it")
        # who still holds it in time is one of those that there is room for
        if state == "answered" or self._has_room(db, item, labeler):
            return
        raise UserError(
            f"item {item} went to another labeler, as you had it for more than "
            f"{self.project.lease_minutes:g} minutes; this answer is not stored, take the next"
        )

    def _save(
        self,
        db: sqlite3.Connection,
        labeler: str,
        item: int,
        state: str,
        seconds: float,
        answer: str | None = None,
        reason: str | None = None,
    ) -> None:
        now = datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="seconds")
        added = db.execute(
            "INSERT INTO answers (item, labeler, answer, reason, seconds, timestamp) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [item, labeler, answer, reason, seconds, now],
        )
        db.execute(
            "UPDATE assignments SET state = ?, answer = ?, reopened = 0 "
            "WHERE labeler = ? AND item = ?",
            [state, added.lastrowid, labeler, item],
        )
        queue.close_if_full(db, item, self.project.per_item)


def _as_json(value) -> str:
    # ASCII: NUL and half characters are no text to SQLite
    return json.dumps(value, default=_plain)


def _plain(value) -> str:
    """Dates and times, which rows of Parquet files hold, as text.

    Raises:
        UserError: bytes, say.
    """
    if isinstance(value, date | time_of_day):
        return value.isoformat()
    raise UserError(f"a column holds {type(value).__name__}, which is no text; leave it out")
