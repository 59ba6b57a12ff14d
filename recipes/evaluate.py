"""Step 4: measure on users never seen in training: win rates against a baseline (paper, 3.6).

    python recipes/evaluate.py --models base=… sft=… ppo=… --input prompts/test.parquet \\
        --output_dir DIR

Every model answers the same prompts, of users never seen in training; judges score the answers.
The first judge is the gold standard (`--judge`, the scripted labeler by default); the reward model
and the answers' length stand beside it. Writes `answers.jsonl`, and with `--run_dir` (a folder with
prompts/ sft/ reward/ ppo/ inside) the whole run's `report.json`, `report.md` and curves.
Killed and run again, models that have answered are not asked again.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from instruct.arguments import load_function, parse_models
from instruct.evaluation.report import base_of_run, write_report
from instruct.evaluation.statistics import cluster_bootstrap, win_rate
from instruct.files import UserError, command, load_rows, read_jsonl, write_rows
from instruct.fingerprints import content_of, data_identity, model_identity
from instruct.folders import claim, report_in
from instruct.generation import generate_ids
from instruct.hashes import file_hash, hash_of
from instruct.models import completion_logprobs, load_policy, load_reward
from instruct.run_record import check_step, read_record, versions, write_record
from instruct.tokens import as_messages, decode_completion, encode_prompt, load_tokenizer

# Flags that decide what a model answers and what it scores; a batch shares its random numbers.
ASKED = ("max_new_tokens", "temperature", "batch_size", "seed", "judge", "dtype")
REPORT = ("report.json", "report.md", "answers.jsonl")  # what it replaces in its output folder


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="models or adapters to compare",
    )
    add("--input", required=True, help="held-out prompts: file, folder or Hub id")
    add("--output_dir", type=Path, required=True)
    add("--reward", help="reward model, as second judge")
    add("--judge", default="data_prep.label:scripted_reward", help="gold judge, module:function")
    add("--judge_name", default="the scripted labeler", help="what the report calls that judge")
    add("--tie", type=float, default=0.3, help="gold scores closer than this are a tie")
    add("--reference", default="sft", help="the model that KL is measured from")
    add("--run_dir", type=Path, help="the run to report on (prompts/ sft/ reward/ ppo/ inside)")
    add("--limit", type=int, default=200, help="this many prompts, drawn with --seed")
    add("--max_new_tokens", type=int, default=64)
    add("--temperature", type=float, default=1.0)
    add("--batch_size", type=int, default=64)
    add("--dtype", default="float32")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


################
# The same prompts for every model
################


def held_out_prompts(source: str, limit: int, seed: int) -> list[dict]:
    """`limit` rows of `source`, drawn with `seed`: prompt_id, user_id, prompt [messages]."""
    rows = load_rows(source, "test", columns=["prompt"]).to_list()
    # drawn, not the first: files are often sorted by user
    rows = random.Random(seed).sample(rows, min(limit, len(rows)))
    return [
        {
            "prompt_id": str(row.get("id", i)),
            # without users every prompt is a cluster of its own
            "user_id": row.get("user_id") or f"prompt {i}",
            "prompt": as_messages(row["prompt"]),
        }
        for i, row in enumerate(rows)
    ]


################
# Answers and scores
################


def answer(name: str, path: str, rows: list[dict], args: argparse.Namespace) -> list[dict]:
    """Answers of one model to all prompts, in the order of `rows`.

    Returns rows with model, prompt_id, user_id, prompt, completion, ended (by itself, in eos),
    tokens (how many, eos included) and completion_ids.
    """
    model, tokenizer = load_policy(path, args.dtype)
    ids = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
    # prompts of similar length share a batch
    order = sorted(range(len(rows)), key=lambda i: len(ids[i]))
    answers = {}
    # per model: its answers do not depend on who is compared
    torch.manual_seed(args.seed)
    for start in tqdm(range(0, len(order), args.batch_size), desc=f"{name} answers"):
        batch = order[start : start + args.batch_size]
        prompts = [ids[i] for i in batch]
        sampled = generate_ids(model, tokenizer, prompts, args.max_new_tokens, args.temperature)
        for i, tokens in zip(batch, sampled, strict=True):
            answers[i] = {
                "model": name,
                **rows[i],
                "completion": decode_completion(tokenizer, tokens),
                "ended": tokens[-1] == tokenizer.eos_token_id,
                "tokens": len(tokens),
                "completion_ids": tokens,
            }
    return [answers[i] for i in range(len(rows))]


def source_hash(judge: Callable) -> str | None:
    """The hash of the module that a judge is written in; None where it has no source."""
    file = getattr(sys.modules.get(judge.__module__), "__file__", None)
    return file and file_hash(file)


def check_folder(output_dir: Path) -> None:
    """That nothing in the output folder is replaced but an earlier evaluation.

    Raises:
        UserError: it holds another command's run, or a report that this one did not write.
    """
    found = read_record(output_dir)
    if found is not None:
        return check_step(output_dir, found, "evaluate")
    there = [name for name in REPORT if (output_dir / name).exists()]
    # earlier versions of this repo wrote no run.json
    is_ours = "answers.jsonl" in there and "win_rate" in report_in(output_dir)
    if there and not is_ours:
        raise UserError(
            f"--output_dir {output_dir} holds {', '.join(there)}, which no evaluation wrote; "
            "give another folder"
        )


def write_run_record(models: dict[str, str], args: argparse.Namespace) -> None:
    """`run.json`: which models, on which prompts, with which flags."""
    flags = {name: value for name, value in vars(args).items() if name not in ("models", "input")}
    record = {
        "step": "evaluate",
        "models": {name: model_identity(path) for name, path in models.items()},
        "reward": model_identity(args.reward),
        "data": {"input": data_identity(args.input, "test")},
        "flags": json.loads(json.dumps(flags, default=str)),
        "versions": versions(),
    }
    write_record(args.output_dir, record)


def kept_or_new_answers(
    name: str, path: str, rows: list[dict], judge: Callable, args: argparse.Namespace
) -> list[dict]:
    """Answers with their `gold` score: of an earlier run that asked the same, else new ones."""
    file = args.output_dir / "answers" / f"{name}.jsonl"
    # the model and the prompts by content: what lies at the same path may be another one
    asked = hash_of(
        {
            "model": content_of(model_identity(path)),
            "prompts": rows,
            "judge": source_hash(judge),
            **{flag: getattr(args, flag) for flag in ASKED},
        }
    )
    if file.is_file():
        kept = read_jsonl(file)
        if kept and kept[0].get("asked") == asked:
            return kept
    answers = answer(name, path, rows, args)
    # the judge called as a reward function: one signature for both
    scores = judge(
        prompts=[row["prompt"] for row in answers],
        completions=[row["completion"] for row in answers],
    )
    answers = [
        {**row, "gold": float(score), "asked": asked}
        for row, score in zip(answers, scores, strict=True)
    ]
    # written whole per model, so a killed run repeats at most one
    write_rows(file, answers)
    return answers


def add_reward_scores(answers: dict[str, list[dict]], path: str) -> None:
    """Adds `reward`, the reward model's score, to every row."""
    reward = load_reward(path, device=str(PartialState().device))
    for found in answers.values():
        scores = reward.score([r["prompt"] for r in found], [r["completion"] for r in found])
        for row, score in zip(found, scores, strict=True):
            row["reward"] = score


################
# What it means
################


@torch.no_grad()
def kl_from_reference(path: str, reference: str, answers: list[dict], dtype: str) -> float | None:
    """Mean over answers of log p(answer) - log p_reference(answer), in nats per answer.

    On the very tokens the model sampled, so it estimates the KL divergence of the model from the
    reference (the estimator that Schulman calls k1). None where the two render prompts differently.
    """
    pairs = {}
    for name in (path, reference):
        tokenizer = load_tokenizer(str(name))
        pairs[name] = [
            (encode_prompt(tokenizer, row["prompt"]), row["completion_ids"]) for row in answers
        ]
    # KL of two distributions over the same ids, after the same ids
    if pairs[path] != pairs[reference]:
        return None
    # one model in memory at a time
    ours, theirs = (
        completion_logprobs(load_policy(name, dtype)[0], pairs[name]) for name in (path, reference)
    )
    return sum(a - b for a, b in zip(ours, theirs, strict=True)) / len(answers)


def summarize(
    name: str,
    models: dict[str, str],
    answers: list[dict],
    users: list[str],
    args: argparse.Namespace,
) -> dict:
    """One model's line of the report: mean and interval of each number, KL from the reference."""
    summary = {"path": models[name]}
    for key in ("gold", "reward", "tokens", "ended"):
        if key in answers[0]:  # `reward` only with --reward
            mean, low, high = cluster_bootstrap([row[key] for row in answers], users)
            summary[key] = {"mean": mean, "low": low, "high": high}
    if args.reference in models and name != args.reference:
        summary[f"kl_from_{args.reference}"] = kl_from_reference(
            models[name], models[args.reference], answers, args.dtype
        )
    return summary


def win_rates(
    answers: dict[str, list[dict]],
    users: list[str],
    score: Callable[[dict], float],
    tie: float = 0.0,
) -> dict[str, dict]:
    """`win_rate` by `score` of every model against each one named before it, clustered by user."""
    rates, names = {}, list(answers)
    for i, ours in enumerate(names):
        # each pair once: the other way round says the same
        for theirs in names[:i]:
            rates[f"{ours}_vs_{theirs}"] = win_rate(
                [score(row) for row in answers[ours]],
                [score(row) for row in answers[theirs]],
                users,
                tie,
            )
    return rates


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    models, judge = parse_models(args.models), load_function(args.judge, "--judge")
    started = time.monotonic()
    claim(args.output_dir)
    check_folder(args.output_dir)

    # 1. The same prompts for every model
    prompts = held_out_prompts(args.input, args.limit, args.seed)
    write_run_record(models, args)
    answers = {
        name: kept_or_new_answers(name, path, prompts, judge, args) for name, path in models.items()
    }
    # 2. The learned reward beside the gold one: a gap is over-optimisation
    if args.reward:
        add_reward_scores(answers, args.reward)

    # 3. Win rates and intervals; shorter wins, to see a judge that only likes brevity
    users = [row["user_id"] for row in prompts]
    result = {
        "judge": args.judge_name,
        "models": {name: summarize(name, models, answers[name], users, args) for name in models},
        "win_rate": win_rates(answers, users, lambda row: row["gold"], args.tie),
        "win_rate_by_reward_model": {},
        "win_rate_shorter": win_rates(answers, users, lambda row: -row["tokens"]),
    }
    if args.reward:
        result["win_rate_by_reward_model"] = win_rates(answers, users, lambda row: row["reward"])
    result["seconds"] = {"evaluate": round(time.monotonic() - started, 1)}

    base = base_of_run(args.run_dir) if args.run_dir is not None else None
    write_report(args.output_dir, result, answers, args.run_dir, base)


if __name__ == "__main__":
    main()
