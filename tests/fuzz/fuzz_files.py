"""Files as people may give them: rows that are nearly right, in every format, whole and damaged."""

import csv
import gzip
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

SURROGATE = "half \ud83d of it"
HUGE = 10**400
ENDINGS = ("jsonl", "json", "jsonl.gz", "csv", "parquet", "jsonl.zst", "data.json", "utf16.jsonl")


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


# what is in nobody's format: one of these takes the place of a right value
WRONG = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, 1, -1, 2.5, 10**20, HUGE, math.nan, math.inf, -math.inf),
            *("", " ", "\0", SURROGATE, "NA", "null", "None", "\u202eevil", "\x1b[2J", "é\u0301"),
            *([], {}, [None], [[]], ["a", 1], [1, "a"], [{}], {"a": None}),
            *([{"role": "user"}], [{"role": "user", "content": None}], [{"from": "human"}]),
            *([{"role": 1, "content": "x"}], [{"role": "critic", "content": "x"}], nested(40)),
            *([{"role": "user", "content": [{"type": "text", "text": "x"}]}], nested(400)),
        ]
    ),
    st.text(st.characters(exclude_categories=()), max_size=12),
    st.integers(),
    st.floats(),
)
ANY_JSON = st.recursive(
    WRONG,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)


@dataclass
class Source:
    """A file that a command is given.

    Attributes:
        rows: how many rows are in it; None where damage makes that a matter of opinion.
    """

    name: str
    content: bytes
    rows: int | None

    def write(self, folder: Path) -> str:
        path = folder / self.name
        path.write_bytes(self.content)
        return str(path)


def json_of(row) -> bytes:
    # surrogates as they are, which no UTF-8 has; and as JSON escapes, which all readers take
    return json.dumps(row).encode()


def _jsonl(rows: list[dict]) -> bytes:
    return b"".join(json_of(row) + b"\n" for row in rows)


def _csv(rows: list[dict]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["prompt"]
    out = io.StringIO(newline="")
    table = csv.writer(out)
    table.writerow(names)
    for row in rows:
        cells = [row.get(name) for name in names]
        table.writerow(
            [c if c is None or isinstance(c, str) else json.dumps(c)[:2000] for c in cells]
        )
    return out.getvalue().encode("utf-8", "surrogatepass")


def _parquet(rows: list[dict]) -> bytes | None:
    """None where Arrow has no column for these rows: nobody could have written that file."""
    names = dict.fromkeys(name for row in rows for name in row)
    out = io.BytesIO()
    try:
        table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        pq.write_table(table, out)
    except (pa.ArrowException, OverflowError, UnicodeError, RecursionError):
        return None
    return out.getvalue()


def encode(rows: list[dict], ending: str) -> bytes:
    if ending == "json":
        return b"[" + b",\n".join(map(json_of, rows)) + b"]"
    if ending == "data.json":
        return b'{"version": 1, "data": ' + encode(rows, "json") + b"}"
    if ending == "jsonl.zst":
        out = pa.BufferOutputStream()
        with pa.CompressedOutputStream(out, "zstd") as packed:
            packed.write(_jsonl(rows))
        return out.getvalue().to_pybytes()
    if ending == "utf16.jsonl":
        return _jsonl(rows).decode().encode("utf-16")
    if ending == "csv":
        return _csv(rows)
    if ending == "parquet":
        return _parquet(rows) or _jsonl(rows)
    return gzip.compress(_jsonl(rows)) if ending == "jsonl.gz" else _jsonl(rows)


# bytes -> bytes: what becomes of files on the way
DAMAGE = {
    "cut": lambda content: content[: len(content) * 2 // 3],
    "empty": lambda content: b"",
    "binary": lambda content: b"\xff\xfe\x00" + content[::-1],
    "latin": lambda content: content + "caf\u00e9 au lait\n".encode("latin-1"),
    "nul": lambda content: content.replace(b" ", b"\0", 1),
    "deep": lambda content: content + b"[" * 100_000 + b"\n",
    "deep row": lambda content: content + b'{"prompt": ' + b"[" * 3000 + b"]" * 3000 + b"}\n",
    "digits": lambda content: content + b'{"prompt": ' + b"1" * 5000 + b"}\n",
    "pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\nsize 1\n",
    "twice": lambda content: content + content,
    "no row": lambda content: content + b"3\n",
}
# these leave the rows as they are
HARMLESS = {
    "bom": lambda content: b"\xef\xbb\xbf" + content,
    "crlf": lambda content: content.replace(b"\n", b"\r\n"),
    "blank lines": lambda content: content.replace(b"\n", b"\n\n"),
}


@st.composite
def rows(draw, row: st.SearchStrategy, most: int = 6) -> list[dict]:
    """Rows by a strategy, most of them right; in half of the lists something is wrong in some."""
    found = [dict(r) for r in draw(st.lists(row, min_size=1, max_size=most))]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        victim = draw(st.sampled_from(found))
        change = draw(st.sampled_from(["value", "value", "value", "drop", "add", "again"]))
        name = draw(st.sampled_from([*victim, "id", "user_id", "source"]))
        if change == "value":
            victim[name] = draw(ANY_JSON)
        elif change == "drop":
            victim.pop(name, None)
        elif change == "add":
            victim[draw(st.sampled_from(["x", "", "score", "labeler", "meta"]))] = draw(ANY_JSON)
        else:
            found.append(dict(victim))
    return found


@st.composite
def sources(draw, row: st.SearchStrategy, stem: str = "rows") -> Source:
    """One file of rows, most of them whole and of a format that is read."""
    return draw(written(draw(rows(row)), stem))


@st.composite
def written(draw, found: list[dict], stem: str = "rows") -> Source:
    """These rows as a file."""
    ending = draw(st.sampled_from(["jsonl", "jsonl", *ENDINGS]))
    content, count = encode(found, ending), len(found)
    kind = draw(st.sampled_from(["whole"] * 12 + ["damage"] * 3 + ["harmless"] * 2 + ["name"]))
    if kind == "damage":
        # in a table it is a right prompt of 100,000 letters, which a model takes minutes to read
        names = [name for name in DAMAGE if (name, ending) != ("deep", "csv")]
        content, count = DAMAGE[draw(st.sampled_from(names))](content), None
    elif kind == "harmless" and ending in ("jsonl", "csv"):
        content = draw(st.sampled_from(list(HARMLESS.values())))(content)
    elif kind == "name":
        ending = draw(st.sampled_from(["txt", "", "parquet", "jsonl.gz", "JSONL", "csv", "json"]))
        count = None
    if ending == "csv":
        # a row of empty cells may be no row
        count = None
    return Source(f"{stem}.{ending}", content, count)


# --- rows that are right --------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["Tell me about tea, please.", "What is rain?", "Is it a cat?", "Write to me@example.com", "é"]
) | st.text(min_size=1, max_size=20)
ANSWERS = st.sampled_from(["I love it!", "It is awful.", "Tea.", "shit", ""])


def messages(text: st.SearchStrategy, role: str) -> st.SearchStrategy:
    return text.map(lambda t: [{"role": role, "content": t}])


PROMPTS = WORDS | messages(WORDS, "user")
IDS = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["p1", "p2", "0"]))
LOGGED = st.fixed_dictionaries(
    {"prompt": WORDS, "user_id": st.sampled_from("abcdefgh")},
    optional={"id": st.integers(0, 9), "timestamp": st.integers(0, 10**10), "rides": WRONG},
)
ASKED = st.fixed_dictionaries({"prompt": WORDS}, optional={"id": IDS, "user_id": IDS})
DEMONSTRATED = st.fixed_dictionaries(
    {"prompt": WORDS, "completion": ANSWERS},
    optional={"source": st.sampled_from(["people", "x"]), "category": st.just("chat")},
)
CHAT = st.fixed_dictionaries(
    {"prompt": messages(WORDS, "user"), "completion": messages(ANSWERS, "assistant")}
)


@st.composite
def _ranked(draw) -> dict:
    completions = draw(st.lists(ANSWERS, min_size=1, max_size=4))
    ranks = [draw(st.integers(1, 3)) for _ in completions]
    return {"prompt": draw(WORDS), "completions": completions, "ranks": ranks}


SAMPLED = _ranked().map(lambda row: {k: v for k, v in row.items() if k != "ranks"})
RANKED = _ranked()
PAIRS = st.fixed_dictionaries({"prompt": WORDS, "chosen": ANSWERS, "rejected": ANSWERS})
