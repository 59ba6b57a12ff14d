"""Who gets which item next. Every function is part of a transaction that its caller began.

An item goes to `per_item` labelers, some go to all. It counts as taken by who has answered it and
by who holds it (or went back to what he had skipped) and took it after `since`: one that was left
longer ago is free again.
"""

import hashlib
import random
import sqlite3

# the first item that he has not had and that has room, screening first, then as in the file
NEXT = """
SELECT i.id FROM items i
WHERE i.open = 1
  AND NOT EXISTS (
    SELECT 1 FROM assignments mine
    WHERE mine.labeler = :labeler AND mine.item = i.id AND mine.state <> 'lapsed')
  AND (i.to_all = 1 OR :per_item > (
    SELECT count(*) FROM assignments a
    WHERE a.item = i.id
      AND (a.state = 'answered'
        OR ((a.state = 'held' OR a.reopened = 1) AND a.taken > :since))))
ORDER BY i.is_screening DESC, i.id LIMIT 1
"""
TAKEN = """
SELECT count(*) FROM assignments
WHERE item = :item AND labeler <> :labeler
  AND (state = 'answered' OR ((state = 'held' OR reopened = 1) AND taken > :since))
"""
# enough answers, or so many who could not that another would not either
CLOSED = """
UPDATE items SET open = to_all OR (
  (SELECT count(*) FROM assignments WHERE item = :item AND state = 'answered') < :per_item
  AND (SELECT count(*) FROM assignments WHERE item = :item AND state = 'skipped') <= :per_item)
WHERE id = :item
"""
# of what is open, what he is through with, and what others hold and leave no room in
HAD = """
SELECT count(*) FROM assignments a JOIN items i ON i.id = a.item
WHERE a.labeler = :labeler AND a.state IN ('answered', 'skipped') AND i.open = 1
"""
FULL = """
SELECT count(*) FROM (
  SELECT item FROM assignments WHERE state = 'held'
  UNION SELECT item FROM assignments WHERE reopened = 1) h
JOIN items i ON i.id = h.item
WHERE i.open = 1 AND i.to_all = 0
  AND NOT EXISTS (
    SELECT 1 FROM assignments mine WHERE mine.labeler = :labeler AND mine.item = i.id
      AND mine.state IN ('answered', 'skipped'))
  AND :per_item <= (
    SELECT count(*) FROM assignments a
    WHERE a.item = i.id AND a.labeler <> :labeler
      AND (a.state = 'answered'
        OR ((a.state = 'held' OR a.reopened = 1) AND a.taken > :since)))
"""


def next_item(
    connection: sqlite3.Connection, labeler: str, per_item: int, since: float
) -> int | None:
    """The number of an item for this labeler; None where nothing is left for him."""
    values = {"labeler": labeler, "per_item": per_item, "since": since}
    found = connection.execute(NEXT, values).fetchone()
    return found and found[0]


def has_room(
    connection: sqlite3.Connection, item: int, labeler: str, per_item: int, since: float
) -> bool:
    """Whether this labeler's answer is one of the `per_item` that are asked for."""
    to_all = connection.execute("SELECT to_all FROM items WHERE id = ?", [item]).fetchone()[0]
    values = {"item": item, "labeler": labeler, "since": since}
    return bool(to_all) or connection.execute(TAKEN, values).fetchone()[0] < per_item


def close_if_full(connection: sqlite3.Connection, item: int, per_item: int) -> None:
    """Takes an item out of the queue, or puts it back, after somebody answered or skipped it."""
    connection.execute(CLOSED, {"item": item, "per_item": per_item})


def left_for(connection: sqlite3.Connection, labeler: str, per_item: int, since: float) -> int:
    """How many items this labeler may still get, what he holds included; not what he reopened."""
    values = {"labeler": labeler, "per_item": per_item, "since": since}
    counts = ("SELECT count(*) FROM items WHERE open = 1", HAD, FULL)
    all_open, had, full = (connection.execute(q, values).fetchone()[0] for q in counts)
    return all_open - had - full


def left_to_do(connection: sqlite3.Connection, per_item: int) -> int:
    """How many answers are missing: of an item for all, those of the labelers seen so far."""
    some = connection.execute(
        "SELECT coalesce(sum(:per_item - (SELECT count(*) FROM assignments a "
        "WHERE a.item = i.id AND a.state = 'answered')), 0) "
        "FROM items i WHERE i.open = 1 AND i.to_all = 0",
        {"per_item": per_item},
    ).fetchone()[0]
    people = connection.execute("SELECT count(DISTINCT labeler) FROM assignments").fetchone()[0]
    to_all, had = connection.execute(
        "SELECT (SELECT count(*) FROM items WHERE to_all = 1), (SELECT count(*) FROM assignments a "
        "JOIN items i ON i.id = a.item WHERE i.to_all = 1 AND a.state IN ('answered', 'skipped'))"
    ).fetchone()
    return some + max(people, 1) * to_all - had


def goes_to_all(key: str, overlap: float, seed: int) -> bool:
    """Whether an item is one of the share `overlap` that all labelers get.

    By its key: it stays so when rows are added to the file.
    """
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") < overlap * 2**56


def drawn_order(key: str, labeler: str, count: int, seed: int) -> list[int]:
    """Which output of the row stands at each place that this labeler sees."""
    order = list(range(count))
    random.Random(f"{seed} {key} {labeler}").shuffle(order)
    return order
