"""The first gradients of SharedBasePPOTrainer equal those of four separate models in plain
loops.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SCRIPT_ENV, TESTS
from datasets import Dataset
from ppo_tools import (
    PROMPTS,
    NaivePPO,
    assert_same_gradients,
    first_gradients,
    make_setup,
    make_trainer,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def naive_gradients(setup, trainer, out: Path) -> dict[str, torch.Tensor]:
    trainer.shared.save_policy(out / "start")
    naive = NaivePPO(setup, out / "start", trainer.args.value_model)
    naive.loss(trainer.processing_class, PROMPTS, trainer.args).backward()
    return naive.gradients()


COMMON = {
    "max_grad_norm": 0.0,
    "missing_eos_penalty": 0.7,
    "kl_coef": 0.3,
    "lam": 0.9,
    "gamma": 0.97,
    "vf_coef": 0.5,
}


@pytest.mark.parametrize("value_model", ["adapter", "head"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_process(setup, tmp_path, value_model, checkpointing):
    trainer = make_trainer(
        setup,
        tmp_path,
        value_model=value_model,
        gradient_checkpointing=checkpointing,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        **COMMON,
    )
    expected = naive_gradients(setup, trainer, tmp_path)
    found = first_gradients(trainer)
    assert (
        any(".value." in n for n in found) == (value_model == "adapter")
        and "value_head.weight" in found
    )
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_other_architectures(tmp_path, kind):
    """Biases, Conv1D layers, untied or learned positions: the same equality (GPT-2's layers are not
    merged).
    """
    setup = make_setup(tmp_path / "setup", kind)
    trainer = make_trainer(
        setup, tmp_path / "out", value_model="head", gradient_accumulation_steps=2, **COMMON
    )
    trainer.shared.save_policy(tmp_path / "start")
    naive = NaivePPO(setup, tmp_path / "start", "head")
    if kind == "gpt2":
        naive.policy.get_base_model().model = naive.policy.get_base_model().transformer
    naive.loss(trainer.processing_class, PROMPTS, trainer.args).backward()
    assert_same_gradients(first_gradients(trainer), naive.gradients())


@pytest.mark.parametrize("value_model", ["adapter", "head"])
def test_two_processes(setup, tmp_path, value_model):
    settings = {
        "value_model": value_model,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        **COMMON,
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    command += [
        str(TESTS / "ppo_two_processes.py"),
        json.dumps(setup),
        str(tmp_path),
        json.dumps(settings),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env=SCRIPT_ENV,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trainer = make_trainer(setup, tmp_path / "one", **settings)
    assert_same_gradients(
        load_file(tmp_path / "gradients.safetensors"), naive_gradients(setup, trainer, tmp_path)
    )


def test_ptx_adds_its_own_gradient(setup, tmp_path):
    """With --ptx_coef the policy's gradient is PPO's plus coef x gradient of the mean token loss on
    the drawn rows.
    """
    text = ["The sea is wide and blue.", "Trains run on time here, mostly so."]
    rows = Dataset.from_list([{"text": t} for t in text])
    plain = first_gradients(make_trainer(setup, tmp_path / "a", **COMMON))
    trainer = make_trainer(
        setup, tmp_path / "b", ptx_dataset=rows, ptx_coef=2.5, ptx_batch_size=3, **COMMON
    )
    drawn, original = [], trainer.ptx.draw

    def noted(count: int) -> list[list[int]]:
        drawn.append(original(count))
        return drawn[-1]

    trainer.ptx.draw = noted
    found = first_gradients(trainer)

    naive = NaivePPO(setup, _saved(trainer, tmp_path), "adapter").policy
    total, tokens = torch.zeros(()), 0
    assert (
        len(drawn) == 2 and len(drawn[0]) == 6
    )  # one draw per pass, ptx_batch_size x gradient_accumulation_steps rows
    for row in drawn[0]:
        logits = naive(torch.tensor([row])).logits[0]
        total = total - sum(logits[i].log_softmax(-1)[row[i + 1]] for i in range(len(row) - 1))
        tokens += len(row) - 1
    (total / tokens).backward()
    for name, parameter in naive.named_parameters():
        if ".default." in name:
            expected = plain["base." + name] + 2.5 * parameter.grad
            assert torch.allclose(found["base." + name], expected, rtol=1e-3, atol=1e-6), name
    assert all(
        torch.allclose(found[n], g, rtol=1e-4, atol=1e-7)
        for n, g in plain.items()
        if ".default." not in n
    )


def _saved(trainer, folder: Path) -> Path:
    trainer.shared.save_policy(folder / "start")
    return folder / "start"


@pytest.mark.parametrize("micro", [1, 8])
def test_cutting_into_micro_batches_changes_nothing(setup, tmp_path, micro):
    whole = first_gradients(
        make_trainer(setup, tmp_path / "a", per_device_train_batch_size=4, **COMMON)
    )
    other = make_trainer(
        setup,
        tmp_path / "b",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=8 // micro,
        **COMMON,
    )
    assert_same_gradients(first_gradients(other), whole)


def test_full_fine_tuning_has_the_gradients_of_a_plain_model(setup, tmp_path):
    """Every weight trained, a frozen copy as reference: policy gradient equals a plain loop's on
    the bare model.
    """
    trainer = make_trainer(setup, tmp_path, full=True, value_model="head", **COMMON)
    found = first_gradients(trainer)
    model = AutoModelForCausalLM.from_pretrained(setup["model"], dtype=torch.float32).eval()
    naive = NaivePPO.__new__(NaivePPO)
    naive.policy = naive.reference = model
    naive.policy.get_base_model = lambda: model
    other = NaivePPO(setup, _adapter_folder(setup, tmp_path), "head")
    naive.reward, naive.value_model, naive.head = other.reward, "head", other.head
    naive.loss(trainer.processing_class, PROMPTS, trainer.args).backward()
    expected = {"full_policy." + n: p.grad for n, p in model.named_parameters()}
    expected |= {
        "value_head.weight": naive.head.weight.grad,
        "value_head.bias": naive.head.bias.grad,
    }
    assert_same_gradients(found, expected)


def _adapter_folder(setup, tmp_path):
    return _saved(make_trainer(setup, tmp_path / "lora"), tmp_path)
