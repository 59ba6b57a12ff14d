"""Samples: their contract, and the same ones after a kill."""

import json
from types import SimpleNamespace

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl

from data_prep import sample
from instruct.errors import UserError
from instruct.files import load_rows


def sample_argv(tiny_model, tmp_path, *more):
    rows = [{"id": f"p{i}", "prompt": "word " * (1 + i % 5), "user_id": f"u{i}"} for i in range(10)]
    return [
        "--model_name_or_path",
        tiny_model,
        "--input",
        write_jsonl(tmp_path / "prompts.jsonl", rows),
        "--num_outputs",
        "3",
        "--temperature",
        "0.7",
        "1.0",
        "--max_new_tokens",
        "6",
        "--batch_size",
        "4",
        *more,
    ]


def test_samples_hold_the_contract_and_deal_temperatures_out(tiny_model, tmp_path):
    out = tmp_path / "s.jsonl"
    sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(out)])
    rows = load_rows(out).to_list()
    assert [r["prompt_id"] for r in rows] == [f"p{i}" for i in range(10)]
    assert all(
        set(r) == {"prompt_id", "prompt", "user_id", "completions", "model", "sampling"}
        for r in rows
    )
    assert all(sorted(s["temperature"] for s in r["sampling"]) == [0.7, 0.7, 1.0] for r in rows)
    assert len({c for r in rows for c in r["completions"]}) > 20  # really sampled


def test_killed_and_run_again_samples_are_the_same(tiny_model, tmp_path, monkeypatch):
    whole, again = tmp_path / "whole.jsonl", tmp_path / "again.jsonl"
    sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(whole)])
    import instruct.generation as generation

    original, calls = generation.generate_ids, []

    def dies_at_the_fourth(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(generation, "generate_ids", dies_at_the_fourth)
    with pytest.raises(SystemExit):
        sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(again)])
    assert not again.exists()
    with (tmp_path / "again.jsonl.partial").open("a") as partial:
        partial.write('{"batch": "0:12", "compl')  # killed in the middle of a write
    sample.main([*sample_argv(tiny_model, tmp_path), "--output", str(again)])
    assert len(calls) == 4 + 8 - 3  # eight batches in all, three were done
    assert (
        again.read_text() == whole.read_text() and not (tmp_path / "again.jsonl.partial").exists()
    )


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_first_line_that_a_kill_or_a_full_disk_cut_holds_no_batch(tmp_path, share):
    settings = {"model_name_or_path": ["m"], "seed": 0}
    partial = tmp_path / "s.jsonl.partial"
    line = json.dumps(settings)
    partial.write_text(line[: int(share * len(line))])
    finished = sample.FinishedBatches(partial, settings, "completions")
    assert finished.done == {} and partial.read_text() == line + "\n"


def test_partial_of_other_prompts_kept_is_not_used(tiny_model, tmp_path, monkeypatch, capsys):
    """Another --max_prompt_tokens puts other prompts into the batches: outputs must not mix."""
    import instruct.generation as generation

    original, calls = generation.generate_ids, []

    def dies_at_the_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(generation, "generate_ids", dies_at_the_third)
    argv = [*sample_argv(tiny_model, tmp_path), "--output", str(tmp_path / "s.jsonl")]
    with pytest.raises(SystemExit):
        sample.main(argv)
    other = [*argv, "--max_prompt_tokens", "400"]
    assert "s.jsonl.partial holds" in stops(sample.main, other, capsys) and len(calls) == 3
    (tmp_path / "s.jsonl.partial").unlink()
    sample.main(other)
    assert len(calls) == 3 + 8  # all eight batches again


def test_peoples_answers_join_the_outputs(tiny_model, tmp_path):
    answers = [
        {"prompt_id": f"p{i}", "completion": f"By a person {i}.", "source": "people"}
        for i in (2, 5)
    ]
    answers.append({"prompt_id": "p3", "completion": "too long " * 20, "source": "people"})
    argv = [
        *sample_argv(tiny_model, tmp_path),
        "--answers",
        write_jsonl(tmp_path / "answers.jsonl", answers),
    ]
    argv += ["--max_new_tokens", "16"]
    sample.main([*argv, "--output", str(tmp_path / "s.jsonl")])
    rows = load_rows(tmp_path / "s.jsonl").to_list()
    assert [r["prompt_id"] for r in rows] == ["p2", "p5"]
    assert [(len(r["completions"]), r["completions"][3], r["model"][3]) for r in rows] == [
        (4, "By a person 2.", "people"),
        (4, "By a person 5.", "people"),
    ]


def test_partial_of_other_settings_is_not_used(tiny_model, tmp_path, capsys):
    out = tmp_path / "s.jsonl"
    other = '{"models": ["other"]}\n{"batch": "0:0", "completions": ["wrong"]}\n'
    (tmp_path / "s.jsonl.partial").write_text(other)
    argv = [*sample_argv(tiny_model, tmp_path), "--output", str(out)]
    assert "delete it to start over" in stops(sample.main, argv, capsys) and not out.exists()
    assert (tmp_path / "s.jsonl.partial").read_text() == other


def test_too_long_prompts_are_a_user_error_when_none_is_left(tiny_model, tmp_path, capsys):
    argv = [
        *sample_argv(tiny_model, tmp_path),
        "--output",
        tmp_path / "s.jsonl",
        "--max_prompt_tokens",
        2,
    ]
    assert "--max_prompt_tokens 2" in stops(sample.main, argv, capsys)


def test_somebodys_file_is_no_finished_output(tiny_model, tmp_path, capsys):
    mine = write_jsonl(tmp_path / "s.jsonl", [{"a": 1}])
    argv = [*sample_argv(tiny_model, tmp_path), "--output", mine]
    assert "holds no samples" in stops(sample.main, argv, capsys)
    assert json.loads((tmp_path / "s.jsonl").read_text()) == {"a": 1}


def test_what_is_found_is_of_the_same_model_data_and_flags(tiny_model, tmp_path, capsys):
    model = save_model(tmp_path / "model")
    out = tmp_path / "s.jsonl"
    argv = [*sample_argv(model, tmp_path), "--output", str(out)]
    sample.main(argv)
    before = out.read_bytes()
    sample.main(argv)
    assert "is there already; delete it" in capsys.readouterr().out and out.read_bytes() == before
    assert "other temperature;" in stops(sample.main, [*argv, "--temperature", "0.5"], capsys)
    save_model(tmp_path / "model", seed=1)  # trained anew at the same path
    assert "other models;" in stops(sample.main, argv, capsys)
    # nor are its finished batches taken for those of the new one
    (tmp_path / "s.jsonl.run").rename(tmp_path / "s.jsonl.partial")
    out.unlink()
    drawn = (tmp_path / "s.jsonl.partial").read_bytes()
    assert "s.jsonl.partial holds what a run with another" in stops(sample.main, argv, capsys)
    assert (tmp_path / "s.jsonl.partial").read_bytes() == drawn  # hours of work, kept
    (tmp_path / "s.jsonl.partial").unlink()
    sample.main(argv)
    other = [{"id": f"p{i}", "prompt": "other words"} for i in range(10)]
    write_jsonl(tmp_path / "prompts.jsonl", other)  # the same ids
    assert "other input;" in stops(sample.main, argv, capsys)


def test_an_answer_meets_its_prompt_whatever_the_type_of_the_id():
    def chosen(ids: list, answered: list[str]) -> list[str]:
        rows = [{"prompt": "Hi", "id": value} for value in ids]
        args = SimpleNamespace(input="p.parquet", answers="a.jsonl", limit=None, seed=0)
        return [
            row["prompt_id"] for row in sample.choose_prompts(rows, dict.fromkeys(answered), args)
        ]

    assert chosen([0, 1, 2.0], ["0", "2"]) == ["0", "2"]
    with pytest.raises(UserError, match="no prompt_id in it"):
        chosen([1], ["0"])


def test_every_model_and_temperature_has_its_turn(tiny_model, tmp_path, capsys):
    """Fewer outputs than sources would leave one out in silence."""
    argv = [*sample_argv(tiny_model, tmp_path, "--num_outputs", "1"), "--output"]
    error = stops(sample.main, [*argv, str(tmp_path / "s.jsonl")], capsys)
    assert "--num_outputs 1: fewer than the 2" in error and "at 1 would draw nothing" in error
    assert not list(tmp_path.glob("s.jsonl*"))
