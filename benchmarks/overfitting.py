"""The paper's claim about overfitting (section 3.5): shuffled comparisons against whole rankings.

    python benchmarks/overfitting.py
        [--data outputs/demo/comparisons] [--model outputs/demo/sft/merged]
        [--rankings 64] [--outputs 4] [--epochs 3] [--seeds 0 1 2] [--lr 5e-4]

Both ways train on the same rankings with the same optimiser, learning rate, schedule and number of
steps, and as many pairs per step on average: `grouped` takes `--batch` whole rankings a step,
`shuffled` as many pairs as those hold, as separate data points drawn from all rankings. Both are
evaluated after every epoch on the same held-out rankings. Finished runs are kept in `--work`, so a
stopped benchmark continues. The last line is one JSON object.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from instruct.files import write_json


def train(way: str, seed: int, args: argparse.Namespace) -> list[dict]:
    """One run -> [{epoch, accuracy, loss, train_accuracy}], one for each epoch.

    Accuracy and loss are those of held-out rankings.
    """
    from datasets import Dataset
    from transformers import set_seed
    from trl import get_peft_config

    from data_prep.formats.rankings import load_rankings
    from instruct.arguments import ModelConfig
    from instruct.models import load_sequence_classifier
    from instruct.reward_heads import init_head
    from instruct.tokens import load_tokenizer
    from instruct.trainers.ranked_reward import RankedRewardConfig, RankedRewardTrainer

    rankings = load_rankings(args.data, "train").to_list()
    rankings = [r for r in rankings if len(r["completions"]) >= args.outputs]
    random.Random(0).shuffle(rankings)  # the same rankings for every seed and both ways
    rankings = [
        {
            "prompt": r["prompt"],
            "completions": r["completions"][: args.outputs],
            "ranks": r["ranks"][: args.outputs],
        }
        for r in rankings
    ]
    rankings = [r for r in rankings if len(set(r["ranks"])) > 1][: args.rankings]
    pairs = [
        {
            "prompt": r["prompt"],
            "completions": [r["completions"][w], r["completions"][b]],
            "ranks": [1, 2],
        }
        for r in rankings
        for w in range(args.outputs)
        for b in range(args.outputs)
        if r["ranks"][w] < r["ranks"][b]
    ]
    steps = -(-len(rankings) // args.batch)  # per epoch, both ways
    rows, batch = (rankings, args.batch) if way == "grouped" else (pairs, -(-len(pairs) // steps))
    if -(-len(rows) // batch) != steps:
        raise SystemExit(
            f"{way}: {len(rows)} rows in batches of {batch} are not {steps} steps; "
            "choose another --batch"
        )
    held_out = load_rankings(args.data, "validation").select_columns(
        ["prompt", "completions", "ranks"]
    )
    held_out = held_out.select(range(min(args.held_out, len(held_out))))
    with tempfile.TemporaryDirectory() as folder:
        config = RankedRewardConfig(
            folder,
            per_device_train_batch_size=batch,
            num_train_epochs=args.epochs,
            learning_rate=args.lr,
            seed=seed,
            train_sampling_strategy="random",
            eval_strategy="epoch",
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            per_device_eval_batch_size=16,
            max_length=args.max_length,
        )
        model_args = ModelConfig(
            model_name_or_path=args.model,
            lora_r=16,
            lora_alpha=32,
            lora_dropout=0.0,
            lora_task_type="SEQ_CLS",
        )
        set_seed(seed)
        model = load_sequence_classifier(model_args)
        init_head(model)
        trainer = RankedRewardTrainer(
            model,
            config,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=held_out,
            processing_class=load_tokenizer(args.model),
            peft_config=get_peft_config(model_args),
        )
        trainer.train()
    by_epoch: dict[int, dict] = {}
    for entry in trainer.state.log_history:
        found = by_epoch.setdefault(round(entry["epoch"]), {"epoch": round(entry["epoch"])})
        names = {"eval_accuracy": "accuracy", "eval_loss": "loss", "accuracy": "train_accuracy"}
        found |= {ours: entry[theirs] for theirs, ours in names.items() if theirs in entry}
    return [by_epoch[e] for e in range(1, args.epochs + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="outputs/demo/comparisons")
    parser.add_argument("--model", default="outputs/demo/sft/merged")
    parser.add_argument("--work", type=Path, default=Path("outputs/overfitting"))
    parser.add_argument("--rankings", type=int, default=64)
    parser.add_argument(
        "--outputs",
        type=int,
        default=4,
        help="outputs of each ranking that are used (the first ones)",
    )
    parser.add_argument(
        "--held_out", type=int, default=64, help="held-out rankings to evaluate on, at most"
    )
    parser.add_argument("--batch", type=int, default=4, help="rankings per optimiser step")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--max_length", type=int, default=96)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", nargs=2, metavar=("WAY", "SEED"), help="one run in this process")
    args = parser.parse_args()
    settings = f"n{args.rankings}-k{args.outputs}-b{args.batch}-e{args.epochs}-lr{args.lr:g}"

    def result_of(way: str, seed: int) -> Path:
        return args.work / f"{settings}-{way}-{seed}.json"

    if args.one:
        way, seed = args.one[0], int(args.one[1])
        write_json(result_of(way, seed), train(way, seed, args))
        return
    for seed in args.seeds:
        for way in ("grouped", "shuffled"):
            if not result_of(way, seed).is_file():
                subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--one", way, str(seed)], check=True
                )
            print(way, seed, result_of(way, seed).read_text(), flush=True)
    table = {}
    print(
        "| epoch | grouped: held-out accuracy | loss | training accuracy "
        "| shuffled: held-out accuracy | loss | training accuracy |"
    )
    print("|---|---|---|---|---|---|---|")
    for epoch in range(args.epochs):
        cells = []
        for way in ("grouped", "shuffled"):
            runs = [json.loads(result_of(way, seed).read_text())[epoch] for seed in args.seeds]
            values = {
                key: [run[key] for run in runs] for key in ("accuracy", "loss", "train_accuracy")
            }
            table.setdefault(way, []).append(
                {key: round(statistics.mean(v), 4) for key, v in values.items()}
            )
            cells += [" / ".join(f"{v:.3f}" for v in values[key]) for key in values]
        print(f"| {epoch + 1} | " + " | ".join(cells) + " |")
    print(
        json.dumps(
            {"rankings": args.rankings, "K": args.outputs, "seeds": args.seeds, "by_epoch": table}
        )
    )


if __name__ == "__main__":
    main()
