"""docs/formats.md: every format's rows, through the command beside them. `-s` prints the counts."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from page_tools import PAGE, Shape
from prompt_tools import adds_up, rows_of

from data_prep.formats.reader import read_rows
from data_prep.formats.registry import FORMATS
from instruct.files import read_jsonl

ASKED = [{"role": "user", "content": "What is snow?"}]
GOOD, BAD = "Water.", "Stones."


def test_page_and_code_name_the_same_formats():
    assert sorted((s.kind, s.name) for s in PAGE) == sorted((f.kind, f.name) for f in FORMATS)


def flag(shape: Shape, name: str) -> str:
    return shape.flags[shape.flags.index(name) + 1]


def run(shape: Shape, capsys) -> str:
    import_module(shape.module).main(shape.flags)
    return capsys.readouterr().out


def all_of(folder: str) -> list[dict]:
    return [row for path in Path(folder).glob("*.jsonl") for row in read_jsonl(path)]


def of_prompts(shape: Shape, capsys) -> tuple[int, int]:
    run(shape, capsys)
    report = adds_up(Path("prompts"))
    kept = [row for split in report["splits"] for row in rows_of(Path("prompts"), split)]
    assert report["removed"] == {"malformed": 1}
    assert [row["prompt"] for row in kept] == ["What is snow?"]
    return report["in"], report["kept"]


def of_demonstrations(shape: Shape, capsys) -> tuple[int, int]:
    said, report = run(shape, capsys), report_of("demonstrations")
    (first,) = all_of("demonstrations")
    system = [m for m in first["prompt"] if m["role"] == "system"]
    assert first["prompt"] == [*system, *ASKED] and len(system) == ("system" in str(shape.rows))
    assert first["completion"] == [{"role": "assistant", "content": GOOD}]
    return report["in"], used(said, shape, report["removed"]["malformed"])


def of_rankings(shape: Shape, capsys) -> tuple[int, int]:
    said, report = run(shape, capsys), report_of("comparisons")
    first = all_of("comparisons")[0]
    ranks = dict(zip(first["completions"], first["ranks"], strict=True))
    assert first["prompt"] == ASKED and ranks == {GOOD: 1, BAD: 2}
    misfits = sum(report["rows"]["misfits"].values())
    assert report["rows"]["used"] == report["in"] - misfits
    return report["in"], used(said, shape, misfits)


def of_samples(shape: Shape, capsys) -> tuple[int, int]:
    said = run(shape, capsys)
    (first,) = read_jsonl("rankings.jsonl")
    assert first["prompt"] == ASKED and first["completions"] == [GOOD, BAD] and first["ranks"]
    return 1, used(said, shape, 0)


def of_answers(shape: Shape, capsys) -> tuple[int, int]:
    prompts = [{"id": "p1", "prompt": "What is snow?"}, {"id": "p2", "prompt": "And rain?"}]
    write("prompts.jsonl", prompts)
    said = run(shape, capsys)
    (first,) = read_jsonl("samples.jsonl")
    assert first["prompt"] == ASKED and first["completions"][-1] == GOOD
    return 2, used(said, shape, 1)


CHECKS = {
    "prompts": of_prompts,
    "demonstrations": of_demonstrations,
    "answers": of_answers,
    "samples": of_samples,
    "rankings": of_rankings,
}


def report_of(folder: str) -> dict:
    return json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))


def used(said: str, shape: Shape, misfits: int) -> int:
    """The rows that were used, as the command says; the others are told one by one."""
    count, total = re.search(rf"read as: {shape.name}, (\d+) of (\d+) rows", said).groups()
    assert int(total) == int(count) + misfits
    assert len(re.findall(r"^\S+, line \d+: ", said, re.M)) == misfits
    return int(count)


def write(name: str, rows: list[dict]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("shape", PAGE, ids=lambda s: f"{s.kind}: {s.name}")
def test_rows_of_the_page_through_its_command(shape, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = flag(shape, "--answers" if shape.kind == "answers" else "--input")
    # a labeler stops at a sample of ours that is none; elsewhere a row that is none is counted
    misfits = [] if shape.kind == "samples" else [{"other": 1}]
    write(source, [*shape.rows, *misfits])
    assert read_rows(source, shape.kind).format.name == shape.name
    capsys.readouterr()
    flags = [tiny_model if f == "MODEL" else f for f in shape.flags]
    total, count = CHECKS[shape.kind](shape._replace(flags=flags), capsys)
    assert (total, count) == (len(shape.rows) + len(misfits), len(shape.rows))
    command = f"{shape.module} {source}"
    print(f"| {shape.kind}: {shape.name} | {command} | {total} = {count} + {total - count} |")
