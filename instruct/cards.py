"""Model cards that say what a stranger needs: the data, the base model, the numbers and the exact command."""

import json
import os
import shlex
import sys
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from instruct.files import atomic_file

# What a card shows of a run's log: the last value, and for these two the first beside it.
LOGGED = (
    "eval_loss",
    "objective/scores",
    "objective/kl",
    "objective/length",
    "objective/eos_rate",
    "train_loss",
)
FIRST_TOO = ("eval_loss", "objective/scores")

TITLES = {
    "sft": "supervised fine-tuning (step 1 of InstructGPT)",
    "reward": "a reward model from rankings (step 2 of InstructGPT)",
    "ppo": "PPO against a reward model (step 3 of InstructGPT)",
}
LOADING = {
    "sft": """from transformers import AutoModelForCausalLM, AutoTokenizer

# merged/ is a plain model; the top folder is the LoRA adapter
tokenizer = AutoTokenizer.from_pretrained("{name}", subfolder="merged")
model = AutoModelForCausalLM.from_pretrained("{name}", subfolder="merged")""",
    "reward": """from instruct.models import load_reward  # adapter, head and bias; see reward_head.json

reward = load_reward("{name}")
print(reward.score(["What of tea?"], ["It is great."]))""",
    "ppo": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

# the top folder is the policy's LoRA adapter, value/ the value function
tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoPeftModelForCausalLM.from_pretrained("{name}")""",
}


def exact_command() -> str:
    """The command line of this process, its script named as seen from where it was started."""
    script = os.path.relpath(sys.argv[0]) if os.path.exists(sys.argv[0]) else sys.argv[0]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    launcher = ["accelerate", "launch"] + (
        ["--num_processes", str(processes)] if processes > 1 else []
    )
    return shlex.join([*launcher, script, *sys.argv[1:]])


def metrics_of(output_dir: str | Path, log_history: list[dict]) -> dict[str, float]:
    """The numbers of a run: its `metrics.json` where the recipe writes one, else first and last logged values."""
    file, metrics = Path(output_dir) / "metrics.json", {}
    if file.is_file():
        found = json.loads(file.read_text())
        metrics = {
            k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)
        }
    for key in LOGGED:
        values = [entry[key] for entry in log_history if key in entry]
        if values and key in FIRST_TOO:
            metrics[f"{key} (first)"] = values[0]
        if values:
            metrics[f"{key} (last)"] = values[-1]
    return metrics


def write_model_card(
    output_dir: str | Path,
    base_model: str,
    datasets: list[str],
    metrics: dict[str, float],
    command: str,
    step: str = "sft",
    name: str | None = None,
) -> None:
    """Writes `README.md` into a model folder.

    Args:
        base_model: folder or Hub id the run started from; only a Hub id becomes card metadata.
        datasets: sources the run learned from.
        metrics: name -> number.
        command: what was typed.
        step: sft, reward or ppo.
        name: Hub id of the model, where it has one.
    """
    is_hub = lambda source: not Path(source).exists() and source.count("/") <= 1  # noqa: E731
    data = ModelCardData(
        base_model=base_model if is_hub(base_model) else None,
        datasets=[d for d in datasets if is_hub(d)] or None,
        library_name="peft"
        if (Path(output_dir) / "adapter_config.json").is_file()
        else "transformers",
        pipeline_tag="text-classification" if step == "reward" else "text-generation",
        tags=["instruct-recipes", "trl", step],
    )
    rows = [f"| {key} | {value:.4g} |" for key, value in metrics.items()]
    where = (
        ""
        if is_hub(base_model)
        else " (a local folder: to load an adapter elsewhere, push that model too)"
    )
    text = [
        "---", data.to_yaml(), "---", "", f"# {name or Path(output_dir).resolve().name}", "",
        f"Made by {TITLES[step]} with instruct-recipes.", "",
        f"- Base model: `{base_model}`{where}", *(f"- Data: `{source}`" for source in datasets), "",
        "## Metrics", "", *(["| metric | value |", "|---|---|", *rows] if rows else ["None logged yet."]), "",
        "## Command", "", "```bash", command, "```", "",
        "## Use", "", "```python", LOADING[step].format(name=name or Path(output_dir).name), "```", "",
    ]  # fmt: skip
    with atomic_file(Path(output_dir) / "README.md") as beside:
        ModelCard("\n".join(text)).save(beside)


def use_our_card(trainer, step: str, base_model: str, datasets: list[str | None]) -> None:
    """From here on, wherever Trainer writes its model card (each save, each push), it is this one."""

    def create_model_card(*args, **kwargs) -> None:
        if trainer.is_world_process_zero():
            folder, metrics = (
                trainer.args.output_dir,
                metrics_of(trainer.args.output_dir, trainer.state.log_history),
            )
            sources = [source for source in datasets if source]
            write_model_card(
                folder, base_model, sources, metrics, exact_command(), step, trainer.hub_model_id
            )

    trainer.create_model_card = create_model_card
