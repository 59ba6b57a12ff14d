"""Speed and memory: RankedRewardTrainer on whole rankings against TRL's RewardTrainer on pairs.

    python benchmarks/reward.py [--cases 192,48,4 192,48,9 32,48,4 32,48,9]
                                [--rounds 2] [--stock_pairs 6]

Same rankings (for TRL exploded into pairs), same model (the shape of SmolLM2-135M, random weights),
LoRA r = 16 on all linear layers, same AdamW, one ranking per optimiser step on both sides. Each
measurement is one process of its own, in turns A B A B; its first micro-batches warm up and are
left out. Stock takes `--stock_pairs` pairs at a time and accumulates the rest; it gets activation
checkpointing off, which is faster (its default is on). Memory is the process's peak: VmHWM on the
CPU, `max_memory_allocated` on a GPU (there in bf16). A case is prompt,output,K in tokens and
outputs. Table columns: prompt + output, K, rankings/s of stock and ours, speedup by wall time, by
CPU time (steadier on a shared machine), token floor (tokens of stock / ours), peak memory of stock
and ours, their ratio.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}

# glibc gives large blocks back to the system after every step; on virtual machines touching them
# anew can take longer than the arithmetic (steps of 2 s took up to 60 s). Both sides keep what they
# have freed.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "100000000000", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


def measure(
    side: str, prompt: int, output: int, k: int, stock_pairs: int, share_prompt: str
) -> dict:
    """Trains a few steps in this process.

    Returns {"rankings_per_s", "cpu_s" (CPU seconds per ranking), "peak_gb"}.
    """
    import random

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        TrainerCallback,
        set_seed,
    )
    from trl import RewardConfig, RewardTrainer

    from instruct.trainers.ranked_reward import RankedRewardConfig, RankedRewardTrainer

    cuda = torch.cuda.is_available()
    draw = random.Random(0)

    def ids(n: int) -> list[int]:
        return [draw.randrange(3, SHAPE["vocab_size"]) for _ in range(n)]

    n_pairs = k * (k - 1) // 2
    micro = math.ceil(n_pairs / stock_pairs) if side == "stock" else 1  # micro-batches per ranking
    # at least two optimiser steps, or enough micro-batches of one; ours and small cases are cheap:
    # more of them
    warm, rankings = (1, 3 if micro == 1 else 1) if side == "stock" else (2, 8)
    rows = []
    for _ in range(rankings):
        start, completions = ids(prompt), [[*ids(output - 1), 2] for _ in range(k)]
        if side == "stock":
            rows += [
                {"chosen_ids": start + completions[w], "rejected_ids": start + completions[b]}
                for w in range(k)
                for b in range(w + 1, k)
            ]
        else:
            keys = {"prompt_key": 0, "labeler_key": -1, "length": prompt + k * output}
            rows.append(
                {"prompt_ids": start, "completion_ids": completions, "ranks": list(range(1, k + 1))}
                | keys
            )
    if side == "stock":
        assert len(rows) % (micro * stock_pairs) == 0 or micro == 1, (
            "choose --stock_pairs so that it divides the pairs"
        )
    marks: list[tuple[float, float]] = []  # wall and CPU seconds

    class Clock(TrainerCallback):
        def mark(self, *args, **kwargs):
            if cuda:
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), time.process_time()))

        on_train_begin = on_substep_end = on_step_end = mark

    with tempfile.TemporaryDirectory() as folder:
        shared = {
            "output_dir": folder,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "bf16": cuda,
            "activation_checkpointing": False,
            "num_train_epochs": 1,
            "max_length": None,
            "logging_strategy": "no",
        }
        set_seed(0)
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model("llama", num_labels=1, pad_token_id=0, **SHAPE)
        )
        if side == "stock":
            batch = {
                "per_device_train_batch_size": min(stock_pairs, n_pairs),
                "gradient_accumulation_steps": micro,
            }
            trainer_class, args = RewardTrainer, RewardConfig(**shared, **batch)
        else:
            trainer_class, args = (
                RankedRewardTrainer,
                RankedRewardConfig(
                    **shared, per_device_train_batch_size=1, share_prompt=share_prompt
                ),
            )
        trainer = trainer_class(
            model,
            args,
            train_dataset=Dataset.from_list(rows),
            processing_class=bare_tokenizer(),
            callbacks=[Clock()],
            peft_config=LoraConfig(
                task_type="SEQ_CLS", target_modules="all-linear", r=16, lora_alpha=32
            ),
        )
        trainer.train()
    assert trainer.state.global_step == rankings and len(marks) == rankings * micro + 1
    seconds, cpu_seconds = (
        (end - start) / (len(marks) - 1 - warm) * micro
        for start, end in zip(marks[warm], marks[-1], strict=True)
    )
    if cuda:
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = peak_gb()
    return {"rankings_per_s": 1 / seconds, "cpu_s": cpu_seconds, "peak_gb": peak}


def peak_gb() -> float:
    """This process's peak memory in GB.

    Not by `ru_maxrss`, which a child inherits from its parent.
    """
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def bare_tokenizer():
    """The trainers only need its pad and eos: the rows are tokenised already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<eos>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["192,48,4", "192,48,9", "32,48,4", "32,48,9"],
        help="prompt,output,K",
    )
    parser.add_argument("--rounds", type=int, default=2, help="A B pairs of a case; 2 is A B A B")
    parser.add_argument("--stock_pairs", type=int, default=6, help="pairs in stock's micro-batch")
    parser.add_argument("--share_prompt", default="auto", choices=["auto", "cache", "rows"])
    parser.add_argument(
        "--measure", nargs=2, metavar=("SIDE", "CASE"), help="one measurement in this process"
    )
    args = parser.parse_args()
    if args.measure:
        side, case = args.measure
        print(
            json.dumps(
                measure(side, *map(int, case.split(",")), args.stock_pairs, args.share_prompt)
            )
        )
        return

    def in_own_process(side: str, case: str) -> dict:
        command = [
            sys.executable, __file__, "--measure", side, case,
            "--stock_pairs", str(args.stock_pairs), "--share_prompt", args.share_prompt,
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **KEEP_MEMORY}
        )
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        result = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"  {side:5} {case}: {result['rankings_per_s']:.3f} rankings/s, "
            f"{result['cpu_s']:.1f} CPU s each, peak {result['peak_gb']:.2f} GB",
            flush=True,
        )
        return result

    results = []
    for case in args.cases:
        prompt, output, k = map(int, case.split(","))
        runs = [
            {side: in_own_process(side, case) for side in ("stock", "ours")}
            for _ in range(args.rounds)
        ]

        def median(side: str, key: str) -> float:
            return statistics.median(run[side][key] for run in runs)  # noqa: B023 (called at once)

        speed, cpu, peak = (
            {side: median(side, key) for side in ("stock", "ours")}
            for key in ("rankings_per_s", "cpu_s", "peak_gb")
        )
        speedup = speed["ours"] / speed["stock"]
        floor = k * (k - 1) * (prompt + output) / (prompt + k * output)
        print(
            f"| {prompt} + {output} | {k} | {speed['stock']:.3f} | {speed['ours']:.3f} "
            f"| {speedup:.1f}x | {cpu['stock'] / cpu['ours']:.1f}x | {floor:.1f}x "
            f"| {peak['stock']:.2f} GB | {peak['ours']:.2f} GB "
            f"| {peak['ours'] / peak['stock']:.2f}x |",
            flush=True,
        )
        results.append(
            {
                "prompt": prompt,
                "output": output,
                "K": k,
                "speedup": round(speedup, 2),
                "memory_ratio": round(peak["ours"] / peak["stock"], 3),
            }
        )
    print(json.dumps({"cases": results}))


if __name__ == "__main__":
    main()
