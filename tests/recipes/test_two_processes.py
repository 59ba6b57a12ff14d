"""Two gloo processes do what one does at the same global batch, and none waits for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO, write_jsonl
from safetensors.torch import load_file
from torch.testing import assert_close

from recipes import sft

COMMON = [
    "--report_to", "none", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "True",
    "--lora_r", "4", "--logging_steps", "1",
]  # fmt: skip
RUN = """
import atexit, faulthandler, json, os, sys
faulthandler.dump_traceback_later(100, exit=True)  # a hang shows where
from recipes import ppo, reward, sft
from instruct.runs import end_process_group
from accelerate import PartialState
class Unloaded:  # as gloo's threads now and then
    def __del__(self, abort=os.abort):
        abort()
late = Unloaded()
atexit.register(lambda: print("said at exit\\n", end=""))  # as trackers do
for name, argv in json.load(open(sys.argv[1])):
    {"sft": sft, "reward": reward, "ppo": ppo}[name].cli(argv)
    assert PartialState().num_processes == 2, PartialState().num_processes
    # as the launcher does: the next step reads what rank 0 is still writing
    PartialState().wait_for_everyone()
print(f"rank {PartialState().process_index} done\\n", end="")  # one write: the two share a pipe
end_process_group()
"""


def sft_flags(model, data, out, batch):
    # plain SGD: a step is the gradient, so equal weights after three steps are equal gradients in
    # each; dropout would differ
    return [
        "--model_name_or_path", model, "--dataset_name", data, "--output_dir", str(out),
        "--max_steps", "3", "--per_device_train_batch_size", str(batch), "--eval_strategy", "no",
        "--optim", "sgd", "--learning_rate", "0.5", "--lr_scheduler_type", "constant",
        "--lora_dropout", "0", *COMMON,
    ]  # fmt: skip


def steps(out: Path, key: str) -> list[float]:
    return [
        e[key]
        for e in json.loads((out / "trainer_state.json").read_text())["log_history"]
        if key in e
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, demonstrations, comparisons) -> Path:
    """All runs under one `torchrun` (starting it is what takes time)."""
    path = tmp_path_factory.mktemp("two")
    longer = [
        {**d, "completion": d["completion"][0]["content"] + " Very much so." * (i % 4)}
        for i, d in enumerate(demonstrations)
    ]
    data = path / "demonstrations"
    data.mkdir()
    write_jsonl(data / "train.jsonl", longer[:8])
    write_jsonl(data / "validation.jsonl", longer[8:])
    odd = path / "odd"  # numbers that neither two processes nor their batches divide
    odd.mkdir()
    write_jsonl(odd / "train.jsonl", longer[:5])
    write_jsonl(odd / "validation.jsonl", longer[9:])
    rankings = write_jsonl(path / "rankings.jsonl", comparisons[:7])
    held_out = write_jsonl(path / "held_out.jsonl", comparisons[9:])
    uneven = [f"Say {'a long, long thing about ' * (i % 4)}it." for i in range(5)]
    prompts = write_jsonl(path / "prompts.jsonl", [{"prompt": p} for p in uneven])
    small = ["--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "2"]
    runs = [
        ("sft", sft_flags(tiny_model, str(data), path / "sft-2", 4)),
        ("sft", [
            "--model_name_or_path", tiny_model, "--dataset_name", str(odd),
            "--output_dir", str(path / "sft-odd"), "--num_train_epochs", "2",
            "--eval_strategy", "epoch", *small, *COMMON,
        ]),
        ("reward", [
            "--model_name_or_path", tiny_model, "--dataset_name", rankings,
            "--dataset_test_split", held_out, "--output_dir", str(path / "reward-odd"),
            "--num_train_epochs", "2", "--eval_strategy", "epoch", *small, *COMMON,
        ]),
        ("ppo", [
            "--model_name_or_path", tiny_model, "--reward_model_path", str(path / "reward-odd"),
            "--dataset_name", prompts, "--output_dir", str(path / "ppo-odd"),
            "--response_length", "40", "--total_episodes", "12", "--rollout_batch_size", "4",
            "--num_ppo_epochs", "2", "--eval_strategy", "no", "--per_device_train_batch_size", "1",
            *COMMON,
        ]),
    ]  # fmt: skip
    (path / "runs.json").write_text(json.dumps(runs))
    (path / "run.py").write_text(RUN)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc_per_node", "2", str(path / "run.py"), str(path / "runs.json"),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, cwd=REPO, env=env, capture_output=True, text=True, timeout=150
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"two processes hung; last words: {(error.stderr or b'')[-1500:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("said at exit") == 2
    assert "rank 0 done" in done.stdout and "rank 1 done" in done.stdout
    return path


def test_sft_takes_the_steps_of_one_process(folder, tmp_path, tiny_model):
    """Completions of unequal length: a mean of each process's mean would be another loss."""
    sft.cli(sft_flags(tiny_model, str(folder / "demonstrations"), tmp_path / "sft-1", 8))
    for key in ("loss", "grad_norm"):
        one, two = steps(tmp_path / "sft-1", key), steps(folder / "sft-2", key)
        assert len(one) == 3 and two == pytest.approx(one, rel=1e-3), key
    one, two = (
        load_file(out / "adapter_model.safetensors")
        for out in (tmp_path / "sft-1", folder / "sft-2")
    )
    assert one.keys() == two.keys() and all(
        w.abs().max() > 0 for name, w in one.items() if "lora_B" in name
    )
    for name in one:
        assert_close(
            two[name], one[name], rtol=1e-3, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_unequal_data_ends_and_is_saved_once(folder):
    assert len(steps(folder / "sft-odd", "eval_loss")) == 3  # before training and after both epochs
    assert (folder / "sft-odd" / "merged" / "model.safetensors").is_file()
    metrics = json.loads((folder / "reward-odd" / "metrics.json").read_text())
    assert metrics["n_pairs"] == 1 + 3 + 5  # the held-out rankings' strict pairs, each once


def test_unequal_responses_end(folder):
    """Random policies end at different lengths on the two ranks, and yet both move on together."""
    assert len(steps(folder / "ppo-odd", "objective/kl")) == 3
    assert (folder / "ppo-odd" / "finished.json").is_file()
