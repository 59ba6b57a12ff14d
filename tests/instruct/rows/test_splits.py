"""Splits: a file is what the flag says it is, and no split stands in for another."""

import json

import datasets
import pytest
from datasets import Dataset, DatasetDict

from instruct.errors import UserError
from instruct.files import data_files, held_out_needed, held_out_place, load_rows, split_files
from instruct.rows import stored_tables


def folder(tmp_path, *names):
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"prompt": name}) + "\n")
    return tmp_path


def in_split(source, split) -> list[str]:
    return [file.relative_to(source).as_posix() for file in split_files(source, split)]


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["train.jsonl", "test.jsonl"], "test", ["test.jsonl"]),
        (["train_prefs.jsonl", "train_sft.jsonl"], "train_prefs", ["train_prefs.jsonl"]),
        (["train_prefs.jsonl", "train_sft.jsonl"], "train", []),
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], "train", "all"),
        (["train_0_of_2.jsonl", "train.part-1.jsonl"], "train", "all"),
        (["train_00000.jsonl", "train_00001.jsonl", "train_20240101.jsonl"], "train", 2),
        (["train-00000-of-00001-0f1e2d3c4b5a6978.jsonl", "test.jsonl"], "train", 1),
        (["data/train-0.jsonl", "data/test-0.jsonl"], "train", ["data/train-0.jsonl"]),
        (["train/a.jsonl", "train/b.jsonl", "test/a.jsonl"], "train", 2),
        (["test.jsonl", "test_2023.jsonl"], "test", ["test.jsonl"]),
        (["train-1.jsonl", "train-2.jsonl"], "train-1", ["train-1.jsonl"]),
        (["data.jsonl", "notes.txt", ".data.jsonl"], "train", ["data.jsonl"]),
        (["a.txt", "b.txt"], "train", "all"),
        (["data.jsonl"], "train", "all"),
        (["a.jsonl", "b.jsonl"], "train", "all"),
        (["data.jsonl"], "test", []),
        (["data.jsonl"], "other", []),
        (["hh-train.jsonl", "hh-test.jsonl"], "train", []),
        (["hh-train.jsonl", "hh-test.jsonl"], "hh-train", ["hh-train.jsonl"]),
        (["dev.jsonl", "train.jsonl"], "validation", []),
        (["data.jsonl", "test.jsonl"], "train", []),
        (["train.jsonl", "removed.jsonl", "report.json", "notes.txt"], "train", ["train.jsonl"]),
        (["data.jsonl", "removed.jsonl", "run.json"], "train", ["data.jsonl"]),
    ],
)
def test_the_files_of_a_split(tmp_path, names, split, found):
    files = in_split(folder(tmp_path, *names), split)
    if isinstance(found, int):
        assert len(files) == found
    else:
        assert files == (sorted(names) if found == "all" else found)


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    folder(tmp_path, "train.jsonl", "dev.jsonl", "removed.jsonl")
    with pytest.raises(UserError, match="no split 'validation' .* it has 'dev', 'train': name one"):
        load_rows(tmp_path, "validation")
    with pytest.raises(UserError, match="no split 'other'"):
        data_files(tmp_path, "other")
    assert load_rows(tmp_path, "dev")["prompt"] == ["dev.jsonl"]
    assert load_rows(tmp_path / "dev.jsonl", "train")["prompt"] == ["dev.jsonl"]


def test_two_data_sets_in_one_folder_are_not_mixed(tmp_path):
    folder(tmp_path, "helpful/train.jsonl", "harmless/train.jsonl")
    with pytest.raises(UserError, match=r"several folders \(harmless, helpful\); give one"):
        load_rows(tmp_path)
    assert load_rows(tmp_path / "helpful")["prompt"] == ["helpful/train.jsonl"]


def test_where_held_out_rows_lie(tmp_path, monkeypatch):
    folder(tmp_path / "f", "train.jsonl", "test.jsonl")
    home, file = str(tmp_path / "f"), str(tmp_path / "f/train.jsonl")
    held = str(tmp_path / "f/test.jsonl")
    for source in (home, file, "owner/name"):
        assert held_out_place(source, held) == (held, "train")
    assert held_out_place(home, "test") == (home, "test")
    assert held_out_place(home, "validation") is None
    assert held_out_place(file, "test") is None
    assert held_out_place("owner/name", "test") == ("owner/name", "test")
    with pytest.raises(UserError, match="no such file"):
        held_out_place(home, "gone.jsonl")
    with pytest.raises(UserError, match="this is one file.*--dataset_test_split FILE"):
        held_out_needed(file, "validation")
    with pytest.raises(UserError, match="it has 'test', 'train'"):
        held_out_needed(home, "validation")
    # a folder of that name where one happens to stand is not meant
    (tmp_path / "test").mkdir()
    monkeypatch.chdir(tmp_path)
    assert held_out_place(home, "test") == (home, "test")


def test_what_save_to_disk_writes(tmp_path):
    rows = {split: Dataset.from_list([{"prompt": split}] * 3) for split in ("train", "test")}
    DatasetDict(rows).save_to_disk(tmp_path / "both", num_shards={"train": 2, "test": 1})
    rows["test"].save_to_disk(tmp_path / "one")
    # as a `map` of them leaves beside them
    (tmp_path / "one/cache-1.arrow").write_bytes(b"")
    assert load_rows(tmp_path / "both", "train", columns=["prompt"])["prompt"] == ["train"] * 3
    assert load_rows(tmp_path / "both", "test")["prompt"] == ["test"] * 3
    assert load_rows(tmp_path / "one")["prompt"] == ["test"] * 3
    with pytest.raises(UserError, match="no split 'validation' .* it has 'test', 'train'"):
        load_rows(tmp_path / "both", "validation")


def test_a_hub_dataset_names_its_splits(tmp_path, monkeypatch):
    """No Hub here: the library reads a folder, and says what it would say of a dataset."""
    folder(tmp_path / "data", "train.jsonl")
    monkeypatch.setattr(stored_tables, "ask_hub", lambda name: None)
    real = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda _, *a, **b: real(str(tmp_path / "data"), *a, **b)
    )
    with pytest.raises(UserError, match="someone/rows: no split 'test' .* it has 'train'"):
        load_rows("someone/rows", "test")
    assert load_rows("someone/rows", "train")["prompt"] == ["train.jsonl"]
