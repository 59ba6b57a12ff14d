"""The column of --language; nulls of request_form; both counted in the report."""

import importlib.util

import pytest
from prompt_tools import adds_up, fails, rows_of, run, write_lines

pytest.importorskip("py3langid", reason="needs the language extra")

LOG = [
    *({"id": f"en{i}", "prompt": p} for i, p in enumerate(["Write a poem about the sea", "hi"])),
    {"id": "de", "prompt": "Schreibe ein kurzes Gedicht über den Herbst", "language": "German"},
    {"id": "zh", "prompt": "写一首关于大海的诗，要求每一行都押韵", "language": ["Chinese", "zh"]},
    {"id": "ru", "prompt": "Расскажи мне, пожалуйста, о том, как устроен двигатель"},
    {"id": "ru twice", "prompt": "Расскажи мне, пожалуйста, о том, как устроен двигатель"},
    {"id": "none", "prompt": "12 34"},
]


def kept_rows(output, report) -> dict[str, dict]:
    return {row["id"]: row for name in report["splits"] for row in rows_of(output, name)}


def test_a_column_and_its_counts(tmp_path):
    log = write_lines(tmp_path / "log.jsonl", LOG)
    report = run(log, tmp_path / "out", "--language")
    rows = kept_rows(tmp_path / "out", report)
    # "hi" is too short to tell
    expected = {"en0": "en", "en1": None, "de": "de", "zh": "zh", "ru": "ru", "none": None}
    assert {name: row["language"] for name, row in rows.items()} == expected
    assert list(report["languages"].items()) == [
        *(("de", 1), ("en", 1), ("ru", 1), ("zh", 1), ("null", 2))
    ]
    assert rows_of(tmp_path / "out", "removed")[0]["language"] == "ru"
    # the log's own column of that name stays beside ours
    assert "German" in rows["de"]["input_language"]
    assert "| ru | 1 |" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    adds_up(tmp_path / "out")


def test_nulls_are_counted_and_told(tmp_path, capsys):
    report = run(write_lines(tmp_path / "log.jsonl", LOG), tmp_path / "out")
    assert report["request_forms"] == {"direct": 3, "null": 3} and "languages" not in report
    assert "3 of them in a language whose request_form is not known" in capsys.readouterr().out
    rows = kept_rows(tmp_path / "out", report)
    assert {name for name, row in rows.items() if row["request_form"] is None} == {"de", "zh", "ru"}
    # without the flag a column of that name is the log's
    assert "German" in rows["de"]["language"] and rows["ru"]["language"] is None


def test_it_needs_its_extra(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "py3langid" else found(name)
    )
    log = write_lines(tmp_path / "log.jsonl", LOG)
    argv = ["--input", str(log), "--output_dir", str(tmp_path / "out"), "--language"]
    assert "-e '.[language]'" in fails(capsys, *argv)
