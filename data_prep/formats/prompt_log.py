"""A row of a prompt log -> the prompts in it, checked, and the key under which they are duplicates.

The prompt is a column of its own, an instruction with its input, or the user turns of a
conversation in any shape of `instruct/conversations.py`. What is no prompt raises `Malformed`, with
a reason that never quotes the row: it may be personal.
"""

import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_prep.formats import bounded
from instruct.conversations import (
    ABOUT_COLUMNS,
    CONVERSATION_COLUMNS,
    QUESTION_COLUMNS,
    first_of,
    listed_turns,
    marked_turns,
    messages_of,
    role_of,
    takes_input,
    with_input,
)
from instruct.errors import UserError

FIRST_ROWS = 100  # rows that the shape of a log is told by
ASCII = re.compile("[\x00-\x7f]")
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class LogFormat:
    """Which columns hold what, and how long the prefix is that makes two prompts duplicates."""

    prompt: str = "prompt"
    user: str = "user_id"
    time: str = "timestamp"
    id: str = "id"
    messages: str | None = None  # None: found by its name
    turns: str = "first"  # of a conversation: "first" user turn, or "all"
    prefix_chars: int = 200
    ride_along: tuple[str, ...] | None = None  # other columns to copy; None for all
    language: bool = False  # detect the language of every prompt
    role: str | None = None  # who says it, where every message is a row (OpenAssistant)
    in_text: bool = False  # prompts are conversations as text: JSON lists, or turns with markers

    @functools.cached_property
    def used(self) -> frozenset[str | None]:
        return frozenset((self.prompt, self.user, self.time, self.id, self.messages))

    def rides_along(self, column: str, row: dict) -> bool:
        """Whether this other column of the row is copied to the outputs."""
        if self.ride_along is not None and column not in self.ride_along:
            return False
        # what became prompts does not: it may hold what was removed from them
        turned_into_prompts = column in CONVERSATION_COLUMNS and self.prompt not in row
        about = column in ABOUT_COLUMNS and takes_input(self.prompt)
        return column not in self.used and not turned_into_prompts and not about


class Malformed(Exception):
    """A row that is no prompt. The message names columns and types, never contents."""


class LoggedPrompt(NamedTuple):
    """One prompt of a row: its text, what was said before it (JSON), and which user turn it is."""

    text: str
    history: str | None = None
    turn: int = 0


# --- duplicates -----------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """What duplicates are sought under: NFC, runs of white space to one space, stripped."""
    # most are, and ASCII is NFC already
    if not text.isascii():
        text = unicodedata.normalize("NFC", BEYOND_LATIN.sub(_with_marks_in_order, text))
    # of all white space a space alone is printable: to look takes a third of what words take
    if text.isprintable() and "  " not in text:
        return text.strip(" ")
    return " ".join(text.split())


# `unicodedata` sorts a run of marks by insertion: in quadratic time, unless it is in order already
# Marks begin at U+0300. One character by itself first: the search for it is six times faster.
BEYOND_LATIN = re.compile("[^\x00-\u02ff][^\x00-\u02ff]{31,}")


def _with_marks_in_order(match: re.Match) -> str:
    text, (marks, runs) = match.group(), _marks()
    # every 16th character misses no run of 32
    return text if marks.isdisjoint(text[::16]) else runs.sub(_in_order, text)


@functools.cache
def _marks() -> tuple[frozenset[str], re.Pattern]:
    """All marks, and a pattern for more of them on one letter than any language has."""
    # beyond these planes there is none
    candidates = map(chr, range(0x300, 0x20000))
    # decomposed: some have class 0 themselves
    marks = [c for c in candidates if unicodedata.combining(unicodedata.normalize("NFD", c)[0])]
    return frozenset(marks), re.compile(f"[{''.join(map(re.escape, marks))}]{{32,}}")


def _in_order(run: re.Match) -> str:
    """The marks decomposed, in canonical order: a stable sort by combining class."""
    # one by one, as a whole run would be sorted by insertion here as well
    marks = "".join(unicodedata.normalize("NFD", mark) for mark in run.group())
    return "".join(sorted(marks, key=unicodedata.combining))


def prefix_key(prompt: str, history: str | None, prefix_chars: int) -> str:
    """Rows with one key are duplicates: equal first characters, normalised, after the same history.

    A prompt shorter than the prefix has its whole text as key, so it only meets exact duplicates of
    itself.
    """
    prefix = _normalised_prefix(prompt, prefix_chars)
    # \0 between: the end of one must not pass for the beginning of the other
    text = prefix if history is None else f"{prefix}\0{normalise(history)}"
    # a short key of one length: engines group by it without the texts; a lone surrogate is found
    # when its row is written
    data = text.encode(errors="surrogatepass")
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _normalised_prefix(text: str, chars: int) -> str:
    """The first characters of `normalise(text)`; a long text is not gone through to its end."""
    # white space takes some
    size = chars + chars // 4
    while size < len(text):
        # nothing composes with ASCII behind it, so what stands before can be normalised alone
        cut = ASCII.search(text, size)
        known = normalise(text[: cut.start() if cut else len(text)])
        # normalised first, so that white space does not use up the prefix
        if len(known) >= chars:
            return known[:chars]
        size *= 4
    return normalise(text)[:chars]


# --- values ---------------------------------------------------------------------------------------


def as_identifier(value: Any, column: str) -> int | str | None:
    """An id or user id as int or text; None when missing (null, NaN, empty)."""
    # nearly every id; `type`, as True is an int
    if type(value) is int:
        return value
    # missing values as JSON, CSV and pandas write them
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # pandas writes integer columns with gaps as floats
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise Malformed(f"{column} is {type(value).__name__}, expected text or a whole number")


def as_microseconds(value: Any, column: str) -> int | None:
    """A time in microseconds since 1970 (UTC where no zone is given); None when missing."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = _time_of(value, column)
    if isinstance(value, datetime.datetime):
        value = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        # in whole numbers: `timestamp()` is a float of seconds and rounds
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, datetime.date):
        return (value - EPOCH.date()).days * 86_400_000_000
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Malformed(f"{column} is {type(value).__name__}, expected a time")
    if value != value:  # NaN: how pandas writes a missing number
        return None
    # seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by size
    # 1e11 seconds are the year 5138, 1e11 milliseconds 1973
    size = abs(value)
    if size < 1e11:
        return value * 1_000_000 if type(value) is int else round(value * 1e6)
    if size < 1e14:
        return value * 1_000 if type(value) is int else round(value * 1e3)
    if size < 1e17:
        return int(value)
    if size < 9e18:
        return int(value) // 1_000
    raise Malformed(f"{column} is not a point in time")


def _time_of(text: str, column: str) -> datetime.datetime | float:
    try:
        # first, as "20240131" is a date, not seconds
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise Malformed(f"{column} is neither ISO 8601 nor a number of seconds") from None


# --- conversations --------------------------------------------------------------------------------


def as_turns(messages: Any, column: str) -> list[dict[str, str]]:
    """A conversation in any shape as [{role, content}]; the call of a tool says nothing."""
    try:
        turns = messages_of(messages)
    except UserError as error:
        raise Malformed(f"{column} {error}") from None
    # CSV files, and our own output, hold conversations as JSON text; other text is none
    if isinstance(messages, str) and turns == [{"role": "user", "content": messages}]:
        raise Malformed(f"{column} is text, expected a list of messages")
    return [{"role": turn["role"], "content": turn.get("content") or ""} for turn in turns]


def shape_of(rows: list[dict], form: LogFormat) -> tuple[str, LogFormat]:
    """What a log is, by its first rows: a name to say, and its form with what they show.

    By the file, not by the row: one prompt that is a JSON list may be what somebody asked.
    """
    marked, listed = _talks(rows, form.prompt)
    columns = dict.fromkeys(column for row in rows for column in row)
    if form.messages is None and form.prompt in columns:
        names = {"HH prompts": marked, "prompts in JSON lists": listed}
        name = next((name for name, is_so in names.items() if is_so), "prompts")
        return name, dataclasses.replace(form, in_text=marked or listed)
    column = form.messages or first_of(CONVERSATION_COLUMNS, columns)
    if column is not None:
        return f"conversations ({column})", form
    column = first_of(QUESTION_COLUMNS, columns)
    # a column that was named by a flag is that column
    if column is None or form.prompt != LogFormat.prompt:
        return "prompts", form
    if "role" in columns:
        return "messages, one a row", dataclasses.replace(form, prompt=column, role="role")
    # a whole dialogue as text is no prompt: its answers would be asked
    return f"questions ({column})", dataclasses.replace(
        form, prompt=column, in_text=any(_talks(rows, column))
    )


def _talks(rows: list[dict], column: str) -> tuple[bool, bool]:
    """Whether a column holds texts with markers before their turns; whether all are JSON lists."""
    values = [row.get(column) for row in rows]
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    marked = any(marked_turns(text) for text in texts)
    return marked, bool(texts) and all(listed_turns(text) for text in texts)


def prompts_of(row: dict, form: LogFormat) -> list[LoggedPrompt]:
    """The prompts in a row: one, or with `turns="all"` one for every user turn of a conversation.

    Raises:
        Malformed: there is none.
    """
    if form.role is not None:
        _check_asked_first(row, form.role)
    column = form.messages
    # a prompt column goes before a conversation that rides along
    if column is None and form.prompt not in row:
        column = first_of(CONVERSATION_COLUMNS, row)
    value = row.get(form.prompt)
    if column is None and (isinstance(value, list | dict) or (form.in_text and _is_talk(value))):
        column = form.prompt
    if column is not None:
        found = _prompts_of_conversation(row, column, form)
    elif form.prompt not in row:
        raise Malformed(f"no column {form.prompt!r}")
    elif not isinstance(value, str):
        # the type only: a reason never quotes the row
        kind = "null" if value is None else type(value).__name__
        raise Malformed(f"{form.prompt} is {kind}, expected text")
    else:
        found = [LoggedPrompt(with_input(row, form.prompt))]
    if not found[0].text.strip():
        raise Malformed(f"{form.prompt} is empty")
    return found


def _check_asked_first(row: dict, column: str) -> None:
    """That a message is the user's, and the first of its thread: it then asks by itself."""
    try:
        role = role_of(str(row.get(column)))
    except UserError as error:
        raise Malformed(f"{column} {error}") from None
    if role != "user" or row.get("parent_id") is not None:
        raise Malformed("not the first message of a thread, or not the user's")


def _is_talk(value: Any) -> bool:
    return isinstance(value, str) and bool(listed_turns(value) or marked_turns(value))


def _has_speakers(value: Any) -> bool:
    turns = listed_turns(value) if isinstance(value, str) else value
    return not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns)


def _prompts_of_conversation(row: dict, column: str, form: LogFormat) -> list[LoggedPrompt]:
    if column not in row:
        raise Malformed(f"no column {column!r}")
    value = row[column]
    turns = as_turns(value, column)
    # in a prompt's column, texts are what the user said in turn, without the answers
    if column == form.prompt and not _has_speakers(value):
        turns = turns[:1]
    # empty turns ask nothing, but stay in the history
    asked = [
        i for i, turn in enumerate(turns) if turn["role"] == "user" and turn["content"].strip()
    ]
    if not asked:
        raise Malformed(f"{column} has no user turn")
    if form.turns != "all":
        return [LoggedPrompt(turns[asked[0]]["content"])]
    # every prompt repeats all turns before it: a thousand turns come to five hundred times the row
    sizes = list(itertools.accumulate(len(turn["content"]) for turn in turns))
    if sum(sizes[i] for i in asked) > bounded.LONGEST_ROW:
        raise Malformed(f"{column} with the histories of its turns is {bounded.too_long()}")
    return [
        LoggedPrompt(
            text=turns[i]["content"],
            history=json.dumps(turns[:i], ensure_ascii=False) if i else None,
            turn=number,
        )
        for number, i in enumerate(asked)
    ]
