"""Answers of models to held-out prompts, kept on disk: nothing is asked twice."""

import argparse
import math
from collections.abc import Callable

import torch
from tqdm import tqdm

from instruct.checks.model_limits import check_prompts
from instruct.checks.score_functions import scores_of
from instruct.files import read_jsonl, write_rows
from instruct.generation import generate_ids
from instruct.hashes import hash_of
from instruct.models import load_policy
from instruct.run.fingerprints import content_of, model_identity, source_hash
from instruct.tokens import decode_completion, encode_prompt_of, ends_of
from instruct.turns import has_ended

# Flags that decide what a model answers and what it scores; a batch shares its random numbers.
ASKED = ("max_new_tokens", "temperature", "batch_size", "seed", "judge", "dtype")


def answer(name: str, path: str, rows: list[dict], args: argparse.Namespace) -> list[dict]:
    """Answers of one model to all prompts, in the order of `rows`.

    Returns rows with model, prompt_id, user_id, prompt, completion, ended (by itself),
    tokens (how many, the end included) and completion_ids.
    """
    model, tokenizer = load_policy(path, args.dtype)
    names = [f"{args.input}, prompt {row['prompt_id']}" for row in rows]
    ids = [encode_prompt_of(tokenizer, row, where) for row, where in zip(rows, names, strict=True)]
    check_prompts(model.config, zip(names, ids, strict=True), args.max_new_tokens)
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
                "ended": has_ended(tokenizer, tokens),
                "tokens": len(tokens),
                "completion_ids": tokens,
            }
    return [answers[i] for i in range(len(rows))]


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
            "ends": ends_of(path),
            **{flag: getattr(args, flag) for flag in ASKED},
        }
    )
    if file.is_file() and not args.overwrite_output_dir:
        kept = read_jsonl(file)
        is_same = kept and kept[0].get("asked") == asked
        # earlier versions kept a judge's NaN
        if is_same and all(math.isfinite(row["gold"]) for row in kept):
            return kept
    answers = answer(name, path, rows, args)
    # the judge called as a reward function: one signature for both
    scores = scores_of(
        judge,
        f"--judge {args.judge}, asked of the answers of {name},",
        prompts=[row["prompt"] for row in answers],
        completions=[row["completion"] for row in answers],
    )
    answers = [
        {**row, "gold": score, "asked": asked} for row, score in zip(answers, scores, strict=True)
    ]
    # written whole per model, so a killed run repeats at most one
    write_rows(file, answers)
    return answers
