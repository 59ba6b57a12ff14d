"""One progress bar at a time."""

import io
import re

import pytest
from conftest import write_jsonl
from tqdm import tqdm
from transformers.utils import logging

from data_prep import label
from instruct import one_bar as module
from instruct.one_bar import moving, progress
from recipes import evaluate


def shown(total: int) -> tqdm:
    return tqdm(total=total, file=io.StringIO())


def test_work_inside_moves_the_bar_around_and_shows_none(capsys, monkeypatch):
    monkeypatch.setattr(module, "TOLD_AFTER", 0)
    bar = shown(10)
    seen = []
    with bar:
        for _ in range(2):
            with moving(bar, 5), progress(4, "inside") as update:
                for _ in range(4):
                    update(1)
                    seen.append(bar.n)
    assert seen == [1, 2, 3, 5, 6, 7, 8, 10] and "inside" not in capsys.readouterr().err
    with progress(4, "alone") as update:
        update(2)
    assert "alone:" in capsys.readouterr().err


def test_the_bar_ends_where_the_block_does():
    bar = shown(9)
    with bar:
        with moving(bar, 3):
            pass  # nothing was new
        assert bar.n == 3
        with moving(bar, 3):
            for _ in range(2):  # in two parts
                with progress(2, "part") as update:
                    update(2)
                    assert bar.n == 6
        with moving(bar, 0), progress(2, "hidden") as update:
            update(2)
        assert bar.n == 6
        with pytest.raises(KeyError), moving(bar, 3):
            raise KeyError
        assert bar.n == 6  # it did not come to its end
        with progress(1, "on its own again") as update:
            update(1)
        assert bar.n == 6


UP = "\x1b[A"  # of a second bar, to the line of the first


@pytest.fixture()
def told_at_once(monkeypatch):
    monkeypatch.setattr(module, "TOLD_AFTER", 0)
    # of weights that are loaded, which recipes/demo.sh leaves out
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def rows(n: int = 80) -> list[dict]:
    about = {"model": ["m"] * 2, "sampling": [{"temperature": 1.0}] * 2}
    return [{"prompt": f"Say {i}.", "completions": ["Yes!", "No."], **about} for i in range(n)]


def test_two_bars_would_be_seen(capsys):
    with tqdm(total=2) as outer, tqdm(total=2) as inner:
        inner.update(2)
        outer.update(2)
    assert UP in capsys.readouterr().err


def test_a_labeler_shows_one_bar_to_its_end(tiny_model, tmp_path, told_at_once, capsys):
    file = write_jsonl(tmp_path / "samples.jsonl", rows())
    asked = ["--input", file, "--labeler", f"scripted:{tiny_model}"]
    label.main([*asked, "--output", str(tmp_path / "rankings.jsonl")])
    said = capsys.readouterr().err
    # it moves between two notes on disk, too: of 32 rows each
    assert UP not in said and "80/80" in said and re.search(r" (?!32|64|80)[1-9]\d?/80", said)


def test_an_evaluation_shows_one_bar_at_a_time(
    tiny_model, reward_model, tmp_path, told_at_once, capsys
):
    choices = {"choices": ["Yes.", "No."], "labels": [1, 0]}
    truths = [{"question": "Is it?", "mc1_targets": choices, "mc2_targets": choices}] * 3
    texts = [{"text": "A text. " * 40}] * 40
    evaluate.main([
        "--models", f"sft={tiny_model}", "--tasks", "truthful", "tax", "overoptimisation",
        "--truthful_file", write_jsonl(tmp_path / "truths.jsonl", truths),
        "--task_file", write_jsonl(tmp_path / "texts.jsonl", texts),
        "--samples", write_jsonl(tmp_path / "samples.jsonl", rows()),
        "--judge", f"scripted:{tiny_model}", "--reward", reward_model,
        "--output_dir", str(tmp_path / "report"),
    ])  # fmt: skip
    said = capsys.readouterr().err
    assert UP not in said and "160/160" in said
