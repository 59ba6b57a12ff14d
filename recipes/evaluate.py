"""Step 4: measure, as the paper did: prompts of users never seen in training, win rates against a baseline (section 3.6).

    python recipes/evaluate.py --models base=… sft=… ppo=… --input prompts/test.parquet --output_dir DIR

Every model answers the same prompts; judges score the answers. The first judge is the gold standard (`--judge`, the
scripted labeler by default); the reward model and the answers' length stand beside it. Writes `answers.jsonl`, and with
`--run_dir` (a folder with prompts/ sft/ reward/ ppo/ inside) the whole run's `report.json`, `report.md` and curves.
Killed and run again, models that have answered are not asked again.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from instruct.arguments import load_function
from instruct.evaluation.report import write_report
from instruct.evaluation.statistics import cluster_bootstrap, win_rate
from instruct.files import UserError, command, load_rows, read_jsonl, write_rows
from instruct.generation import generate_ids
from instruct.models import completion_logprobs, load_policy, load_reward
from instruct.tokens import as_messages, decode_completion, encode_prompt, load_tokenizer


def parse_models(pairs: list[str]) -> dict[str, str]:
    """`name=path` pairs, in order."""
    models = dict(pair.partition("=")[::2] for pair in pairs)
    if bad := [pair for pair in pairs if "=" not in pair or pair.endswith("=")]:
        raise UserError(
            f"--models {bad[0]}: give every model as name=path, for example sft=outputs/demo/sft/merged"
        )
    return models


def answer(name: str, path: str, rows: list[dict], args) -> list[dict]:
    """Answers of one model to all prompts: rows with model, prompt_id, user_id, prompt, completion, ended, tokens."""
    model, tokenizer = load_policy(path, args.dtype)
    ids = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
    order, answers = sorted(range(len(rows)), key=lambda i: len(ids[i])), {}
    torch.manual_seed(args.seed)
    for start in tqdm(range(0, len(order), args.batch_size), desc=f"{name} answers"):
        batch = order[start : start + args.batch_size]
        drawn = generate_ids(
            model, tokenizer, [ids[i] for i in batch], args.max_new_tokens, args.temperature
        )
        for i, tokens in zip(batch, drawn, strict=True):
            answers[i] = {
                "model": name, **rows[i], "completion": decode_completion(tokenizer, tokens),
                "ended": tokens[-1] == tokenizer.eos_token_id, "tokens": len(tokens), "completion_ids": tokens,
            }  # fmt: skip
    return [answers[i] for i in range(len(rows))]


@torch.no_grad()
def kl_from_reference(path: str, reference: str, answers: list[dict], dtype: str) -> float | None:
    """Mean over answers of log p(answer) - log p_reference(answer), in nats per answer; None across prompt formats.

    On the very tokens the model sampled, so it estimates (k1) the KL divergence of the model from the reference.
    """
    pairs = []
    for name in (path, reference):
        tokenizer = load_tokenizer(str(name))
        pairs.append(
            [(encode_prompt(tokenizer, a["prompt"]), a["completion_ids"]) for a in answers]
        )
    if pairs[0] != pairs[1]:
        return None
    ours, theirs = (
        completion_logprobs(load_policy(name, dtype)[0], pairs[0]) for name in (path, reference)
    )
    return sum(a - b for a, b in zip(ours, theirs, strict=True)) / len(answers)


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="models or adapters to compare",
    )
    parser.add_argument("--input", required=True, help="held-out prompts: file, folder or Hub id")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--reward", help="reward model, as second judge")
    parser.add_argument(
        "--judge", default="data_prep.label:scripted_reward", help="gold judge, module:function"
    )
    parser.add_argument(
        "--judge_name", default="the scripted labeler", help="what the report calls that judge"
    )
    parser.add_argument(
        "--tie", type=float, default=0.3, help="gold scores closer than this are a tie"
    )
    parser.add_argument("--reference", default="sft", help="the model that KL is measured from")
    parser.add_argument(
        "--run_dir", type=Path, help="the run to report on (prompts/ sft/ reward/ ppo/ inside)"
    )
    parser.add_argument(
        "--limit", type=int, default=200, help="this many prompts, drawn with --seed"
    )
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    models, judge, started = (
        parse_models(args.models),
        load_function(args.judge, "--judge"),
        time.monotonic(),
    )

    # 1. The same prompts for every model
    rows = load_rows(args.input, "test", columns=["prompt"]).to_list()
    rows = random.Random(args.seed).sample(rows, min(args.limit, len(rows)))
    rows = [
        {
            "prompt_id": str(r.get("id", i)),
            "user_id": r.get("user_id") or f"prompt {i}",
            "prompt": as_messages(r["prompt"]),
        }
        for i, r in enumerate(rows)
    ]

    # 2. Answers and scores
    settings, answers = (
        [
            vars(args)[k]
            for k in ("limit", "max_new_tokens", "temperature", "seed", "input", "judge", "dtype")
        ],
        {},
    )
    for name, path in models.items():
        file = args.output_dir / "answers" / f"{name}.jsonl"
        if file.is_file() and (kept := read_jsonl(file))[0].get("asked") == [path, *settings]:
            answers[name] = kept
            continue
        found = answer(name, path, rows, args)
        gold = judge(
            prompts=[r["prompt"] for r in found], completions=[r["completion"] for r in found]
        )
        answers[name] = [
            {**r, "gold": float(g), "asked": [path, *settings]}
            for r, g in zip(found, gold, strict=True)
        ]
        write_rows(file, answers[name])
    if args.reward:
        reward = load_reward(args.reward, device=str(PartialState().device))
        for found in answers.values():
            scores = reward.score([r["prompt"] for r in found], [r["completion"] for r in found])
            for row, score in zip(found, scores, strict=True):
                row["reward"] = score

    # 3. What it means
    users = [row["user_id"] for row in rows]
    result = {
        "judge": args.judge_name,
        "models": {},
        "win_rate": {},
        "win_rate_by_reward_model": {},
        "win_rate_shorter": {},
    }
    for name, found in answers.items():
        summary = {"path": models[name]}
        for key in ("gold", "reward", "tokens", "ended"):
            if key in found[0]:
                mean, low, high = cluster_bootstrap([r[key] for r in found], users)
                summary[key] = {"mean": mean, "low": low, "high": high}
        if args.reference in models and name != args.reference:
            summary[f"kl_from_{args.reference}"] = kl_from_reference(
                models[name], models[args.reference], found, args.dtype
            )
        result["models"][name] = summary
    names = list(models)
    for ours, theirs in [(a, b) for i, a in enumerate(names) for b in names[:i]]:
        a, b, key = answers[ours], answers[theirs], f"{ours}_vs_{theirs}"
        result["win_rate"][key] = win_rate(
            [r["gold"] for r in a], [r["gold"] for r in b], users, args.tie
        )
        if args.reward:
            result["win_rate_by_reward_model"][key] = win_rate(
                [r["reward"] for r in a], [r["reward"] for r in b], users
            )
        result["win_rate_shorter"][key] = win_rate(
            [-r["tokens"] for r in a], [-r["tokens"] for r in b], users
        )
    result["seconds"] = {"evaluate": round(time.monotonic() - started, 1)}
    write_report(args.output_dir, result, answers, args.run_dir)


if __name__ == "__main__":
    main()
