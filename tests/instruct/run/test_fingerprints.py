"""What stands at the same path may be another thing: by content, whatever time stamps say."""

import json
import os

import pytest
from conftest import save_model, write_jsonl

from instruct import hashes
from instruct.files import load_rows
from instruct.hashes import file_hash
from instruct.run.fingerprints import data_identity, hub_commit, is_same, model_identity


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def replace_unseen(path, content: bytes) -> None:
    """Other bytes in place, of the same number, with the old modification time."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", -1)
    path = tmp_path / "weights"
    path.write_bytes(b"a" * hashes.KEPT_FROM)
    first = file_hash(path)
    with monkeypatch.context() as patch:
        patch.setattr(hashes.hashlib, "file_digest", None)  # would fail if it were called
        assert file_hash(path) == first
        # by the next process, too, and by this one where nothing can be kept
        patch.setattr(hashes, "_seen", {})
        assert file_hash(path) == first
    with monkeypatch.context() as patch:
        patch.setattr(hashes, "_kept_hashes", dict)
        patch.setattr(hashes.hashlib, "file_digest", None)
        assert file_hash(path) == first
    replace_unseen(path, b"b" * hashes.KEPT_FROM)
    assert file_hash(path) != first


def test_reading_much_is_told_once_for_all_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hashes, "SETTLED", -1)
    monkeypatch.setattr(hashes, "TOLD_FROM", 150_000_000)
    shards = [tmp_path / name for name in "ab"]
    for shard in shards:
        with shard.open("wb") as out:
            out.truncate(100_000_000)
    hashes.file_hash(shards[0])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(hashes, "_seen", {})
    (hashes.cache_folder() / "hashes.json").unlink()
    hashes.files_hash(shards)
    assert capsys.readouterr().err == "reading 0.2 GB of files once, to know them again\n"
    hashes.files_hash(shards)
    assert capsys.readouterr().err == ""


def test_a_file_that_may_change_within_a_clock_tick_is_not_kept(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"a" * hashes.KEPT_FROM)
    file_hash(path)
    assert not (hashes.cache_folder() / "hashes.json").exists()


@pytest.mark.parametrize("damage", ["", "[]", "{", "\x00"])
def test_a_damaged_cache_costs_nothing_but_time(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(hashes, "SETTLED", -1)
    path = tmp_path / "weights"
    path.write_bytes(b"a" * hashes.KEPT_FROM)
    first = file_hash(path)
    (hashes.cache_folder() / "hashes.json").write_text(damage)
    monkeypatch.setattr(hashes, "_seen", {})
    assert file_hash(path) == first


@pytest.mark.parametrize("ending", ["json", "csv", "parquet", "jsonl"])
def test_rows_of_a_replaced_file_do_not_come_back(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"

    def content(word: str) -> bytes:
        if ending == "csv":
            return f"prompt\n{word}\n".encode()
        if ending != "parquet":
            return (json.dumps({"prompt": word}) + "\n").encode()
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"prompt": [word]}), tmp_path / "made")
        return (tmp_path / "made").read_bytes()

    path.write_bytes(content("tea"))
    assert load_rows(path)["prompt"][:] == ["tea"]
    was = data_identity(path)
    replace_unseen(path, content("sea"))
    assert load_rows(path)["prompt"][:] == ["sea"]
    assert not is_same(data_identity(path), was)


def test_a_model_is_its_files_wherever_they_lie(tmp_path):
    save_model(tmp_path / "a")
    save_model(tmp_path / "b")
    save_model(tmp_path / "c", seed=1)
    one, same, other = (model_identity(str(tmp_path / name)) for name in "abc")
    assert is_same(one, same) and not is_same(one, other)
    # a run's own notes are not the model
    (tmp_path / "b" / "trainer_state.json").write_text("{}")
    assert is_same(one, model_identity(str(tmp_path / "b")))
    # its chat template is
    (tmp_path / "b" / "chat_template.jinja").write_text("{{ messages }}")
    assert not is_same(one, model_identity(str(tmp_path / "b")))


def test_an_adapter_is_another_one_on_another_base(tmp_path):
    base = save_model(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"base_model_name_or_path": base}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    was = model_identity(str(adapter))
    save_model(tmp_path / "base", seed=1)
    assert not is_same(model_identity(str(adapter)), was)


def test_a_hub_commit_is_read_from_the_cache_where_the_hub_is_away(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--you--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "v1").write_text("b" * 40)
    (folder / "snapshots" / ("b" * 40)).mkdir(parents=True)
    assert hub_commit("you/name", "v1") == hub_commit("you/name", "b" * 40) == "b" * 40
    assert hub_commit("you/name") is None and hub_commit("you/other") is None


def test_what_nobody_can_say_is_told_by_name():
    unknown, known = {"name": "you/a", "commit": None}, {"name": "you/a", "commit": "a" * 40}
    assert is_same(unknown, known) and not is_same(unknown, {"name": "you/b", "commit": None})
    assert not is_same(known, {"name": "you/a", "commit": "b" * 40})
    assert is_same(None, None) and not is_same(None, known)
    assert not is_same(known, {"name": "you/a", "sha256": "c" * 64})  # a folder of that name


def test_a_split_is_its_own_files(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "a"}])
    write_jsonl(tmp_path / "validation.jsonl", [{"prompt": "b"}])
    train = data_identity(tmp_path, "train")
    write_jsonl(tmp_path / "validation.jsonl", [{"prompt": "c"}])
    assert is_same(train, data_identity(tmp_path, "train"))
    assert not is_same(train, data_identity(tmp_path, "validation"))
