"""run.json: which flags count, what tells two runs apart, and what is removed by it."""

import copy
import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from fnmatch import fnmatch
from types import SimpleNamespace

import accelerate
import pytest
from conftest import SCRIPT_ENV, save_model, write_jsonl
from transformers import training_args

from instruct import run_defaults
from instruct.arguments import ModelConfig, parse
from instruct.errors import UserError
from instruct.run.run_record import (
    UNRECORDED,
    differences,
    labelers_of,
    on_main,
    other_versions,
    read_record,
    record_of,
    recorded_flags,
    remove_written,
    would_be_overwritten,
    write_record,
)
from instruct.runs import _check_same
from instruct.trainers.ppo.config import SharedBasePPOConfig
from recipes import ppo, reward, sft

CLASSES = (sft.ScriptArguments, sft.SFTConfig, ModelConfig)


def parsed(tmp_path, *flags: str) -> tuple:
    return parse(CLASSES, ["--output_dir", str(tmp_path / "out"), "--use_cpu", *flags])


def make_record(tmp_path, *flags: str, data=None) -> dict:
    return record_of("sft", parsed(tmp_path, *flags), data or {})


def test_every_name_that_is_left_out_is_a_flag():
    """A misspelt one would be recorded after all, and its change refused."""
    recipes = (sft.SFTConfig, reward.RankedRewardConfig, SharedBasePPOConfig, ModelConfig)
    scripts = (sft.ScriptArguments, reward.ScriptArguments, ppo.ScriptArguments)
    names = {field.name for made in (*recipes, *scripts) for field in dataclasses.fields(made)}
    unknown = [p for p in UNRECORDED if not any(fnmatch(name, p) for name in names)]
    assert unknown == []


def test_yaml_or_flag_makes_no_difference_and_the_result_is_plain_json(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 2.0e-4\nlora_r: 4\nlr_scheduler_type: cosine\n")
    typed = ["--learning_rate", "2e-4", "--lora_r", "4", "--lr_scheduler_type", "cosine"]
    by_yaml = recorded_flags(*parsed(tmp_path, "--config", str(file)))
    assert by_yaml == recorded_flags(*parsed(tmp_path, *typed)) == json.loads(json.dumps(by_yaml))
    assert by_yaml["lr_scheduler_type"] == "cosine" and by_yaml["learning_rate"] == 2e-4


def test_only_flags_that_change_the_result_are_recorded(tmp_path):
    one = make_record(tmp_path, "--logging_steps", "1", "--save_steps", "2", "--run_name", "a")
    other = make_record(tmp_path, "--logging_steps", "9", "--run_name", "b")
    assert differences(one, other) == []


@pytest.mark.parametrize(
    ("flag", "was", "now"),
    [
        ("learning_rate", "1e-4", "2e-4"),
        ("lora_r", "8", "16"),
        ("per_device_train_batch_size", "2", "4"),
        ("num_train_epochs", "1", "3"),
        ("seed", "0", "1"),
        ("lora_dropout", "0.05", "0.1"),
    ],
)
def test_a_difference_is_named_as_it_is_typed(tmp_path, flag, was, now):
    one = make_record(tmp_path, f"--{flag}", was)
    assert differences(one, make_record(tmp_path, f"--{flag}", now)) == [
        f"--{flag} was {was}, is {now}"
    ]


def test_without_lora_the_rate_is_another_too(tmp_path):
    one, other = (make_record(tmp_path, "--use_peft", said) for said in ("True", "False"))
    assert differences(one, other) == [
        "--learning_rate was 2e-4, is 2e-5",
        "--use_peft was True, is False",
    ]


def test_another_base_or_other_data_are_differences_and_a_moved_folder_is_none(tmp_path):
    def record(model: str, rows: list[dict]) -> dict:
        data = write_jsonl(tmp_path / "d.jsonl", rows)
        flags = ["--model_name_or_path", str(tmp_path / model), "--dataset_name", data]
        return make_record(tmp_path, *flags, data={"dataset_name": (data, "train")})

    rows = [{"prompt": "a", "completion": "b"}]
    save_model(tmp_path / "a")
    save_model(tmp_path / "copy")
    save_model(tmp_path / "b", "qwen2")
    one = record("a", rows)
    assert one["base"]["path"] == "../a"  # seen from the output folder
    assert differences(one, record("copy", rows)) == []
    (change,) = differences(one, record("b", rows))
    assert change == f"--model_name_or_path was {tmp_path / 'a'}, is {tmp_path / 'b'}"
    (change,) = differences(one, record("a", [{"prompt": "a", "completion": "c"}]))
    assert change == f"--dataset_name {tmp_path / 'd.jsonl'} holds other files than it did"
    save_model(tmp_path / "a", seed=3)  # trained anew at the same path
    (change,) = differences(one, record("a", rows))
    assert "--model_name_or_path" in change and "holds other files" in change


def test_processes_and_commits_count_and_versions_do_not(tmp_path):
    one = make_record(tmp_path)
    assert differences(one, {**one, "world_size": 2}) == ["--num_processes was 1, is 2"]
    old, new = ({**one, "base": {"name": "you/a", "commit": c * 40}} for c in "ab")
    (change,) = differences(old, new)
    assert change.endswith(f"was at commit {'a' * 40}, is at {'b' * 40}")
    newer = {**one, "versions": {**one["versions"], "trl": "99"}}
    assert differences(one, newer) == []
    assert other_versions(one, newer) == [f"trl was {one['versions']['trl']}, is 99"]


def test_who_ranked_is_read_from_the_rows():
    from datasets import Dataset

    rows = Dataset.from_list([{"labeler": "ben"}, {"labeler": "anna"}, {"labeler": None}])
    assert labelers_of(rows, None) == ["anna", "ben"]
    assert labelers_of(Dataset.from_list([{"prompt": "a"}])) is None


def test_starting_over_removes_what_the_record_lists_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    ours = [
        "adapter_model.safetensors", "finished.json", "merged/model.safetensors",
        "checkpoint-4/optimizer.pt", "checkpoint-4/value/value_head.safetensors",
        "checkpoint-4/global_step4/rank_0.pt", "checkpoint-6/trainer_state.json",
    ]  # fmt: skip
    foreign = [
        "notes.txt", "data.jsonl", "merged/policy.gguf", "plots/curve.png", "merged2/model",
        "tokenizer_notes.txt", "vocab_words.txt", "optimizer_sweep.csv", "scheduler.md",
        "checkpoint-best/optimizer.pt", "checkpoint-40-backup/trainer_state.json",
    ]  # fmt: skip
    for name in ours + foreign:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    write_record(out, make_record(tmp_path))
    remove_written(out, read_record(out))
    left = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert left == sorted(foreign) and not (out / "checkpoint-4").exists()
    assert would_be_overwritten(out) == ["merged"]  # it holds somebody's file


def test_a_record_that_cannot_be_read_is_one_sentence(tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="run.json cannot be read"):
        read_record(tmp_path)


def test_a_mistake_seen_by_the_main_process_is_one_of_all():
    def stops():
        raise UserError("no such thing")

    assert on_main(lambda: 3) == 3
    with pytest.raises(UserError, match="no such thing"):
        on_main(stops)


def test_any_error_of_the_main_process_reaches_the_others(monkeypatch):
    """One that stayed with the main process would leave the others waiting for its answer."""
    sent = []

    def full():
        raise OSError("no space left")

    monkeypatch.setattr(
        accelerate.utils, "broadcast_object_list", lambda shared: sent.extend(shared)
    )
    with pytest.raises(OSError, match="no space left"):  # where it happened, it is what it was
        on_main(full)
    assert sent == [{"value": None, "error": "no space left"}]

    def received(shared):
        shared[0] = sent[0]

    monkeypatch.setattr(accelerate.utils, "broadcast_object_list", received)
    monkeypatch.setattr(accelerate, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    with pytest.raises(UserError, match="no space left"):
        on_main(full)


def test_other_hardware_is_said_and_not_refused(tmp_path, monkeypatch, capsys):
    """Where nothing is asked, a GPU computes in bf16: the same command is the same run."""
    argv = ["--output_dir", str(tmp_path / "out")]
    on_cpu = record_of("sft", parse(CLASSES, [*argv, "--use_cpu"]), {})
    assert on_cpu["hardware"] == "cpu in fp32"
    monkeypatch.setattr(run_defaults, "_gpu_has_bf16", lambda: True)
    monkeypatch.setattr(run_defaults.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(training_args, "is_torch_bf16_gpu_available", lambda: True)
    other = parse(CLASSES, argv)
    assert other[1].bf16 and not other[1].use_cpu  # resolved as on that GPU
    on_gpu = record_of("sft", other, {})
    assert on_gpu["hardware"].endswith("in bf16") and differences(on_cpu, on_gpu) == []
    _check_same(tmp_path, on_gpu, on_cpu)
    assert "begun on cpu in bf16, and goes on on cpu in fp32" in capsys.readouterr().out
    # asked for, it is a difference
    asked = record_of("sft", parse(CLASSES, [*argv, "--bf16", "True"]), {})
    assert differences(on_cpu, asked) == ["--bf16 was None, is True"]
    # an earlier version recorded what was resolved
    old = {name: value for name, value in on_cpu.items() if name != "hardware"}
    old["flags"] = {**old["flags"], "bf16": False, "fp16": False}
    assert differences(old, on_gpu) == []


def test_a_chat_template_is_known_by_its_content_wherever_it_lies(tmp_path, tiny_model):
    def record(template) -> dict:
        return make_record(tmp_path, "--chat_template_path", str(template))

    shutil.copytree(tiny_model, tmp_path / "theirs")
    one = record(tmp_path / "theirs")
    assert one["data"]["chat_template_path"]["sha256"]
    assert differences(one, record(tmp_path / "theirs")) == []
    # an earlier version had the path among the flags
    del (old := copy.deepcopy(one))["data"]["chat_template_path"]
    assert differences(old, one) == []
    (tmp_path / "theirs" / "chat_template.jinja").write_text("{{ messages }}")
    (change,) = differences(one, record(tmp_path / "theirs"))
    assert "--chat_template_path" in change and "holds other files" in change
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    one = record(tmp_path / "t.jinja")
    (tmp_path / "t.jinja").write_text("{{ messages }} ")
    assert len(differences(one, record(tmp_path / "t.jinja"))) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no tokenizer in this folder"):
        record(tmp_path / "empty")


ON_ONE = """
import sys
from accelerate import PartialState
from instruct.command.commands import command
from instruct.errors import UserError
from instruct.run.run_record import together
from instruct.runs import end_process_group
def work():
    if PartialState().process_index == 1 and sys.argv[1] == "fails":
        raise UserError("a score is nan")
    return PartialState().process_index
@command
def main(argv=None):
    PartialState(cpu=True)
    print("returned", together(work))
    PartialState().wait_for_everyone()
main()
end_process_group()
"""


@pytest.mark.parametrize(("how", "code"), [("works", 0), ("fails", 2)])
def test_what_one_process_raises_ends_all_of_them_without_a_launcher(how, code, tmp_path):
    """As srun and MPI start them: nobody ends the others for us."""
    (tmp_path / "work.py").write_text(ON_ONE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in "01":
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}
        started.append(
            subprocess.Popen(
                [sys.executable, str(tmp_path / "work.py"), how], env=SCRIPT_ENV | ranks | where,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    try:
        said = [process.communicate(timeout=60) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [code, code]
    for rank, (out, error) in enumerate(said):
        assert f"returned {rank}" in out if code == 0 else "a score is nan" in error
