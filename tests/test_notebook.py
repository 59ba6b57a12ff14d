"""notebooks/colab.ipynb from an empty folder to the report, by its own code, on a tiny model.

Only pip, Colab's module and IPython's are stubs: the clone, every launch and every step are real.
"""

import importlib
import json
import os
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import REPO, TOPICS, write_jsonl
from notebook_tools import CELLS, CODE, MACHINE, RUN, Colab, Player, Stubs, bare_copy, nobody_asked

from instruct.arguments import ModelConfig, parse
from recipes import ppo, reward, sft

FEW = ["--report_to", "none", "--lora_r", "2", "--max_steps", "2", "--save_steps", "2",
       "--logging_steps", "1"]  # fmt: skip
# a tiny model's answers are all about as bad: without ties, some are preferred on every machine
FLAGS = {"label": ["--tie", "0"], "sft": FEW}
FLAGS["reward"] = [*FEW, "--eval_strategy", "steps", "--eval_steps", "1"]
FLAGS["ppo"] = [*FEW, "--rollout_batch_size", "8", "--per_device_train_batch_size", "4"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, tiny_model) -> SimpleNamespace:
    """Everything, once, as in Colab: nothing is there but the notebook, and who answers it."""
    here = tmp_path_factory.mktemp("colab")
    log = [
        {"id": f"{u}-{t}", "user_id": f"user {u}", "prompt": f"What is {t} number {u}?"}
        for u in range(60)
        for t in TOPICS[:3]
    ]
    completion = "I love it, it is great."
    answers = [{"prompt_id": r["id"], "prompt": r["prompt"], "completion": completion} for r in log]
    settings = {
        "drive": str(here / "drive"),
        "base_model": tiny_model,
        "prompt_log": write_jsonl(here / "log.jsonl", log),
        "answers": write_jsonl(here / "answers.jsonl", answers),
        "num_prompts": 24,
        "num_outputs": 3,
        "max_new_tokens": 8,
        "eval_prompts": 4,
        "more_flags": FLAGS,
    }
    stubs, machine = Stubs(here / "stubs"), here / "content"
    stubs.add_old_torchao()
    machine.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        colab = Colab(patch)
        # what pip would have made of the clone
        paths = (str(stubs.folder), str(machine / "instruct-recipes"))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        address = bare_copy(here)
        patch.setattr("builtins.input", lambda text: address)
        player = Player(patch, machine, **settings)
        scope = player.play()
    out = here / "drive" / "MyDrive" / "instruct-recipes"
    return SimpleNamespace(
        out=out, settings=settings, stubs=stubs, colab=colab, machine=machine, scope=scope,
        printed=player.printed, shown=player.shown,
    )  # fmt: skip


def test_it_ends_in_a_report_of_every_step_on_drive(chain):
    assert chain.colab.mounted == [chain.settings["drive"]] and chain.scope["OUT"] == chain.out
    report = json.loads((chain.out / "report" / "report.json").read_text())
    assert set(report["models"]) == {"gpt", "prompted", "sft", "ppo"}
    assert set(report["judges"]) >= {"labeler", "likelihood"}
    steps = {"prompts", "demonstrations", "sft", "sample", "label", "comparisons", "reward", "ppo"}
    assert steps <= set(report["seconds"])
    # nothing of the run is left on the machine
    assert not (chain.machine / "instruct-recipes" / "outputs").exists()
    labelers = {json.loads(row)["labeler"] for row in (chain.out / "rankings.jsonl").open()}
    assert labelers == {"scripted that reads the prompt"}


def test_it_runs_the_files_of_a_clone(chain):
    clone = chain.machine / "instruct-recipes"
    assert (clone / ".git").is_dir() and f"the repository is in {clone}\n" in chain.printed[2]
    assert [path.name for path in chain.machine.iterdir()] == [clone.name]


def test_pip_keeps_torch_and_takes_away_the_torchao_that_peft_refuses(chain):
    install, uninstall = chain.stubs.told_pip()
    assert install["words"][0] == "install" and install["words"][-2:] == ["--editable", ".[demo]"]
    assert install["constraint"] == f"torch=={metadata.version('torch')}\n"
    assert uninstall["words"][0] == "uninstall" and uninstall["words"][-1] == "torchao"
    assert "--yes" in uninstall["words"], "nobody could answer"


def test_every_cell_says_what_it_does_and_how_long_it_took(chain):
    kinds = [cell["cell_type"] for cell in CELLS]
    assert kinds[0] == "markdown" and kinds.count("markdown") >= kinds.count("code") - 2
    # but for the settings and what defines the helpers
    for printed in chain.printed[2:]:
        lines = printed.splitlines()
        what = lines[0].removeprefix("━━ ")
        assert lines[0].startswith("━━ ") and lines[-1].startswith(f"━━ {what}: took "), printed


def test_progress_is_one_line_that_moves(chain):
    moved = "".join(chain.printed)
    # few, where the machine is fast
    assert moved.count("\r") > 5
    for printed in chain.printed:
        # as a screen shows them: what stays of a bar is its end
        lines = [line.split("\r")[-1] for line in printed.split("\n")]
        assert sum("%|" in line for line in lines) <= 3 and len(lines) < 80, printed


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_a_cpu_is_launched_by_its_own_file(chain, name):
    command = json.loads((chain.out / "steps.json").read_text())[name]
    launched = command[: command.index(f"recipes/{name}.py")]
    assert launched[:2] == ["-m", "accelerate.commands.launch"]
    assert launched[-1] == "accelerate_configs/cpu.yaml" and (REPO / launched[-1]).is_file()
    assert f"recipes/configs/demo/{name}.yaml" in command
    assert (chain.out / name / "finished.json").is_file()


def test_curves_and_the_report_are_shown(chain):
    printed = "".join(chain.printed)
    for line in ("sft: evaluation loss", "reward: held out accuracy", "ppo: KL from SFT"):
        assert line in printed, line
    *curves, page = chain.shown
    assert len(curves) == 3 and all("<svg" in figures for figures in curves)
    assert page.startswith("<iframe ") and 'sandbox="allow-scripts"' in page
    # text of the page is an attribute here: nothing of it may end that
    assert "From prompt log to PPO" in page and page.count('"') == page.count('="') * 2
    assert str(chain.out / "report" / "report.html") in printed


def run_here(*words) -> None:
    """In the place of `run`, which has been tested by then: no process, seconds less."""
    words = [str(word) for word in words][1:]
    if "--config_file" in words:
        words = words[words.index("--config_file") + 2 :]
    if words[0] == "-m":
        words = words[1:]
    name = words[0].removesuffix(".py").replace("/", ".")
    print("$$", name, flush=True)
    module = importlib.import_module(name)
    (getattr(module, "cli", None) or module.main)(words[1:])


def answering(said: str) -> SimpleNamespace:
    """In the place of `subprocess`: peft and torch are not asked again, and nothing is drawn."""
    answer = SimpleNamespace(stdout=said, stderr="", returncode=0)
    return SimpleNamespace(run=lambda *words, **options: answer, PIPE=subprocess.PIPE)


def test_after_a_disconnect_it_goes_on_where_it_was(chain, monkeypatch):
    """The same folder, another machine; it was lost while PPO ran."""
    out = chain.out
    (out / "ppo" / "finished.json").unlink()
    (out / "report" / "answers.jsonl").unlink()
    files = ("sft/merged/model.safetensors", "samples.jsonl", "reward/adapter_model.safetensors")
    kept = {name: (out / name).stat().st_mtime_ns for name in files}
    monkeypatch.setattr("builtins.input", nobody_asked)
    player = Player(monkeypatch, REPO / "notebooks", **chain.settings | {"output_dir": str(out)})
    instead = {"run": run_here, "subprocess": answering("")}
    player.play(after={RUN: lambda scope: scope.update(instead)})
    assert kept == {name: (out / name).stat().st_mtime_ns for name in files}
    ran = [line[3:] for line in "".join(player.printed).splitlines() if line.startswith("$$")]
    assert ran == ["recipes.ppo", "recipes.evaluate", "recipes.chat"]
    assert "sft: there from before" in "".join(player.printed)
    assert (out / "ppo" / "finished.json").is_file() and (
        out / "report" / "answers.jsonl"
    ).is_file()


################
# On a GPU, which is not here: every command is one that accelerate and the recipes take
################

RECIPES = {
    "sft": (sft.ScriptArguments, sft.SFTConfig, ModelConfig),
    "reward": (reward.ScriptArguments, reward.RankedRewardConfig, ModelConfig),
    "ppo": (ppo.ScriptArguments, ppo.SharedBasePPOConfig, ModelConfig),
}


@pytest.fixture(scope="module")
def on_gpu(chain) -> dict[str, list[str]]:
    """{step: its command} where torch sees a GPU."""
    commands = {}

    def note(name, result, *words):
        commands[name] = [str(word) for word in words]

    settings = {**chain.settings, "output_dir": str(chain.out), "base_model": None}
    with pytest.MonkeyPatch.context() as patch:
        player = Player(patch, REPO / "notebooks", **settings)
        instead = {"step": note, "run": lambda *words: None}
        player.play(
            after={
                RUN: lambda scope: scope.update(subprocess=answering("Tesla T4\n")),
                MACHINE: lambda scope: scope.update(instead),
            }
        )
    assert "Tesla T4" in "".join(player.printed)
    return commands


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_gpu_is_launched_by_its_own_file(on_gpu, name, monkeypatch):
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: False)
    monkeypatch.setattr("transformers.training_args.is_torch_cuda_available", lambda: True)
    python, m, module, *words = on_gpu[name]
    assert (python, m, module) == (sys.executable, "-m", "accelerate.commands.launch")
    launched, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert launched.config_file == "accelerate_configs/one_gpu.yaml"
    assert launched.num_processes == 1 and not launched.use_cpu and not launched.multi_gpu
    assert launched.training_script == f"recipes/{name}.py"
    _, training, model = parse(RECIPES[name], launched.training_script_args)
    assert training.fp16 and model.dtype == "float32"


def test_a_gpu_gets_a_larger_model(on_gpu):
    words = on_gpu["sft"]
    assert words[words.index("--model_name_or_path") + 1] == "HuggingFaceTB/SmolLM2-360M"
    assert "embedded" in on_gpu, "the labeler's model"


################
# As it is stored
################


def test_it_is_stored_without_outputs_and_reads_on_a_screen():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert all(len(line.rstrip("\n")) <= 100 for line in cell["source"])
    # but for the settings and what defines the helpers
    assert all("\nwith timed(" in f"\n{source}" for source in CODE[2:])
