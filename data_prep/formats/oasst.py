"""OpenAssistant's conversations, as trees or as one message a row -> rankings.

Where replies of an assistant to one message have a `rank` (0 = best), they are a ranking, together
with the turns before them. A tree so becomes several.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from data_prep.formats.misfit import Misfit
from data_prep.formats.preference_shapes import misfits
from instruct.conversations import messages_of
from instruct.errors import UserError
from instruct.ranking import ranked
from instruct.rows.row_checks import fault_of

READ_OF_TREES = ("prompt",)
READ_OF_MESSAGES = ("message_id", "parent_id", "text", "role", "rank", "prompt", "replies")


def is_trees(columns: set[str], first_rows: list[dict]) -> bool:
    """One tree a row: `prompt` is its first message, with `replies`."""
    return any("replies" in row["prompt"] for row in first_rows if _is_object(row.get("prompt")))


def is_messages(columns: set[str], first_rows: list[dict]) -> bool:
    return columns.issuperset(("message_id", "parent_id", "text", "role"))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def turn_of(message: dict) -> dict:
    """A message of OpenAssistant's as ours.

    Raises:
        Misfit: an unknown role, or no text.
    """
    try:
        turn = messages_of([{"role": message.get("role"), "content": message.get("text")}])[0]
    except UserError as error:
        raise Misfit(str(error)) from error
    if not isinstance(turn["content"], str):
        raise Misfit("a message without a text")
    return turn


def is_ranked(reply: dict) -> bool:
    """Whether it counts in a ranking: an assistant's, not deleted, with a rank."""
    return (
        reply.get("role") in ("assistant", "gpt", "bot")
        and reply.get("rank") is not None
        and not reply.get("deleted")
    )


def _ranking(thread: list[dict], replies: list[dict]) -> dict:
    ranks = [reply["rank"] for reply in replies]
    if fault := fault_of("ranks", ranks):
        raise Misfit(f"'rank' {fault}")
    return ranked(thread, [turn_of(reply)["content"] for reply in replies], ranks)


################
# Trees
################


@misfits
def tree(row: dict) -> list[dict]:
    """Every ranking in a tree."""
    root = row["prompt"]
    if not _is_object(root):
        raise Misfit("'prompt' is no message with replies")
    about = {"prompt_id": row.get("message_tree_id") or root.get("message_id")}
    if root.get("user_id") is not None:
        about["user_id"] = root["user_id"]
    found, left = [], [(root, [])]
    # not by recursion: a thread may be long
    while left:
        message, before = left.pop()
        thread = [*before, turn_of(message)]
        replies = message.get("replies") or []
        if not isinstance(replies, list) or not all(map(_is_object, replies)):
            raise Misfit("'replies' is no list of messages")
        counted = [reply for reply in replies if is_ranked(reply)]
        if len(counted) > 1:
            found.append({**_ranking(thread, counted), **about})
        left += [(reply, thread) for reply in reversed(replies) if not reply.get("deleted")]
    if not found:
        raise Misfit("no message with two ranked replies")
    return found


################
# Messages
################


class Thread(NamedTuple):
    """The rows of a thread from its first message on, or why a message is in none."""

    rows: list[int]
    broken: str | None = None


def threads_of(rows: list[dict]) -> list[Thread]:
    """The thread of each message, itself the last."""
    places: dict[Any, int] = {}
    for i, row in enumerate(rows):
        places.setdefault(row.get("message_id"), i)
    threads = []
    for i, row in enumerate(rows):
        line, seen, broken, at = [i], {i}, None, row
        if row.get("message_id") is None or places[row["message_id"]] != i:
            broken = "no `message_id` of its own"
        while broken is None and at.get("parent_id") is not None:
            parent = places.get(at["parent_id"])
            if parent is None:
                broken = "its parent is not in the file"
            elif parent in seen:
                broken = "its parents go in a circle"
            else:
                line.append(parent)
                seen.add(parent)
                at = rows[parent]
        threads.append(Thread(line[::-1], broken))
    return threads


def ranked_siblings(rows: list[dict]) -> Iterator[tuple[list[int], dict | Misfit]]:
    """(indices of the rows of a thread and its ranked replies, one row of them) for each."""
    threads, groups = threads_of(rows), {}
    for i, (row, thread) in enumerate(zip(rows, threads, strict=True)):
        if is_ranked(row) and thread.broken is None and len(thread.rows) > 1:
            groups.setdefault(thread.rows[-2], []).append(i)
    used = set()
    for parent, members in groups.items():
        if len(members) > 1:
            above = threads[parent].rows
            used.update(above, members)
            first = rows[above[0]]
            joined = {k: v for k, v in first.items() if k not in READ_OF_MESSAGES}
            joined["prompt_id"] = first.get("message_tree_id") or first["message_id"]
            joined["prompt"] = [rows[i] for i in above]
            joined["replies"] = [rows[i] for i in members]
            yield [*above, *members], joined
    for i, thread in enumerate(threads):
        if i not in used:
            yield [i], Misfit(thread.broken or "in no thread with two ranked replies")


@misfits
def siblings(row: dict) -> dict:
    """A group of `ranked_siblings` as a ranking."""
    return _ranking([turn_of(message) for message in row["prompt"]], row["replies"])
