"""run.json of every command that makes data: what it says, and what such a command replaces."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl

from data_prep import comparisons, demonstrations, embedded, label, prompts, sample
from instruct.files import load_rows
from instruct.run.fingerprints import data_identity
from recipes.evaluate import main as evaluate

COMMANDS = {"comparisons": comparisons, "demonstrations": demonstrations, "prompts": prompts}
OTHER_FLAG = {
    "comparisons": ["--validation", "0.001"],
    "demonstrations": ["--max_words", "99"],
    "prompts": ["--seed", "3"],
}
CALL = "call me at (212) 555-4711"


def rows_for(name: str, count: int = 4) -> list[dict]:
    more = {
        "comparisons": {"completions": ["x", "y"], "ranks": [1, 2], "labeler": "Ada"},
        "demonstrations": {"completion": "I like it"},
        "prompts": {},
    }[name]
    return [{"prompt": f"tell me of tea {i}", "user_id": f"u{i}", **more} for i in range(count)]


@pytest.fixture(params=COMMANDS)
def command(request, tmp_path):
    """(name, run, input, output folder); `run` takes further flags."""
    name, out = request.param, tmp_path / "out"
    source = Path(write_jsonl(tmp_path / "in.jsonl", rows_for(name)))
    always = {"prompts": ["--num_proc", "1"]}.get(name, ["--validation", "0"])
    argv = ["--input", str(source), "--output_dir", str(out), *always]
    return name, argv, source, out


def record_in(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_the_record_says_what_was_made_of_what_and_is_no_row(command):
    name, argv, source, out = command
    COMMANDS[name].main(argv)
    found = record_in(out)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert found["step"] == name and found["versions"]["python"]
    assert found["data"]["input"] == data_identity(source) and digest
    assert found["labelers"] == (["Ada"] if name == "comparisons" else None)
    assert not {"output_dir", "num_proc", "overwrite_output_dir"} & found["flags"].keys()
    assert len(load_rows(out)) == 4  # not read as one
    # no times, no process: twice the same is the same
    before = (out / "run.json").read_bytes()
    COMMANDS[name].main(argv)
    assert (out / "run.json").read_bytes() == before


def test_other_rows_or_flags_replace_the_output_with_its_record_and_are_said(command, capsys):
    name, argv, source, out = command
    COMMANDS[name].main(argv)
    assert "replaces" not in capsys.readouterr().out
    COMMANDS[name].main(argv)
    assert "replaces" not in capsys.readouterr().out  # the same
    COMMANDS[name].main([*argv, *OTHER_FLAG[name]])
    flag, value = OTHER_FLAG[name]
    assert f"{out}: replaces an earlier output: {flag} was" in capsys.readouterr().out
    assert str(record_in(out)["flags"][flag[2:]]) == value
    write_jsonl(source, rows_for(name, 5))
    COMMANDS[name].main(argv)
    said = capsys.readouterr().out
    assert f"--input {source} holds other files than it did" in said and f"is {value}" not in said
    assert record_in(out)["data"]["input"] == data_identity(source) and len(load_rows(out)) == 5


def test_the_output_of_another_command_is_no_place(command, tmp_path, capsys):
    """Every file in it is one of ours; it would go without a word."""
    name, argv, _, out = command
    for other, module in COMMANDS.items():
        if other != name:
            rows = write_jsonl(tmp_path / f"{other}.jsonl", rows_for(other))
            there = tmp_path / other
            validation = [] if other == "prompts" else ["--validation", "0"]
            module.main(["--input", rows, "--output_dir", str(there), *validation])
            before = sorted((p.name, p.read_bytes()) for p in there.iterdir())
            elsewhere = [*argv[:3], str(there), *argv[4:]]
            for more in ([], ["--overwrite_output_dir"]):
                error = stops(COMMANDS[name].main, [*elsewhere, *more], capsys)
                assert f"is what {other} wrote" in error and f"nothing of {name}" in error
            assert sorted((p.name, p.read_bytes()) for p in there.iterdir()) == before


def test_starting_over_replaces_what_was_changed_by_hand_and_nothing_else(command, capsys):
    name, argv, _, out = command
    COMMANDS[name].main(argv)
    with (out / "report.json").open("a") as report:
        report.write("\n")
    assert "changed by hand" in stops(COMMANDS[name].main, argv, capsys)
    COMMANDS[name].main([*argv, "--overwrite_output_dir"])
    assert not (out / "report.json").read_text().endswith("\n\n")
    (out / "notes.txt").write_text("mine")
    error = stops(COMMANDS[name].main, [*argv, "--overwrite_output_dir", "True"], capsys)
    assert "notes.txt, which this command did not write" in error
    assert (out / "notes.txt").read_text() == "mine"
    assert "overwrite_output_dir" in stops(
        COMMANDS[name].main, [*argv, "--overwrite_output_dir", "perhaps"], capsys
    )


def test_a_record_that_cannot_be_read_is_one_sentence(command, capsys):
    name, argv, _, out = command
    none = {"step": name, "data": None, "flags": None}
    for damaged in ("{", "[]", json.dumps({"step": name}), json.dumps(none), "\0" * 40):
        COMMANDS[name].main(argv)
        capsys.readouterr()
        (out / "run.json").write_text(damaged)
        error = stops(COMMANDS[name].main, [*argv, "--overwrite_output_dir"], capsys)
        assert "run.json" in error and error.count("\n") == 1
        (out / "run.json").unlink()
        # as an earlier version left it
        (out / ".written").unlink()


def test_the_record_of_a_log_shows_nothing_of_what_was_taken_out(tmp_path):
    """Its plain hash would be found by trying every number in the one row that is not known."""
    rows = [{"prompt": f"tell me of {what}", "user_id": what} for what in ("tea", "rain", CALL)]
    log = Path(write_jsonl(tmp_path / "log.jsonl", rows))
    argv = ["--input", str(log), "--output_dir", str(tmp_path / "out"), "--num_proc", "1"]
    prompts.main(argv)
    published = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
    assert hashlib.sha256(log.read_bytes()).hexdigest().encode() not in published
    assert data_identity(log)["sha256"].encode() not in published
    one = record_in(tmp_path / "out")["data"]["input"]
    prompts.main(argv)  # under the same key the same
    assert record_in(tmp_path / "out")["data"]["input"] == one
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("5e" * 32)
    prompts.main([*argv, "--pii_key_file", str(key)])
    other = record_in(tmp_path / "out")["data"]["input"]
    assert one["hmac_sha256"] != other["hmac_sha256"] and one["name"] == other["name"] == str(log)


def test_labels_are_recorded_beside_their_file(tmp_path):
    samples = write_jsonl(tmp_path / "s.jsonl", [{"prompt": "Hi", "completions": ["good", "bad"]}])
    out = tmp_path / "rankings.jsonl"
    label.main(["--input", samples, "--labeler", "scripted", "--output", str(out)])
    found = json.loads((tmp_path / "rankings.jsonl.run").read_text())
    assert found["step"] == "label" and found["labelers"] == ["scripted"]
    assert {"labeler": "scripted", "tie": label.TIE}.items() <= found["flags"].items()
    assert found["data"]["input"] == data_identity(samples)


def test_sampling_starts_over_where_that_is_asked(tmp_path, tiny_model, capsys):
    log = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Hi", "id": "a"}])
    out = tmp_path / "s.jsonl"
    argv = ["--model_name_or_path", tiny_model, "--input", log, "--output", str(out)]
    argv += ["--max_new_tokens", "2", "--num_outputs", "2"]
    sample.main(argv)
    assert json.loads((tmp_path / "s.jsonl.run").read_text())["step"] == "sample"
    other = [*argv, "--seed", "5"]
    assert "other seed;" in stops(sample.main, other, capsys)
    (tmp_path / "s.jsonl.partial").write_text("of another run\n")
    sample.main([*other, "--overwrite_output_dir"])
    assert json.loads((tmp_path / "s.jsonl.run").read_text())["seed"] == 5
    assert sorted(p.name for p in tmp_path.glob("s.jsonl*")) == ["s.jsonl", "s.jsonl.run"]
    # not what somebody else wrote
    mine = write_jsonl(tmp_path / "mine.jsonl", [{"a": 1}])
    error = stops(sample.main, [*argv[:5], mine, *argv[6:], "--overwrite_output_dir"], capsys)
    assert "holds no samples" in error and os.path.getsize(mine)


def test_an_evaluation_starts_over_where_that_is_asked(tmp_path):
    model = save_model(tmp_path / "model")
    rows = [{"prompt": f"tell me of tea {i}", "user_id": f"u{i}"} for i in range(3)]
    argv = ["--models", f"a={model}", f"b={model}", "--max_new_tokens", "2", "--reference", "a"]
    argv += ["--input", write_jsonl(tmp_path / "test.jsonl", rows)]
    argv += ["--output_dir", str(tmp_path / "report")]
    evaluate(argv)
    file = tmp_path / "report" / "answers" / "a.jsonl"
    kept = file.stat().st_mtime_ns
    evaluate(argv)
    assert file.stat().st_mtime_ns == kept
    evaluate([*argv, "--overwrite_output_dir"])
    assert file.stat().st_mtime_ns > kept
    assert "overwrite_output_dir" not in record_in(tmp_path / "report")["flags"]


def test_the_embedded_input_is_built_again_where_that_is_asked(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()
    record = {"step": "embedded", "model": embedded.MODEL, "from": embedded.WHEELS}
    (out / "answers.jsonl").write_text("")

    def fetched(*_):
        raise SystemExit("fetches")

    monkeypatch.setattr(embedded, "fetch", fetched)
    argv = ["--output_dir", str(out)]

    def write(record: dict) -> None:
        (out / "run.json").write_text(json.dumps(record))
        sizes = {p.name: p.stat().st_size for p in out.iterdir() if p.name[0] != "."}
        (out / ".written").write_text(json.dumps(sizes))

    write(record)
    embedded.main(argv)
    assert "is there already; --overwrite_output_dir builds it again" in capsys.readouterr().out
    write({**record, "from": {"other==1": "0"}})
    assert "made of other wheels" in stops(embedded.main, argv, capsys)
    with pytest.raises(SystemExit, match="fetches"):
        embedded.main([*argv, "--overwrite_output_dir"])
    write({**record, "step": "sft"})
    assert "is what sft wrote" in stops(embedded.main, [*argv, "--overwrite_output_dir"], capsys)
