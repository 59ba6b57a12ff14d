"""PPO on one shared base against TRL's own `PPOTrainer`: episodes per second and peak memory on a
SmolLM2-135M shape.

    python benchmarks/ppo.py [--epochs 1 4] [--rounds 2] [--spread 20] [--value_models head adapter]

Random weights in float32 on CPU, LoRA r = 16, prompts of 50 tokens on average, 24 new tokens, 32
episodes a rollout, the same micro-batch of 8 on both sides. Prompt lengths decide how much is
padding (stock pads a rollout to its longest), so by default they vary as those of a real log: the
octiles of the demo's training prompts, scaled to a mean of 50. `--spread N` spreads them evenly
over 50 +- N instead; `--spread 0` leaves nothing to pad.

Each run is a process of its own (its peak memory is VmHWM), runs take turns (A B A B), each warms
up on a smaller rollout before the one that is timed, and optimizer steps are counted by a hook on
the optimizer. Stock is never timed on its loader's last batch, where it would step every
micro-batch. Both sides run without activation checkpointing. The last line is one JSON object;
ratios are against stock with its full value network. Needs TRL below 1.13.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from reward import KEEP_MEMORY, peak_gb

from instruct.command.commands import command
from instruct.trl_ppo import stock_ppo

PROMPT, RESPONSE, MICRO, VOCABULARY = 50, 24, 8, 49152
OCTILES = [36, 38, 40, 43, 47, 52, 62, 83]  # midpoints, of 15,207 prompts with their chat template


def build(folder: Path) -> None:
    """Model, tokenizer (one word per id, so that text and ids agree) and reward adapter, all from
    configs.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from instruct.arguments import ModelConfig
    from instruct.models import load_sequence_classifier

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [
        f"w{i}" for i in range(3, VOCABULARY)
    ]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    raw.pre_tokenizer, raw.decoder = (
        pre_tokenizers.WhitespaceSplit(),
        decoders.WordPiece(prefix="##", cleanup=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=words[2], pad_token=words[0], bos_token=words[1]
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    reward = load_sequence_classifier(
        ModelConfig(model_name_or_path=str(folder / "model"), dtype="float32")
    )
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
        init_lora_weights=False,
    )
    get_peft_model(reward, lora).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    head = {"bias": 0.0, "pad_token_id": 0, "base": str(folder / "model")}
    (folder / "reward" / "reward_head.json").write_text(json.dumps(head))


def prompt_lengths(spread: int | None) -> list[int]:
    """Lengths of 96 prompts, each as often as the others, so that any 32 of them look alike."""
    even = spread is not None
    return (
        [PROMPT - spread + (2 * spread * i) // 7 for i in range(8)] * 12 if even else OCTILES * 12
    )


def prompts(spread: int | None):
    from datasets import Dataset

    draw, lengths = random.Random(0), prompt_lengths(spread)
    draw.shuffle(lengths)
    rows = [" ".join(f"w{draw.randrange(3, VOCABULARY)}" for _ in range(n)) for n in lengths]
    return Dataset.from_dict({"prompt": rows})


def run_one(folder: Path, name: str, epochs: int, spread: int | None, rollout: int) -> dict:
    """One process: warm up, then time one rollout and its updates -> seconds, steps, peak memory,
    time by phase.
    """
    warnings.simplefilter("ignore")
    from transformers import TrainerCallback
    from trl import get_peft_config

    from instruct.arguments import ModelConfig
    from instruct.models import load_causal_lm
    from instruct.tokens import load_tokenizer
    from instruct.trainers.ppo.config import SharedBasePPOConfig
    from instruct.trainers.ppo.stock import stock_trainer
    from instruct.trainers.ppo.trainer import SharedBasePPOTrainer

    class Stop(Exception):
        pass

    class Watch(TrainerCallback):
        """Times the first rollout and counts optimizer steps; stops before stock's last batch."""

        steps, seconds, cpu_seconds, logs = 0, 0.0, 0.0, {}

        def on_train_begin(self, args, state, control, optimizer=None, **_):
            getattr(optimizer, "optimizer", optimizer).register_step_post_hook(self.count)
            self.started, self.cpu_started = time.perf_counter(), time.process_time()

        def count(self, *_):
            self.steps += 1

        def on_log(self, args, state, control, logs=None, **_):
            self.seconds, self.logs = time.perf_counter() - self.started, dict(logs)
            self.cpu_seconds = time.process_time() - self.cpu_started
            raise Stop

    stock = name.startswith("stock")
    model_args = ModelConfig(
        model_name_or_path=str(folder / "model"),
        dtype="float32",
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.0,
    )
    model_args.lora_target_modules, model_args.lora_task_type = "all-linear", "CAUSAL_LM"

    def train(epochs: int, episodes: int) -> Watch:
        args = SharedBasePPOConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=episodes // MICRO,
            num_ppo_epochs=epochs,
            total_episodes=2 * episodes,
            response_length=RESPONSE,
            temperature=1.0,
            learning_rate=1e-5,
            value_model="adapter" if stock else name,
            reward_model_path=str(folder / "reward"),
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            sample_every=0,
            use_cpu=True,
            bf16=False,
            local_rollout_forward_batch_size=32,
            watchdog=False,
        )
        tokenizer, model, watch = (
            load_tokenizer(model_args.model_name_or_path),
            load_causal_lm(model_args),
            Watch(),
        )
        rows = prompts(spread)
        if stock:
            trainer = stock_trainer(
                model, tokenizer, rows, args, model_args, name.removeprefix("stock-"), [watch]
            )
        else:
            trainer = SharedBasePPOTrainer(
                model,
                args,
                tokenizer,
                rows,
                reward_model=args.reward_model_path,
                peft_config=get_peft_config(model_args),
                callbacks=[watch],
            )
        try:
            trainer.train()
        except Stop:
            return watch
        raise RuntimeError("the benchmark's callback never saw a log line")

    train(1, MICRO)  # warm-up
    watch = train(epochs, rollout)
    phases = {k: round(v, 1) for k, v in watch.logs.items() if k.startswith("time/")}
    return {
        "seconds": watch.seconds,
        "cpu_seconds": watch.cpu_seconds,
        "steps": watch.steps,
        "peak_gb": peak_gb(),
        "phases": phases,
    }


def token_floor(name: str, epochs: int, spread: int | None, episodes: int) -> dict[str, float]:
    """Tokens through the network for one rollout (backward counted as one more pass for LoRA, two
    for full weights).

    `used` pads as stock pads, the whole rollout to its longest prompt (ours sorts by length: close
    to the floor, not counted), `floor` is the same work without a single pad.
    """
    lengths = prompt_lengths(spread)
    real, padded = (
        episodes * (sum(lengths) / len(lengths) + RESPONSE),
        episodes * (max(lengths) + RESPONSE),
    )
    if name == "head":
        passes = {"sample, reference, reward": 3, "update": 2 * epochs}
    else:
        per_epoch = 5 if name == "stock-full" else 4
        passes = {"sample, reference, value, reward": 4, "update": per_epoch * epochs}
    total = sum(passes.values())
    return {
        "floor": round(total * real),
        "used": round(total * (padded if name.startswith("stock") else real)),
    }


def ratios(stock: dict[str, float], ours: dict[str, float]) -> tuple[float, float]:
    """How many times faster ours is, and its share of stock's memory."""
    return stock["seconds"] / ours["seconds"], ours["peak_gb"] / stock["peak_gb"]


@command
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--spread", type=int, help="prompts of 50 +- this; default: as long as a real log's"
    )
    parser.add_argument("--episodes", type=int, default=32, help="episodes per rollout")
    parser.add_argument("--value_models", nargs="+", default=["head", "adapter"])
    parser.add_argument("--stock", nargs="+", default=["full", "lora"])
    parser.add_argument(
        "--one", nargs=3, metavar=("FOLDER", "NAME", "EPOCHS"), help="run one case in this process"
    )
    parser.add_argument("--folder", type=Path, help="keep models here between runs")
    args = parser.parse_args()
    if args.one:
        print(
            json.dumps(
                run_one(
                    Path(args.one[0]), args.one[1], int(args.one[2]), args.spread, args.episodes
                )
            )
        )
        return

    stock_ppo()  # says so where this TRL has none
    names, cases = [*(f"stock-{s}" for s in args.stock), *args.value_models], []
    # one heavy job at a time
    lock = ["flock", os.environ["BENCH_LOCK"]] if os.environ.get("BENCH_LOCK") else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "reward").is_dir():
            build(folder)
        for epochs in args.epochs:
            results: dict[str, list[dict]] = {name: [] for name in names}
            for turn in range(args.rounds):
                for name in names:
                    command = [
                        *lock,
                        sys.executable,
                        __file__,
                        "--one",
                        str(folder),
                        name,
                        str(epochs),
                        *([] if args.spread is None else [f"--spread={args.spread}"]),
                        f"--episodes={args.episodes}",
                    ]
                    env = {**os.environ, **KEEP_MEMORY}
                    out = subprocess.run(
                        command, stdout=subprocess.PIPE, check=True, text=True, env=env
                    ).stdout
                    result = json.loads(out.strip().splitlines()[-1])
                    results[name].append(result)
                    print(
                        f"{epochs} epochs, round {turn + 1}: {name:10} {json.dumps(result)}",
                        flush=True,
                    )
            steps = {name: {r["steps"] for r in found} for name, found in results.items()}
            assert len(set.union(*steps.values())) == 1, f"optimizer steps differ: {steps}"
            middle = {
                n: {k: statistics.median(r[k] for r in found) for k in ("seconds", "peak_gb")}
                for n, found in results.items()
            }
            counted = steps.popitem()[1].pop()
            print(
                f"\n{epochs} epochs, {counted} optimizer steps of {args.episodes} episodes on "
                "every side"
            )
            print(f"{'':12}{'episodes/s':>12}{'peak GB':>10}{'tokens used':>14}{'token floor':>14}")
            for name, m in middle.items():
                floor = token_floor(name, epochs, args.spread, args.episodes)
                speed = args.episodes / m["seconds"]
                print(
                    f"{name:12}{speed:12.3f}{m['peak_gb']:10.2f}"
                    f"{floor['used']:14,}{floor['floor']:14,}"
                )
            for name in args.value_models:
                for against in args.stock:
                    speedup, memory = ratios(middle[f"stock-{against}"], middle[name])
                    print(
                        f"{name} against stock-{against}: {speedup:.2f}x faster, "
                        f"{memory:.2f} of its memory"
                    )
                speedup, memory = ratios(middle[f"stock-{args.stock[0]}"], middle[name])
                case = {"value_model": name, "epochs": epochs}
                case |= {"speedup": round(speedup, 2), "memory_ratio": round(memory, 3)}
                cases.append(case)
            print(flush=True)
    print(json.dumps({"cases": cases}))


if __name__ == "__main__":
    main()
