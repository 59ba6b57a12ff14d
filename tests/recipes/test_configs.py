"""Every YAML in the repo is read by the program it is for.

And the CPU launchers start as many processes as they say.
"""

import json
import os
import subprocess
import sys

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from conftest import REPO

from instruct.arguments import ModelConfig, parse
from recipes import ppo, reward, sft

ACCELERATE = sorted((REPO / "accelerate_configs").glob("*.yaml"))
RECIPES = sorted((REPO / "recipes" / "configs").glob("*/*.yaml"))
PARSERS = {
    "sft": (sft.ScriptArguments, sft.SFTConfig, ModelConfig),
    "reward": (reward.ScriptArguments, reward.RankedRewardConfig, ModelConfig),
    "ppo": (ppo.ScriptArguments, ppo.SharedBasePPOConfig, ModelConfig),
}
EXPECTED = {  # distributed type, processes, machines
    "cpu": ("NO", 1, 1),
    "cpu_x2": ("MULTI_GPU", 2, 1),
    "one_gpu": ("NO", 1, 1),
    "ddp": ("MULTI_GPU", 8, 1),
    "fsdp2": ("FSDP", 8, 1),
    "zero2": ("DEEPSPEED", 8, 1),
    "zero3": ("DEEPSPEED", 8, 1),
    "two_nodes": ("MULTI_GPU", 16, 2),
}


def test_the_files_that_should_be_there_are():
    assert {p.stem for p in ACCELERATE} == set(EXPECTED)
    found = {f"{p.parent.name}/{p.stem}" for p in RECIPES}
    assert {f"{place}/{step}" for place in ("colab-t4", "node-8gpu") for step in PARSERS} <= found
    assert "demo/sft" in found


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda p: p.stem)
def test_accelerate_reads_its_config(path):
    assert path.read_text().startswith("# "), "the first line says when to use it"
    config = load_config_from_file(str(path))
    assert (config.distributed_type.value, config.num_processes, config.num_machines) == EXPECTED[
        path.stem
    ]
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    kind = config.distributed_type
    assert arguments.use_fsdp == (kind == DistributedType.FSDP)
    assert arguments.use_deepspeed == (kind == DistributedType.DEEPSPEED)
    assert arguments.num_processes == config.num_processes
    if kind == DistributedType.FSDP:
        assert not config.use_cpu and int(arguments.fsdp_version) == 2


def test_slurm_file_is_bash_and_names_files_that_exist():
    path = REPO / "accelerate_configs" / "two_nodes.slurm"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert "two_nodes.yaml" in text and "node-8gpu/sft.yaml" in text and "$SLURM_NODEID" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recipe_reads_its_config(path, monkeypatch, tmp_path):
    import torch

    monkeypatch.chdir(REPO)
    # as on the machine the file is for: a GPU that has bf16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: True)
    if path.parent.name != "demo":
        assert "estimated" in path.read_text() or "measured" in path.read_text(), (
            "the memory it needs"
        )
    script, training, model = parse(PARSERS[path.stem.split("_")[0]], ["--config", str(path)])
    assert (
        script.dataset_name
        and model.model_name_or_path
        and training.output_dir.startswith("outputs/")
    )
    assert not training.push_to_hub and not training.trust_remote_code
    if path.parent.name == "colab-t4":
        assert training.fp16 and not training.bf16 and model.dtype == "float32"
    if path.parent.name == "node-8gpu":
        assert training.bf16 and model.dtype == "bfloat16"
    if path.stem == "ppo" and training.rollout_batch_size:
        processes = 8 if path.parent.name == "node-8gpu" else 1
        micro = training.per_device_train_batch_size * processes
        assert training.rollout_batch_size % (micro * training.num_mini_batches) == 0


WHO = """
import json, sys
from recipes.sft import SFTConfig
args = SFTConfig(sys.argv[1])
state = args.distributed_state
with open(f"{sys.argv[1]}/{state.process_index}.json", "w") as out:
    json.dump([args.world_size, state.distributed_type.value, state.backend, args.device.type], out)
"""


@pytest.mark.parametrize(
    "name, expected", [("cpu", [1, "NO", None, "cpu"]), ("cpu_x2", [2, "MULTI_CPU", "gloo", "cpu"])]
)
def test_cpu_launchers_start_what_they_say(name, expected, tmp_path):
    (tmp_path / "who.py").write_text(WHO)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        f"accelerate_configs/{name}.yaml",
        str(tmp_path / "who.py"),
        str(tmp_path),
    ]
    subprocess.run(
        command, cwd=REPO, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("*.json"))]
    assert found == [expected] * expected[0]
