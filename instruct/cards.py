"""Model cards that say what a stranger needs: data, base model, numbers and the exact command."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from instruct.files import atomic_file
from instruct.plain_text import markdown_code, markdown_text, plain
from instruct.processes import without_token
from instruct.run.run_record import read_record

# What a card shows of a run's log: the last value, and of FIRST_TOO the first beside it.
LOGGED = (
    "eval_loss",
    "objective/scores",
    "objective/kl",
    "objective/length",
    "objective/eos_rate",
    "train_loss",
)
FIRST_TOO = ("eval_loss", "objective/scores")

# Which of the paper's three steps made the model.
TITLES = {
    "sft": "supervised fine-tuning (step 1 of InstructGPT)",
    "reward": "a reward model from rankings (step 2 of InstructGPT)",
    "ppo": "PPO against a reward model (step 3 of InstructGPT)",
}
# Code a reader can paste: each step leaves another kind of folder.
LOADING = {
    "sft": """from transformers import AutoModelForCausalLM, AutoTokenizer

# merged/ is a plain model{beside}
tokenizer = AutoTokenizer.from_pretrained("{name}", subfolder="merged")
model = AutoModelForCausalLM.from_pretrained("{name}", subfolder="merged")""",
    "adapter": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoPeftModelForCausalLM.from_pretrained("{name}")""",
    "whole": """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")""",
    "reward": """# with its head and bias; see reward_head.json
from instruct.models import load_reward

reward = load_reward("{name}")
print(reward.score(["What of tea?"], ["It is great."]))""",
    "ppo": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

# the top folder is the policy's LoRA adapter, value/ the value function
tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoPeftModelForCausalLM.from_pretrained("{name}")""",
}


def _loading(step: str, merged: bool, is_adapter: bool) -> str:
    """The code that loads what a step left."""
    if step == "reward" or (step == "sft" and merged):
        return LOADING[step]
    if not is_adapter:
        return LOADING["whole"]
    return LOADING["ppo" if step == "ppo" else "adapter"]


def exact_command() -> str:
    """The command line of this process, its script named as seen from where it was started.

    A token is left out.
    """
    # an absolute path says where it lay here, and nothing to a stranger
    script = os.path.relpath(sys.argv[0]) if os.path.exists(sys.argv[0]) else sys.argv[0]
    # the batch size depends on it, and a launcher's own flags are not in argv
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    count = ["--num_processes", str(processes)] if processes > 1 else []
    return shlex.join(["accelerate", "launch", *count, script, *without_token(sys.argv[1:])])


def metrics_of(output_dir: str | Path, log_history: list[dict]) -> dict[str, float]:
    """The numbers of a run: of its `metrics.json`, where there is one, and of its log."""
    file, metrics = Path(output_dir) / "metrics.json", {}
    if file.is_file():
        found = json.loads(file.read_text())
        # by type: a bool is an int, too
        metrics = {name: value for name, value in found.items() if type(value) in (int, float)}
    # a log is a list of entries, and each holds other keys
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
    record: dict | None = None,
    merged: bool = True,
) -> None:
    """Writes `README.md` into a model folder.

    Args:
        base_model: folder or Hub id the run started from; only a Hub id becomes card metadata.
        datasets: sources the run learned from.
        metrics: name -> number.
        step: sft, reward or ppo.
        name: Hub id of the model, where it has one.
        record: the folder's `run.json`.
        merged: whether SFT writes `merged/`.
    """
    is_adapter = (Path(output_dir) / "adapter_config.json").is_file()
    # the Hub refuses a card whose metadata name something it cannot know
    data = ModelCardData(
        base_model=base_model if _is_hub_id(base_model) else None,
        datasets=[source for source in datasets if _is_hub_id(source)] or None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-classification" if step == "reward" else "text-generation",
        tags=["instruct-recipes", "trl", step],
    )
    local = " (a local folder: to load an adapter elsewhere, push that model too)"
    where = "" if _is_hub_id(base_model) else local
    folder = Path(output_dir)
    # inside quotes, in code that is pasted
    called = json.dumps(plain(name or folder.name), ensure_ascii=False)[1:-1]
    beside = "; the top folder is the LoRA adapter" if is_adapter else ""
    fence = "````" if "```" in command else "```"
    text = f"""---
{data.to_yaml()}
---

# {markdown_text(name or folder.resolve().name)}

Made by {TITLES[step]} with instruct-recipes.

- Base model: {markdown_code(base_model)}{where}
{_lines(f"- Data: {markdown_code(source)}" for source in datasets)}{_lines(_recorded(record or {}))}
## Metrics

{_table(metrics)}
## Command

{fence}bash
{plain(command)}
{fence}

## Use

```python
{_loading(step, merged, is_adapter).format(name=called, beside=beside)}
```
"""
    # a run killed while it writes leaves the card before
    with atomic_file(Path(output_dir) / "README.md") as beside:
        ModelCard(text).save(beside)


def _recorded(record: dict) -> list[str]:
    """What a run's record says beyond names: which commits, who ranked."""
    named = {"base model": record.get("base"), **record.get("data", {})}
    lines = [
        f"- Commit of the {flag}: {markdown_code(found['commit'])}"
        for flag, found in named.items()
        if found and found.get("commit")
    ]
    if record.get("labelers"):
        lines.append(f"- Ranked by: {', '.join(map(markdown_text, record['labelers']))}")
    return lines


def _is_hub_id(source: str) -> bool:
    # a folder may look like one: "outputs/sft" has the form of "owner/name"
    return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source, re.ASCII)) and not Path(source).exists()


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _table(metrics: dict[str, float]) -> str:
    if not metrics:
        return "None logged yet.\n"
    rows = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    return _lines(["| metric | value |", "|---|---|", *rows])


def use_our_card(
    trainer, step: str, base_model: str, datasets: list[str | None], merged: bool = True
) -> None:
    """From here on, the card that Trainer writes (at each save, at each push) is this one."""

    # Whatever Trainer passes (tags, a title) is in ours already.
    def create_model_card(*args, **kwargs) -> None:
        # Trainer calls it on every process
        if not trainer.is_world_process_zero():
            return
        output_dir = trainer.args.output_dir
        write_model_card(
            output_dir,
            base_model,
            datasets=[source for source in datasets if source],
            metrics=metrics_of(output_dir, trainer.state.log_history),
            command=exact_command(),
            step=step,
            name=trainer.hub_model_id,
            record=read_record(output_dir),
            merged=merged,
        )

    trainer.create_model_card = create_model_card
