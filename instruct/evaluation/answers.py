"""Answers of models to held-out prompts, kept on disk: nothing is asked twice.

A model is loaded once for all ways it is asked. Models that are measured from another one answer
before it, so that it says how likely it finds their answers while it is there for its own.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from instruct.checks.model_limits import check_prompts
from instruct.errors import UserError
from instruct.evaluation.likelihoods import completion_logprobs
from instruct.evaluation.modes import Asked, first_line, over_after, prompt_ids
from instruct.files import read_jsonl, write_rows
from instruct.generation import generate
from instruct.hashes import hash_of
from instruct.models import load_policy
from instruct.run.fingerprints import content_of, model_identity
from instruct.run.folders import clear_leftovers
from instruct.tokens import decode_completion, ends_of, load_tokenizer
from instruct.turns import has_ended

# Flags that decide what a model answers; a batch shares its random numbers.
ASKED = ("max_new_tokens", "temperature", "show_temperature", "batch_size", "seed", "dtype")
ANSWERS = "answers"  # folder in the output folder: a file a model
# what rows hold for the next run alone
NOTES = ("asked", "judged", "measured_from", "against")


class Model(NamedTuple):
    """One of `--models`.

    Attributes:
        examples: of `few_shot`, pairs of question and answer.
    """

    name: str
    asked: Asked
    examples: Sequence[Sequence[str]] = ()


class Loaded(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def samples_exactly(self) -> bool:
        """Whether sampling computes what a forward pass over whole rows does, but for rounding."""
        stateful = getattr(self.model, "_is_stateful", False)
        return self.model.dtype == torch.float32 and not stateful


################
# One model's answers
################


def answer(
    model: Model, loaded: Loaded, rows: list[dict], shown: list[int], args: argparse.Namespace
) -> list[dict]:
    """Answers of one model to all prompts, in the order of `rows`.

    Returns rows with model, prompt_id, user_id, prompt, completion, ended (by itself), tokens (how
    many, the end included), completion_ids, and where it was asked by its chat template, logprob
    (nats, at temperature 1). Those of `shown` hold what it says at `--show_temperature`, too.
    """
    names = [f"{args.input}, prompt {row['prompt_id']}" for row in rows]
    ids = prompts_of(model, loaded.tokenizer, rows, names)
    limits = zip(names, ids, strict=True)
    check_prompts(loaded.model.config, limits, args.max_new_tokens)
    found = _sample(model, loaded, ids, args.temperature, f"{model.name} answers", args)
    answers = [{"model": model.name, **row, **new} for row, new in zip(rows, found, strict=True)]
    if model.asked.is_chat:
        # of another distribution where it was another temperature
        if args.temperature != 1 or not loaded.samples_exactly:
            pairs = [(p, new["completion_ids"]) for p, new in zip(ids, found, strict=True)]
            for row, logprob in zip(answers, logprobs(loaded, pairs), strict=True):
                row["logprob"] = logprob
    else:
        for row in answers:
            del row["logprob"]
    if args.show_temperature is not None:
        some = [ids[i] for i in shown]
        more = _sample(model, loaded, some, args.show_temperature, f"{model.name} to show", args)
        for i, new in zip(shown, more, strict=True):
            answers[i]["shown"] = new["completion"]
    return answers


def prompts_of(
    model: Model, tokenizer: PreTrainedTokenizerBase, rows: list[dict], names: list[str]
) -> list[list[int]]:
    """The ids that a model is given for each row; `names` are the rows in a message."""
    mode, examples = model.asked.mode, model.examples
    pairs = zip(rows, names, strict=True)
    return [prompt_ids(tokenizer, row, where, mode, examples) for row, where in pairs]


@torch.no_grad()
def logprobs(loaded: Loaded, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
    """log p(answer | prompt) of each pair of ids, in nats."""
    return completion_logprobs(loaded.model, pairs)


def _sample(
    model: Model,
    loaded: Loaded,
    ids: list[list[int]],
    temperature: float,
    what: str,
    args: argparse.Namespace,
) -> list[dict]:
    tokenizer = loaded.tokenizer
    until = None if model.asked.is_chat else lambda row: over_after(tokenizer, row)
    # prompts of similar length share a batch
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    answers = {}
    # per model: its answers do not depend on who is compared
    torch.manual_seed(args.seed)
    for start in tqdm(range(0, len(order), args.batch_size), desc=what):
        batch = order[start : start + args.batch_size]
        prompts = [ids[i] for i in batch]
        drawn = generate(
            loaded.model, tokenizer, prompts, args.max_new_tokens, temperature, until=until
        )
        # greedy decoding draws nothing, so it has no log-probabilities
        sums = [sum(row) for row in drawn.logprobs]
        for i, tokens, logprob in zip(batch, drawn.ids, sums, strict=True):
            text = decode_completion(tokenizer, tokens, ids[i])
            over = until is not None and until(tokens) is not None
            answers[i] = {
                "completion": text if until is None else first_line(text),
                "ended": over or has_ended(tokenizer, tokens),
                "tokens": len(tokens),
                "completion_ids": tokens,
                "logprob": logprob,
            }
    return [answers[i] for i in range(len(ids))]


################
# All models' answers
################


def all_answers(
    models: list[Model], rows: list[dict], shown: list[int], args: argparse.Namespace
) -> dict[str, list[dict]]:
    """{model: its answers}, of an earlier run that asked the same, else new ones.

    Where `--reference` is one of the models, answers by chat template have `reference_logprob`:
    the answer's log-probability, in nats, by the reference; None where it renders another prompt.
    """
    # of a run that was killed as it wrote one of them
    clear_leftovers(args.output_dir / ANSWERS)
    keys = {model.name: _key(model, rows, args) for model in models}
    kept = {} if args.overwrite_output_dir else {m.name: _kept(m, keys, args) for m in models}
    answers = {name: found for name, found in kept.items() if found is not None}
    reference = next((m for m in models if m.name == args.reference and m.asked.is_chat), None)
    others = (
        [m for m in models if m.asked.is_chat and m.name != args.reference] if reference else []
    )
    paths = list(dict.fromkeys(model.asked.path for model in models))
    if reference is not None:
        # last, when the others have answered
        paths = [p for p in paths if p != reference.asked.path] + [reference.asked.path]
    for path in paths:
        new = [m for m in models if m.asked.path == path and m.name not in answers]
        is_reference = reference is not None and path == reference.asked.path
        unmeasured = [m for m in others if not _is_measured(answers.get(m.name), keys, args)]
        if not new and not (is_reference and unmeasured):
            continue
        loaded = Loaded(*load_policy(path, args.dtype))
        for model in new:
            found = answer(model, loaded, rows, shown, args)
            answers[model.name] = [{**row, "asked": keys[model.name]} for row in found]
            # written whole per model, so a killed run repeats at most one
            keep(args.output_dir, answers[model.name])
        for model in unmeasured if is_reference else []:
            _measure(model, answers[model.name], reference, loaded, keys, args)
        # before the next one is loaded
        del loaded
    # as they were typed, whoever answered first
    return {model.name: answers[model.name] for model in models}


def _key(model: Model, rows: list[dict], args: argparse.Namespace) -> str:
    """What was asked of whom: the model and the prompts by content, as others may lie there."""
    path, mode, _ = model.asked
    asked = {
        "model": content_of(model_identity(path)),
        # the pairs themselves: the file may have become another one
        "mode": [mode, model.examples],
        "prompts": rows,
        "ends": ends_of(path),
        **{flag: getattr(args, flag) for flag in ASKED},
    }
    return hash_of(asked)


def _file(output_dir: Path, name: str) -> Path:
    return output_dir / ANSWERS / f"{name}.jsonl"


def _kept(model: Model, keys: dict[str, str], args: argparse.Namespace) -> list[dict] | None:
    file = _file(args.output_dir, model.name)
    rows = read_jsonl(file) if file.is_file() else []
    return rows if rows and rows[0].get("asked") == keys[model.name] else None


def keep(output_dir: Path, answers: list[dict]) -> None:
    """Writes one model's answers where the next run finds them."""
    write_rows(_file(output_dir, answers[0]["model"]), answers)


def _is_measured(answers: list[dict] | None, keys: dict[str, str], args) -> bool:
    return bool(answers) and answers[0].get("measured_from") == keys[args.reference]


def _measure(
    model: Model,
    answers: list[dict],
    reference: Model,
    loaded: Loaded,
    keys: dict[str, str],
    args: argparse.Namespace,
) -> None:
    """Adds `reference_logprob` to a model's answers, by the reference, which is loaded."""
    asked = [
        prompts_of(m, tokenizer, answers, [m.asked.path] * len(answers))
        for m, tokenizer in (
            (model, load_tokenizer(model.asked.path)),
            (reference, loaded.tokenizer),
        )
    ]
    found: list[float | None] = [None] * len(answers)
    # KL of two distributions over the same ids, after the same ids
    if asked[0] == asked[1]:
        pairs = [(p, row["completion_ids"]) for p, row in zip(asked[1], answers, strict=True)]
        found = logprobs(loaded, pairs)
        _check_finite(model, reference, answers, found)
    for row, logprob in zip(answers, found, strict=True):
        row |= {"reference_logprob": logprob, "measured_from": keys[reference.name]}
    keep(args.output_dir, answers)


def _check_finite(
    model: Model, reference: Model, answers: list[dict], by_reference: list[float]
) -> None:
    """Refuses an answer without a log-probability, and one that the reference never gives."""
    for row, theirs in zip(answers, by_reference, strict=True):
        if not math.isfinite(row["logprob"] - theirs):
            raise UserError(
                f"the answer of {model.asked.path} to prompt {row['prompt_id']} has "
                f"log-probability {row['logprob']}, and {theirs} by {reference.asked.path}: no KL; "
                "give another --dtype, or another --reference"
            )
