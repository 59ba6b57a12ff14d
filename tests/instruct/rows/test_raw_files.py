"""Files as people have them: read as what their bytes are, or one sentence of what they are."""

import bz2
import gzip
import io
import json
import lzma
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.formats import bounded, log_files
from instruct.errors import UserError
from instruct.files import load_rows, placed_source
from instruct.rows.encodings import encoding_of
from instruct.rows.json_documents import document_rows

# with letters that Latin-1 has, a comma, quotes and a line break
ROWS = [
    {"prompt": "Wo ist das Café «Zürich»?", "completion": "Là-bas"},
    {"prompt": 'two\nlines, "q"', "completion": "x"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
OTHER_LETTERS = [{"prompt": "Привет, 你好", "completion": "ok"}]


def separated(mark: str) -> str:
    cells = [list(ROWS[0]), *[list(row.values()) for row in ROWS]]
    quoted = [['"{}"'.format(cell.replace('"', '""')) for cell in row] for row in cells]
    return "".join(mark.join(row) + "\n" for row in quoted)


def zstd(content: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as packed:
        packed.write(content)
    return out.getvalue().to_pybytes()


def table(kind: str) -> bytes:
    out, rows = io.BytesIO(), pa.Table.from_pylist(ROWS)
    if kind == "parquet":
        pq.write_table(rows, out)
    else:
        writer = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind]
        with writer(out, rows.schema) as arrow:
            arrow.write_table(rows)
    return out.getvalue()


COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
OF_THE_HUB = [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)]
SPLIT = {"columns": list(COLUMNS), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}
BY_COLUMN = {name: {str(i): cell for i, cell in enumerate(c)} for name, c in COLUMNS.items()}

READ = {
    # letters
    "mark.jsonl": LINES.encode("utf-8-sig"),
    "windows.jsonl": LINES.replace("\n", "\r\n").encode(),
    "latin.jsonl": LINES.encode("latin-1"),
    "latin.csv": separated(";").encode("cp1252"),
    "wide.jsonl": LINES.encode("utf-16"),
    "wide-no-mark.jsonl": LINES.encode("utf-16-le"),
    "wider.jsonl": LINES.encode("utf-32"),
    "wide.csv": separated("\t").encode("utf-16"),
    # packing
    "packed.jsonl.gz": gzip.compress(LINES.encode()),
    "packed.jsonl.zst": zstd(LINES.encode()),
    "two-frames.jsonl.zst": zstd(LINES.encode()[:30]) + zstd(LINES.encode()[30:]),
    "packed.jsonl.bz2": bz2.compress(LINES.encode()),
    "packed.jsonl.xz": lzma.compress(LINES.encode()),
    "packed-latin.csv.zst": zstd(separated(",").encode("latin-1")),
    # another ending than its bytes
    "gzip.json": gzip.compress(LINES.encode()),
    "unpacked.jsonl.gz": LINES.encode(),
    "parquet.jsonl": table("parquet"),
    "lines.parquet": LINES.encode(),
    "lines.csv": LINES.encode(),
    "lines.txt": LINES.encode(),
    "list.jsonl": json.dumps(ROWS, indent=1).encode(),
    # cells
    "comma.csv": separated(",").encode(),
    "semicolon.csv": separated(";").encode("utf-8-sig"),
    "tab.csv": separated("\t").encode(),
    "tab.tsv": separated("\t").encode(),
    "blank.csv": b"\r\n\n" + separated(";").encode(),
    "said.csv": b"sep=;\r\n" + separated(";").encode(),
    # documents
    "list.json": json.dumps(ROWS).encode(),
    "data.json": json.dumps({"version": 1, "data": ROWS}, indent=2).encode(),
    "rows.json": json.dumps({"rows": ROWS}).encode(),
    "instances.json": json.dumps({"Instances": ROWS, "type": "text2text"}).encode(),
    "anything.json": json.dumps({"whatever": ROWS}).encode(),
    "hub.json": json.dumps({"features": [{"name": "prompt"}], "rows": OF_THE_HUB}).encode(),
    "columns.json": json.dumps(COLUMNS).encode(),
    "pandas.json": json.dumps(BY_COLUMN).encode(),
    "pandas-split.json": json.dumps(SPLIT).encode(),
    "pandas-index.json": json.dumps({str(i): row for i, row in enumerate(ROWS)}).encode(),
    "jq.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    # tables
    "t.parquet": table("parquet"),
    "stream.arrow": table("stream"),
    "file.arrow": table("file"),
}


def of_log(path) -> list:
    chunks = log_files.read_chunks(str(path))
    return [row for chunk in chunks for _, row in log_files.parse(chunk)]


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_what_it_is(tmp_path, name):
    (tmp_path / name).write_bytes(READ[name])
    loaded = load_rows(tmp_path / name, columns=["prompt", "completion"])
    assert loaded.to_list() == ROWS
    assert [row for _, row in placed_source(tmp_path / name)] == ROWS
    # a prompt log, which is read in chunks, reads the same
    assert of_log(tmp_path / name) == ROWS


def test_who_reads_another_code_page_is_told(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(LINES.encode("latin-1"))
    load_rows(tmp_path / "a.jsonl")
    assert "a.jsonl: not UTF-8 text; read as Windows-1252" in capsys.readouterr().err


SENTENCES = {
    "pointer.jsonl": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "git lfs pull",
    ),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
    "page.json": (b"<!DOCTYPE html>\n<html>", "this is a web page"),
    "page.parquet": (b"\n<html lang=en>", "this is a web page"),
    "text.parquet": (b"no rows at all", "does not begin as one"),
    "wide.parquet": ("no rows".encode("utf-16"), "does not begin as one"),
    "packed.arrow.zst": (zstd(b"no rows at all"), "does not begin as one"),
    "wide.arrow": ("no rows".encode("utf-16"), "cannot be read as Arrow"),
    "answer.json": (b"<?xml version='1.0'?><Error/>", "this is XML"),
    "archive.jsonl": (b"PK\x03\x04aaa", "a ZIP archive"),
    "sheet.csv": (b"PK\x03\x04..[Content_Types].xml", "an Excel or Office file"),
    "tar.jsonl.gz": (gzip.compress(b"a" * 257 + b"ustar" + b"b" * 99), "a tar archive"),
    "pickle.json": (b"\x80\x04\x95aaaa", "a pickle"),
    "packed.parquet.gz": (gzip.compress(table("parquet")), "Parquet inside gzip; unpack it"),
    "cut.jsonl.zst": (zstd(LINES.encode())[:30], "broken zstd file"),
    "cut.jsonl.xz": (lzma.compress(LINES.encode())[:-9], "broken xz file"),
    "cut.jsonl": (LINES.encode("utf-16")[:-1], "not UTF-16-LE text"),
    "cut.json": (json.dumps(ROWS, indent=1).encode()[:-4], "not valid JSON (item 2"),
    "splits.json": (
        json.dumps({"train": ROWS, "test": ROWS}).encode(),
        "one object with several lists of rows ('train', 'test')",
    ),
    "russian.jsonl": (LINES.replace("Wo ist", "Где вы").encode("cp1251", "ignore"), "not UTF-8"),
    "chinese.csv": ("prompt\n你好吗朋友\n".encode("gbk"), "not UTF-8 text"),
    "japanese.csv": ("prompt\nこんにちは世界\n".encode("shift-jis"), "not UTF-8 text"),
    "one-bad-byte.csv": ("prompt\n你好 café\n".encode() + b"bad\xff\n", "not UTF-8 text"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_file_that_is_not_read_says_what_it_is(tmp_path, name):
    content, sentence = SENTENCES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_rows(tmp_path / name)
    assert sentence in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("one.json", {"prompt": "a", "completion": "b"}),
        ("one.json", {"instruction": "q", "completions": [{"response": "r"}]}),
        ("one.json", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("one.json", {"prompt": "q", "data": [{"a": 1}]}),
        ("one.json", {k: [{"role": "user", "content": k}] for k in ("prompt", "completion")}),
        ("one.jsonl", {"turns": ["a", "b"]}),
        ("one.jsonl", {"data": [{"a": 1}]}),
    ],
)
def test_one_row_is_no_list_of_others(tmp_path, name, row):
    for indent in (None, 1) if name == "one.json" else (None,):
        (tmp_path / name).write_text(json.dumps(row, indent=indent))
        assert load_rows(tmp_path / name).to_list() == [row]


def test_a_text_a_line(tmp_path):
    (tmp_path / "t.txt").write_bytes("Tell me\r\n\n a joke \nlast é".encode())
    texts = [{"text": "Tell me"}, {"text": " a joke "}, {"text": "last é"}]
    assert load_rows(tmp_path / "t.txt", columns=["text"]).to_list() == texts
    assert of_log(tmp_path / "t.txt") == texts


def test_between_tabs_a_quote_may_be_a_letter(tmp_path):
    (tmp_path / "t.tsv").write_text('prompt\tcompletion\n"Tea" he said\tok\n"He\tb, c\n')
    rows = [
        {"prompt": '"Tea" he said', "completion": "ok"},
        {"prompt": '"He', "completion": "b, c"},
    ]
    assert load_rows(tmp_path / "t.tsv").to_list() == of_log(tmp_path / "t.tsv") == rows


def test_one_broken_line_is_not_the_whole_file(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"a": \n{"a": 1}\n')
    assert [type(row) for row in of_log(tmp_path / "l.jsonl")] == [str, dict]
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        load_rows(tmp_path / "l.jsonl")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"])
def test_an_encoding_is_told_by_its_bytes(encoding):
    text = json.dumps(ROWS + OTHER_LETTERS, ensure_ascii=False)
    assert encoding_of(text.encode(encoding), whole=True) == encoding
    # nothing else is UTF-8 cut within a letter
    assert encoding_of("aé".encode()[:-1], whole=False) == "utf-8"


################
# Documents, block by block
################


def values_of(content: str, longest: int = 1 << 20, block: int = 7) -> list:
    raw = io.BytesIO(content.encode("utf-8", "surrogatepass"))
    return [value for _, value, _ in document_rows(raw, "f", longest, block=block)]


def test_a_list_read_in_blocks_is_what_json_says():
    rng = random.Random(0)
    values = [1, -12.5e3, "a]b,", {"é": [1, {"x": "\ud83d\ude00"}]}, [], {}, None, True, "x" * 50]
    for _ in range(200):
        expected = rng.choices(values, k=rng.randint(0, 6))
        indent = rng.choice([None, 3])
        content = json.dumps(expected, ensure_ascii=rng.random() < 0.5, indent=indent)
        # two surrogates side by side are one character or two, as JSON wrote them
        wanted = json.loads(content.encode("utf-8", "surrogatepass"))
        assert values_of(content + rng.choice(["", " \n"])) == wanted


@pytest.mark.parametrize(
    "content", ["[", "[1", "[1,", "[1 2]", "[1]]", "[,]", "[1,]", '[{"a": }]', "{", '{"a": 1}]', ""]
)
def test_what_is_no_document_is_told(content):
    with pytest.raises(ValueError, match="item"):
        values_of(content)


def test_objects_one_behind_the_other_are_rows():
    rows = [{"a": 1}, {"data": [{"b": 2}]}]
    assert values_of("\n".join(json.dumps(row, indent=1) for row in rows)) == rows


def test_a_value_that_is_too_long_is_told():
    with pytest.raises(ValueError, match="item 2: .*longer than"):
        values_of(json.dumps([{"a": "b"}, {"a": "c" * 500}]), longest=100)


def test_a_prompt_log_holds_one_row_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "LONGEST_ROW", 100)
    (tmp_path / "log.json").write_text(json.dumps([{"prompt": "a"}, {"prompt": "b" * 500}]))
    with pytest.raises(UserError, match="item 2.*one row a line"):
        of_log(tmp_path / "log.json")
