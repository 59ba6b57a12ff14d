"""OpenAssistant's conversations, as trees or as one message a row -> rankings, demonstrations.

Where replies of an assistant to one message have a `rank` (0 = best), they are a ranking, together
with the turns before them. A tree so becomes several. A demonstration is the best reply, to turns
of which the assistant's were the best, too.
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
ASSISTANT = ("assistant", "gpt", "bot")
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
        reply.get("role") in ASSISTANT
        and reply.get("rank") is not None
        and not reply.get("deleted")
    )


def best_reply(replies: list[dict]) -> dict | None:
    """The assistant's reply of the best rank, or its only one; None where nobody can say."""
    theirs = [r for r in replies if r.get("role") in ASSISTANT and not r.get("deleted")]
    counted = [reply for reply in theirs if is_ranked(reply)]
    if not counted:
        return theirs[0] if len(theirs) == 1 else None
    ranks = [reply["rank"] for reply in counted]
    if fault := fault_of("ranks", ranks):
        raise Misfit(f"'rank' {fault}")
    return counted[ranks.index(min(ranks))]


def _demonstration(thread: list[dict], reply: dict) -> dict:
    prompt, completion = thread, turn_of(reply)
    if fault := fault_of("prompt", prompt):
        raise Misfit(f"the prompt {fault}")
    return {"prompt": prompt, "completion": [completion]}


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
    about = _about(row)
    about["prompt_id"] = row.get("message_tree_id") or row["prompt"].get("message_id")
    found = []
    for thread, replies in _threads_in(row, only_best=False):
        counted = [reply for reply in replies if is_ranked(reply)]
        if len(counted) > 1:
            found.append({**_ranking(thread, counted), **about})
    if not found:
        raise Misfit("no message with two ranked replies")
    return found


@misfits
def best_of_tree(row: dict) -> list[dict]:
    """Every demonstration in a tree."""
    about = _about(row)
    found = []
    for thread, replies in _threads_in(row, only_best=True):
        best = best_reply(replies) if thread[-1]["role"] == "user" else None
        if best:
            found.append({**_demonstration(thread, best), **about})
    if not found:
        raise Misfit("no message with a best reply")
    return found


def _about(row: dict) -> dict:
    """Whose the tree is: all that comes of it belongs on one side of a split."""
    if not _is_object(row.get("prompt")):
        raise Misfit("'prompt' is no message with replies")
    user = row["prompt"].get("user_id")
    return {} if user is None else {"user_id": user}


def _threads_in(row: dict, only_best: bool) -> Iterator[tuple[list[dict], list[dict]]]:
    """(the turns up to a message, its replies) of every message of a tree.

    Args:
        only_best: leaves out what follows the assistant's other replies.
    """
    left = [(row["prompt"], [])]
    # not by recursion: a thread may be long
    while left:
        message, before = left.pop()
        thread = [*before, turn_of(message)]
        replies = message.get("replies") or []
        if not isinstance(replies, list) or not all(map(_is_object, replies)):
            raise Misfit("'replies' is no list of messages")
        yield thread, replies
        best = best_reply(replies) if only_best else None
        left += [
            (reply, thread)
            for reply in reversed(replies)
            if not reply.get("deleted")
            and (reply is best or not only_best or reply.get("role") not in ASSISTANT)
        ]


################
# Messages
################


class Thread(NamedTuple):
    """The rows of a thread from its first message on, or why a message is in none."""

    rows: list[int]
    broken: str | None = None


def threads_of(rows: list[dict]) -> list[Thread]:
    """The thread of each message, itself the last."""
    places: dict[str | int, int] = {}
    for i, row in enumerate(rows):
        if (name := _id(row, "message_id")) is not None:
            places.setdefault(name, i)
    threads = []
    for i, row in enumerate(rows):
        line, seen, broken, at = [i], {i}, None, row
        name = _id(row, "message_id")
        if name is None or places[name] != i:
            broken = "no `message_id` of its own"
        while broken is None and at.get("parent_id") is not None:
            parent = places.get(_id(at, "parent_id"))
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
    threads = threads_of(rows)
    groups = [
        (parent, ranked)
        for parent, replies in _replies(rows, threads).items()
        if len(ranked := [i for i in replies if is_ranked(rows[i])]) > 1
    ]
    yield from _joined(rows, threads, groups, "in no thread with two ranked replies", True)


def best_siblings(rows: list[dict]) -> Iterator[tuple[list[int], dict | Misfit]]:
    """(indices of the rows of a thread and its best reply, one row of them) for each."""
    threads, best = threads_of(rows), {}
    for parent, replies in _replies(rows, threads).items():
        reply = best_reply([rows[i] for i in replies])
        if reply is not None and rows[parent].get("role") not in ASSISTANT:
            best[parent] = next(i for i in replies if rows[i] is reply)
    good = set(best.values())
    groups = [
        (parent, [reply])
        for parent, reply in best.items()
        if all(i in good or rows[i].get("role") not in ASSISTANT for i in threads[parent].rows)
    ]
    yield from _joined(rows, threads, groups, "in no thread of best replies", False)


def _id(row: dict, column: str) -> str | int | None:
    # a list cannot be looked up
    value = row.get(column)
    return value if isinstance(value, str | int) else None


def _replies(rows: list[dict], threads: list[Thread]) -> dict[int, list[int]]:
    """{a message: its replies}, of whole threads in which nothing is deleted."""
    found: dict[int, list[int]] = {}
    for i, thread in enumerate(threads):
        whole = thread.broken is None and not any(rows[j].get("deleted") for j in thread.rows)
        if whole and len(thread.rows) > 1:
            found.setdefault(thread.rows[-2], []).append(i)
    return found


def _joined(
    rows: list[dict],
    threads: list[Thread],
    groups: list[tuple[int, list[int]]],
    unused: str,
    prompt_ids: bool,
) -> Iterator[tuple[list[int], dict | Misfit]]:
    """One row for each (message, replies) that count, and why the rows of none are in none."""
    used = set()
    for parent, replies in groups:
        above = threads[parent].rows
        used.update(above, replies)
        first = rows[above[0]]
        joined = {k: v for k, v in first.items() if k not in READ_OF_MESSAGES}
        if prompt_ids:
            joined["prompt_id"] = first.get("message_tree_id") or first["message_id"]
        joined["prompt"] = [rows[i] for i in above]
        joined["replies"] = [rows[i] for i in replies]
        yield [*above, *replies], joined
    for i, thread in enumerate(threads):
        if i not in used:
            yield [i], Misfit(thread.broken or unused)


@misfits
def siblings(row: dict) -> dict:
    """A group of `ranked_siblings` as a ranking."""
    return _ranking([turn_of(message) for message in row["prompt"]], row["replies"])


@misfits
def best_sibling(row: dict) -> dict:
    """A group of `best_siblings` as a demonstration."""
    return _demonstration([turn_of(message) for message in row["prompt"]], row["replies"][0])
