"""Rows of files: every column of every row, and what is wrong told with file and place."""

import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instruct.errors import UserError
from instruct.files import load_rows, write_rows
from instruct.rows.row_checks import fault_of, is_blank

PLAIN = [{"prompt": "q", "completion": "a"}]


def lines(path, rows, encoding="utf-8", end="\n") -> str:
    path.write_bytes("".join(json.dumps(r) + end for r in rows).encode(encoding))
    return str(path)


def refused(source, *columns) -> str:
    with pytest.raises(UserError) as error:
        load_rows(source, columns=columns)
    return str(error.value)


################
# Reading
################


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet"])
def test_columns_come_from_all_rows_not_from_the_first(tmp_path, ending):
    file, rows = tmp_path / f"r.{ending}", [{"prompt": "a"}, {"prompt": "b", "prompt_id": "7"}]
    if ending == "json":
        file.write_text(json.dumps(rows))
    else:
        write_rows(file, rows)
    assert load_rows(file).to_list() == [{"prompt": "a", "prompt_id": None}, rows[1]]


def test_a_cell_says_what_it_says(tmp_path):
    file = tmp_path / "c.csv"
    said = ["NA", "None", "null", "nan", "007", "1e5", "True", 'a "b", c', "two\nlines"]
    cells = "".join('"{}"\r\n'.format(s.replace('"', '""')) for s in said)
    file.write_bytes(b"\xef\xbb\xbfprompt\r\n" + cells.encode())
    assert load_rows(file, columns=["prompt"])["prompt"] == said
    file.write_text("prompt,completion\na,\n\nb,c\n")
    assert load_rows(file)["completion"] == [None, "c"]
    assert "line 2: 'completion' is null" in refused(file, "completion")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2,3\n", "line 2: 3 cells, the header has 2"),
        ("a,a\n1,2\n", "two columns have one name"),
        ('a\n"x\ny\n', "line 2: not valid CSV"),
        ("a\n", "no rows"),
    ],
)
def test_a_broken_table_is_told_with_its_line(tmp_path, text, sentence):
    (tmp_path / "c.csv").write_text(text)
    assert sentence in refused(tmp_path / "c.csv")


def test_files_of_windows_are_read(tmp_path):
    assert load_rows(lines(tmp_path / "a.jsonl", PLAIN, "utf-8-sig", "\r\n")).to_list() == PLAIN


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[" * 100_000, "line 2: not readable JSON (nested too deeply)"),
        (f'{{"a": {"1" * 5000}}}', "line 2: not readable JSON (a number is too long)"),
        ('{"a": ', "line 2: not valid JSON"),
        ('{"a": 100000000000000000000}', "line 2: 'a' holds a whole number beyond 64 bits"),
        (r'{"c": "\ud800"}', "line 2: 'c' holds half a character"),
        ('{"a": "x"}', "line 2: 'a' is text, which does not go with the rows before"),
        (f'{{"b": {"[" * 40}{"]" * 40}}}', "'b' is nested deeper than 32 levels"),
    ],
)
def test_a_row_that_is_in_no_table_is_named(tmp_path, line, sentence):
    (tmp_path / "r.jsonl").write_text(f'{{"a": 1}}\n{line}\n')
    assert sentence in refused(tmp_path / "r.jsonl")


def test_an_item_that_is_no_row_is_named(tmp_path):
    (tmp_path / "r.json").write_text('[{"a": 1}, 2]')
    assert "item 2: expected a JSON object" in refused(tmp_path / "r.json")


def test_a_broken_archive_is_told(tmp_path):
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(b'{"a": "some words"}\n' * 50)[:40])
    assert "r.jsonl.gz: broken gzip file" in refused(tmp_path / "r.jsonl.gz")
    (tmp_path / "r.parquet").write_bytes(b"PAR1")
    assert "cannot be read as parquet" in refused(tmp_path / "r.parquet")


def test_an_empty_split_is_no_rows_and_the_others_are_read(tmp_path):
    empty = pa.schema({"prompt": pa.string()}).empty_table()
    pq.write_table(empty, tmp_path / "test-0.parquet")
    assert refused(tmp_path / "test-0.parquet").endswith("test-0.parquet: no rows")
    write_rows(tmp_path / "test-1.parquet", [{"prompt": "a"}])
    assert load_rows(tmp_path, "test")["prompt"] == ["a"]


################
# What a column holds
################

USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("prompt", "Hi", None),
        ("prompt", [USER], None),
        ("prompt", None, "is null"),
        ("prompt", 5, "is a number"),
        ("prompt", " ", "is empty"),
        ("prompt", [], "is empty"),
        ("prompt", [USER | {"content": " "}], "is empty"),
        ("prompt", [{"from": "human", "value": "Hi"}], "no role in message 1"),
        ("prompt", [USER, USER | {"content": None}], "null for content in message 2"),
        ("prompt", [USER | {"content": [{"type": "text"}]}], "a list for content"),
        ("prompt", ["Hi"], "text for message 1"),
        ("completion", "", None),
        ("completion", [], "has no message"),
        ("completion", USER, "is an object"),
        ("completions", ["a", [USER]], None),
        ("completions", None, "is null"),
        ("completions", ["a", True], "number 2 is true or false"),
        ("ranks", [1, 2.0, 2], None),
        ("ranks", [1, 0], None),
        ("ranks", [1, -1], "whole numbers from 1"),
        ("ranks", [1, 2.5], "whole numbers from 1"),
        ("ranks", [1, float("nan")], "whole numbers from 1"),
        ("ranks", [1, float("inf")], "whole numbers from 1"),
        ("ranks", [1, True], "whole numbers from 1"),
        ("ranks", ["1", "2"], "whole numbers from 1"),
        ("text", None, "is null"),
        ("anything else", object(), None),
    ],
)
def test_what_a_column_holds(name, value, fault):
    found = fault_of(name, value)
    assert found is None if fault is None else fault in found


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_wrong_value_is_told_with_its_row(tmp_path, ending):
    file = tmp_path / f"r.{ending}"
    write_rows(file, [*PLAIN, {"prompt": "q", "completion": None}])
    place = "line 2" if ending == "jsonl" else "row 2"
    assert f"{place}: 'completion' is null" in refused(file, "prompt", "completion")
    # who counts them himself gets them
    assert len(load_rows(file, columns=["completion"], blanks=True)) == 2


def test_blanks_say_nothing():
    assert all(map(is_blank, [None, "", " \n", [], [USER | {"content": " "}]]))
    assert not any(map(is_blank, [0, False, {}, "x", [USER]]))


################
# Writing
################


def test_what_parquet_has_and_json_has_not_is_written_as_text(tmp_path):
    row = {"at": datetime(2026, 1, 2, tzinfo=UTC), "price": Decimal("1.50")}
    write_rows(tmp_path / "r.jsonl", [row])
    wanted = {"at": "2026-01-02T00:00:00+00:00", "price": "1.50"}
    assert load_rows(tmp_path / "r.jsonl").to_list() == [wanted]
    for ending, value in (("jsonl", b"\xff"), ("parquet", {})):
        with pytest.raises(UserError):
            write_rows(tmp_path / f"bad.{ending}", [{"a": value}])
        assert not (tmp_path / f"bad.{ending}").exists()
