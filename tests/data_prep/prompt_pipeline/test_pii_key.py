"""The secret of the hashes: beside the folder, for its owner alone, not to be had from outside."""

import errno
import hashlib
import hmac
import json
import os
import stat

import pyarrow.parquet as pq
import pytest
from prompt_tools import fails, rows_of, run, write_lines

from data_prep.prompt_pipeline.pii_key import PiiKey

PHONE = "(212) 555-0147"
LOG = [{"id": i, "prompt": f"Tell me of subject {i}", "user_id": f"u{i}"} for i in range(20)]
LOG += [
    {"id": 90 + i, "prompt": f"{i} please call me at {PHONE}", "user_id": "v"} for i in range(2)
]


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def hashes(folder) -> list:
    return [r["pii_hashes"] for r in rows_of(folder, "removed")]


def test_a_key_is_made_once_beside_the_folder(tmp_path):
    source = write_lines(tmp_path / "log.jsonl", LOG)
    run(source, tmp_path / "out")
    key = tmp_path / "out.key"
    assert mode_of(key) == 0o600 and len(key.read_bytes()) > 32
    assert mode_of(tmp_path / "out/removed.parquet") == 0o600
    first, secret = (tmp_path / "out/removed.parquet").read_bytes(), key.read_bytes()
    # the same folder again, also by a link to it: the same secret, the same bytes
    (tmp_path / "link").symlink_to(tmp_path / "out")
    run(source, tmp_path / "link")
    assert (tmp_path / "out/removed.parquet").read_bytes() == first and key.read_bytes() == secret
    # another folder: another secret, unless it is given the same
    run(source, tmp_path / "other")
    assert not {h for row in hashes(tmp_path / "other") for h in row} & {
        h for row in hashes(tmp_path / "out") for h in row
    }
    run(source, tmp_path / "given", "--pii_key_file", str(key))
    assert (tmp_path / "given/removed.parquet").read_bytes() == first
    assert not (tmp_path / "given.key").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_is_published_does_not_give_the_hashes(tmp_path):
    run(write_lines(tmp_path / "log.jsonl", LOG), tmp_path / "out", "--num_proc", "1")
    secret = (tmp_path / "out.key").read_bytes().strip()
    (told,) = {h for row in hashes(tmp_path / "out") for h in row}
    # whoever has the key can compare values
    assert told == hmac.new(secret, f"phone:{PHONE}".encode(), "sha256").hexdigest()[:32]
    report = json.loads((tmp_path / "out/report.json").read_text())
    for file in (tmp_path / "out").iterdir():
        assert secret not in file.read_bytes() and b"out.key" not in file.read_bytes()
    assert "pii_key_file" not in report["options"]
    # what was the key once: the seed, and the sum of all prompts' keys
    for prompts in (LOG, LOG[:20]):
        keys = [hashlib.md5(row["prompt"].encode()).hexdigest() for row in prompts]
        total = sum(int(key, 16) for key in keys) % 2**128
        guess = hashlib.sha256(f"0:{total}".encode()).digest()
        assert told != hmac.new(guess, f"phone:{PHONE}".encode(), "sha256").hexdigest()[:32]


def test_no_key_where_there_is_nothing_to_hash(tmp_path):
    run(write_lines(tmp_path / "log.jsonl", LOG), tmp_path / "kept", "--pii", "keep")
    run(write_lines(tmp_path / "log.jsonl", LOG[:20]), tmp_path / "clean")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clean", "kept", "log.jsonl"]


def test_two_runs_at_once_do_not_overwrite_a_key(tmp_path):
    key = PiiKey(None, tmp_path / "out")
    other = PiiKey(None, tmp_path / "out")
    other.keep()
    with pytest.raises(ValueError, match="another run has made it"):
        key.keep()
    assert (tmp_path / "out.key").read_bytes().strip() == other.secret
    assert [p.name for p in tmp_path.iterdir()] == ["out.key"]


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (b"", 0o600, "is empty"),
        (b" \n", 0o600, "is empty"),
        (b"secret\n", 0o600, "has 6 bytes"),
        (None, 0o700, "cannot be read"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_is_no_secret_is_refused(tmp_path, capsys, content, mode, sentence, named):
    source = write_lines(tmp_path / "log.jsonl", LOG)
    key = tmp_path / ("my.key" if named else "out.key")
    if content is None:
        key.mkdir()
    else:
        key.write_bytes(content)
    key.chmod(mode)
    flags = ["--pii_key_file", str(key)] if named else []
    error = fails(capsys, "--input", source, "--output_dir", tmp_path / "out", *flags)
    assert sentence in error and str(key) in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_named_file_that_others_may_read_is_refused(tmp_path, mode):
    (tmp_path / "my.key").write_bytes(b"s" * 32)
    (tmp_path / "my.key").chmod(mode)
    with pytest.raises(ValueError, match="my.key: others may read the key; chmod 600 it"):
        PiiKey(tmp_path / "my.key", tmp_path / "out")
    assert mode_of(tmp_path / "my.key") == mode


@pytest.mark.parametrize("chmod", ["works", "does nothing", "fails"])
def test_our_own_file_is_closed_or_warned_about(tmp_path, monkeypatch, capsys, chmod):
    def fails(*args, **more):
        raise PermissionError(errno.EPERM, "no modes here")

    key = tmp_path / "out.key"
    key.write_bytes(b"s" * 32)
    key.chmod(0o644)
    if chmod != "works":
        instead = fails if chmod == "fails" else lambda *args, **more: None
        monkeypatch.setattr("pathlib.Path.chmod", instead)
    assert PiiKey(None, tmp_path / "out").secret == b"s" * 32
    assert ("others may read the key" in capsys.readouterr().err) is (chmod != "works")
    assert mode_of(key) == (0o600 if chmod == "works" else 0o644)


def test_a_new_file_on_a_disk_without_modes_is_warned_about_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "data_prep.prompt_pipeline.pii_key._link",
        lambda beside, path: (beside.chmod(0o777), os.rename(beside, path)),
    )
    monkeypatch.setattr("pathlib.Path.chmod", lambda path, mode: os.chmod(path, 0o777))
    PiiKey(None, tmp_path / "out").keep()
    assert f"warning: {tmp_path / 'out.key'}: others may read" in capsys.readouterr().err


def test_a_key_file_that_is_not_there_or_in_the_folder_is_refused(tmp_path, capsys):
    source = write_lines(tmp_path / "log.jsonl", LOG)
    out = tmp_path / "out"
    for key, sentence in ((tmp_path / "no.key", "no such key file"), (out / "k", "is published")):
        argv = ["--input", source, "--output_dir", out, "--pii_key_file", key]
        assert sentence in fails(capsys, *argv)
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_staged_texts_are_for_their_owner_alone(tmp_path, monkeypatch):
    seen = []
    write_table = pq.write_table

    def spy(table, file, **options):
        seen.append(mode_of(file.parent.parent))
        return write_table(table, file, **options)

    monkeypatch.setattr(pq, "write_table", spy)
    run(write_lines(tmp_path / "log.jsonl", LOG), tmp_path / "out")
    assert set(seen) == {0o700}
