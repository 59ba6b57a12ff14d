"""Speed and memory of SFT: recipes/sft.py against TRL's own `SFTTrainer` on the same rows.

    OMP_NUM_THREADS=2 python benchmarks/sft.py [--rounds 2] [--rows 96] [--layers 30]

The shape of SmolLM2-135M with random weights, LoRA r = 16 with dropout 0.05 on all linear layers,
rows of 20 to 40 tokens of which the last 6 to 20 are trained, as the demo's. Two comparisons:

    same flags   both in float32 without activation checkpointing, batches of 16, grouped by length
    defaults     what each does where nothing is said but the model, the rows and the LoRA: TRL
                 trains in bf16 with activation checkpointing, also on a CPU; batches of 8

Each measurement is one process of its own, in turns A B A B. Timed is the second of two epochs,
whole: grouping by length puts long rows together, so that no part of an epoch stands for it. Memory
is the process's peak: VmHWM on the CPU, `max_memory_allocated` on a GPU. CPU seconds are shown
beside wall time: steadier on a shared machine. The last line is one JSON object; speedups are
TRL's seconds / ours, the memory ratio is ours / TRL's with the same flags.
"""

import argparse
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reward import KEEP_MEMORY, SHAPE, peak_gb

SIDES = ("trl_same", "ours_same", "trl", "ours")
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
SAME = {
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-4,
    "train_sampling_strategy": "group_by_length",
    "gradient_checkpointing": False,
    "bf16": False,
    "max_length": 80,
    "logging_steps": 5,
}
BOTH = {"num_train_epochs": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}


def build(folder: Path, layers: int, rows: int) -> None:
    """Model, tokenizer (one word per id, so that text and ids agree) and rows."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<eos>"] + [f"w{i}" for i in range(3, SHAPE["vocab_size"])]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] + ' ' }}"
        "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        **{**SHAPE, "num_hidden_layers": layers, "eos_token_id": 2, "pad_token_id": 0},
        bos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(3, SHAPE['vocab_size'])}" for _ in range(length))

    with open(folder / "rows.jsonl", "w") as file:
        for _ in range(rows):
            row = {"prompt": text(draw.randint(14, 20)), "completion": text(draw.randint(5, 19))}
            file.write(json.dumps(row) + "\n")


def clock(marks: list[tuple[float, float]]):
    """A callback that notes wall and CPU seconds at the start of each epoch and at the end."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def mark(self, *args, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), time.process_time()))

        on_epoch_begin = on_train_end = mark

    return Clock()


def train_trl(folder: Path, settings: dict, callback) -> None:
    """TRL's trainer on the rows as our recipe tokenises them."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    from instruct.files import load_rows
    from recipes.sft import tokenize

    # by itself it refuses to train in bf16, its default, on a CPU
    settings = settings | {"use_cpu": not torch.cuda.is_available()}
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    read = load_rows(folder / "rows.jsonl")
    rows = tokenize(read, tokenizer, None, "rows") if isinstance(read, Dataset) else read
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **LORA)
    SFTTrainer(
        model,
        SFTConfig(output_dir=str(folder / "trl"), **settings),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[callback],
        peft_config=lora,
    ).train()


def train_ours(folder: Path, settings: dict, callback) -> None:
    """recipes/sft.py as it is called."""
    from recipes import sft

    # all that the recipe does not take from outside: who looks at the time
    sft.SFTTrainer = functools.partial(sft.SFTTrainer, callbacks=[callback])
    flags = {
        "model_name_or_path": folder / "model",
        "dataset_name": folder / "rows.jsonl",
        "output_dir": folder / "ours",
        "overwrite_output_dir": True,
        "dtype": "float32",
        **{name if name.startswith("lora_") else f"lora_{name}": v for name, v in LORA.items()},
        **settings,
    }
    sft.cli([word for name, value in flags.items() for word in (f"--{name}", str(value))])


def measure(folder: Path, side: str) -> dict:
    """Trains in this process -> {"seconds", "cpu_s", "peak_gb"} of the second epoch."""
    import torch

    marks: list[tuple[float, float]] = []
    settings = BOTH | (SAME if side.endswith("_same") else {})
    train = train_trl if side.startswith("trl") else train_ours
    train(folder, settings, clock(marks))
    assert len(marks) == 3, "two epochs and the end"
    seconds, cpu = (end - start for start, end in zip(marks[1], marks[2], strict=True))
    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else peak_gb()
    return {"seconds": seconds, "cpu_s": cpu, "peak_gb": peak}


def in_own_process(folder: Path, side: str) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", side, "--folder", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, **KEEP_MEMORY},
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    result = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"  {side:9}: {result['seconds']:.1f} s, {result['cpu_s']:.1f} CPU s, "
        f"peak {result['peak_gb']:.2f} GB",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns of all sides; 2 is A B A B")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--layers", type=int, default=30, help="SmolLM2-135M has 30")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--measure", metavar="SIDE", help="one measurement in this process")
    parser.add_argument("--folder", help="of --measure: what was built")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(Path(args.folder), args.measure)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, args.layers, args.rows)
        # a round takes turns within each comparison: trl_same ours_same, then trl ours
        runs = [{side: in_own_process(folder, side) for side in args.sides}
                for _ in range(args.rounds)]  # fmt: skip

    def median(side: str, key: str) -> float:
        return statistics.median(run[side][key] for run in runs)

    def ratio(key: str, above: str, below: str) -> float | None:
        there = above in args.sides and below in args.sides
        return round(median(above, key) / median(below, key), 3) if there else None

    print("| | seconds an epoch | CPU seconds | peak GB |\n|---|---|---|---|")
    for side in args.sides:
        numbers = [median(side, key) for key in ("seconds", "cpu_s", "peak_gb")]
        print(f"| `{side}` | {numbers[0]:.1f} | {numbers[1]:.1f} | {numbers[2]:.2f} |")
    print(
        f"by CPU seconds: same flags {ratio('cpu_s', 'trl_same', 'ours_same')}, "
        f"defaults {ratio('cpu_s', 'trl', 'ours')}",
        flush=True,
    )
    found = {
        "same_flags_speedup": ratio("seconds", "trl_same", "ours_same"),
        "defaults_speedup": ratio("seconds", "trl", "ours"),
        "memory_ratio": ratio("peak_gb", "ours_same", "trl_same"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
