"""One labeler's turn: what is his, whether there is room for his answer, what is kept of it.

Part of one transaction, which `store.Store` begins and ends.
"""

import json
import sqlite3
from datetime import UTC, datetime
from typing import NamedTuple

from data_prep.labeling import queue
from data_prep.labeling.items import Item, shown
from data_prep.labeling.project import Project, Task
from instruct.errors import UserError
from instruct.plain_text import one_line

MINE = """
SELECT a.state, a.reopened, n.answer, n.reason, n.seconds, i.row, i.is_screening, a.shown_order,
  a.taken
FROM assignments a JOIN items i ON i.id = a.item LEFT JOIN answers n ON n.id = a.answer
WHERE a.labeler = ? AND a.item = ?
"""


class Mine(NamedTuple):
    """An item of his, as the database has it: `answer`, `row` and `order` are JSON.

    What he answered or skipped is so also while it is reopened, until he saves anew.
    """

    state: str
    reopened: int
    answer: str | None
    reason: str | None
    seconds: float | None
    row: str
    is_screening: int
    order: str
    taken: float


class Turn:
    """What one labeler may do now.

    Attributes:
        since: who took an item before this moment and has not answered it has left it.
    """

    def __init__(self, db: sqlite3.Connection, project: Project, labeler: str, now: float):
        self.db, self.project, self.labeler, self.now = db, project, labeler, now
        self.since = now - 60 * project.lease_minutes

    def his_item(self) -> int | None:
        """The item that he has: of those that he undid the earliest, else the one he took."""
        # he goes on from where he went back to
        for which in ("reopened = 1 ORDER BY answer", "state = 'held' ORDER BY taken"):
            query = f"SELECT item FROM assignments WHERE labeler = ? AND {which}"
            for (item,) in self.db.execute(query, [self.labeler]).fetchall():
                if self._keeps(item):
                    return item
        return None

    def new_item(self) -> int | None:
        """The next item of the queue, from now on his; None where nothing is left for him."""
        item = queue.next_item(self.db, self.labeler, self.project.per_item, self.since)
        if item is None:
            return None
        query = "SELECT key, row FROM items WHERE id = ?"
        key, row = self.db.execute(query, [item]).fetchone()
        outputs = Item(json.loads(row)).outputs
        order = queue.drawn_order(key, self.labeler, outputs, self.project.seed)
        # one that he left before is his again, in the order that he saw
        self.db.execute(
            "INSERT INTO assignments (labeler, item, state, taken, shown_order) "
            "VALUES (?, ?, 'held', ?, ?) ON CONFLICT DO UPDATE SET state = 'held', "
            "taken = excluded.taken",
            [self.labeler, item, self.now, json.dumps(order)],
        )
        return item

    def reopened(self) -> int | None:
        """His latest item that is through, open again; None where there is none."""
        done = self.db.execute(
            "SELECT item, state FROM assignments WHERE labeler = ? AND answer IS NOT NULL "
            "AND reopened = 0 AND state IN ('answered', 'skipped') ORDER BY answer DESC",
            [self.labeler],
        ).fetchall()
        # what he skipped may have gone to somebody else by now
        item = next((i for i, state in done if state == "answered" or self._has_room(i)), None)
        if item is not None:
            self._set("reopened = 1, taken = ?", item, self.now)
        return item

    def task(self, item: int) -> Task:
        """What he is shown of an item of his."""
        mine = self._mine(item)
        return Task(
            item,
            self.project.kind,
            shown(json.loads(mine.row)),
            tuple(json.loads(mine.order)),
            bool(mine.is_screening),
            mine.answer and json.loads(mine.answer),
            mine.reason,
        )

    def state_of(self, item: int) -> Mine:
        """What the database has of an item of his.

        Raises:
            UserError: it was never given to him.
        """
        # larger numbers are none to SQLite
        number = isinstance(item, int) and not isinstance(item, bool) and 0 < item < 2**63
        found = self._mine(item) if number else None
        if found is None:
            told = one_line(str(item), 40)
            raise UserError(f"item {told} is none of yours; load the page again")
        return found

    def check_room(self, item: int, mine: Mine) -> None:
        """That an answer to an item of his is one that is asked for.

        Raises:
            UserError: he left it out, or was so late that another has it.
        """
        if mine.state == "skipped" and not mine.reopened:
            raise UserError(f"item {item} was left out by you; undo to answer it")
        # who holds it in time is one of those that there is room for
        if mine.state == "answered" or self._has_room(item):
            return
        raise UserError(
            f"item {item} went to another labeler, as you had it for more than "
            f"{self.project.lease_minutes:g} minutes; this answer is not stored, take the next"
        )

    def save(
        self,
        item: int,
        state: str,
        seconds: float,
        answer: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Adds an answer (JSON) or the reason of a skip, which counts from now on."""
        now = datetime.fromtimestamp(self.now, UTC).isoformat(timespec="seconds")
        added = self.db.execute(
            "INSERT INTO answers (item, labeler, answer, reason, seconds, timestamp) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [item, self.labeler, answer, reason, seconds, now],
        )
        self._set("reopened = 0, state = ?, answer = ?", item, state, added.lastrowid)
        queue.close_if_full(self.db, item, self.project.per_item)

    def _mine(self, item: int) -> Mine | None:
        found = self.db.execute(MINE, [self.labeler, item]).fetchone()
        return found and Mine(*found)

    def _set(self, columns: str, item: int, *values) -> None:
        self.db.execute(
            f"UPDATE assignments SET {columns} WHERE labeler = ? AND item = ?",
            [*values, self.labeler, item],
        )

    def _has_room(self, item: int) -> bool:
        return queue.has_room(self.db, item, self.labeler, self.project.per_item, self.since)

    def _keeps(self, item: int) -> bool:
        """Whether an item is still his, then anew from now; else it is another's."""
        mine = self._mine(item)
        if mine.state != "answered" and mine.taken <= self.since and not self._has_room(item):
            # what he had skipped before he went back to it is skipped as before
            self._set("reopened = 0, state = iif(state = 'held', 'lapsed', state)", item)
            return False
        self._set("taken = ?", item, self.now)
        return True
