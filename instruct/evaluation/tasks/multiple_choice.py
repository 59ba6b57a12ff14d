"""Multiple choice by log-likelihood: one engine for every file of it, and for plain texts.

A choice's score is log p(choice | prompt) under a causal LM, as a sum and as a mean per token. A
prompt and a choice are cut into tokens as lm-evaluation-harness does: together, and apart where the
prompt's own tokens end.
"""

import argparse
import gc
import math
import random
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from instruct.checks.model_limits import Limits, limits_of
from instruct.errors import UserError
from instruct.evaluation.answers import Loaded
from instruct.evaluation.judges import LogProb
from instruct.evaluation.kept_steps import KeptSteps
from instruct.evaluation.likelihoods import log_likelihoods
from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks.choice_files import TEXT, Shape, read_items
from instruct.evaluation.tasks.choice_statistics import (
    Known,
    columns_of,
    difference,
    interval,
)
from instruct.evaluation.tasks.choice_values import Item
from instruct.hashes import hash_of
from instruct.models import load_policy
from instruct.one_bar import moving
from instruct.plain_text import one_line
from instruct.processes import is_main_process
from instruct.rendering import named, render_prompt
from instruct.rows.splits import stem_of
from instruct.run.fingerprints import content_of, model_identity
from instruct.tokens import ids_of
from instruct.turns import turn_end

ITEMS_AT_ONCE = 32  # between two notes on disk
WINDOW = 1024  # tokens of a text that are read at once
TOKENS_AT_ONCE = 2048  # of texts, whose every token has logits of the whole vocabulary

Pair = tuple[list[int], list[int]]  # (prompt ids, ids after it)


class TaskFile(NamedTuple):
    """A file of `--task_file` or `--truthful_file`.

    Attributes:
        name: what the report calls it.
        total: items in the file; `items` are those that are asked.
    """

    name: str
    source: str
    shape: Shape
    items: list[Item]
    total: int


################
# Flags and files
################


def add_flags(group: argparse._ArgumentGroup) -> None:
    """Flags of all files of multiple choice."""
    add = group.add_argument
    split = "of a folder or a Hub dataset; a file is all of it"
    add("--task_split", default="validation", metavar="NAME", help=split)
    add("--task_config", metavar="NAME", help="configuration of a Hub dataset")
    chat = "ask by the chat template; default: as plain text, as lm-evaluation-harness does"
    add("--task_chat", action="store_true", help=chat)


def read_files(sources: list[str], args: argparse.Namespace) -> list[TaskFile]:
    """The files as they are asked: `--limit` rows of each, drawn with `--seed`.

    Raises:
        UserError: as `read_items`; a file is given twice.
    """
    found = []
    for source in sources:
        shape, items = read_items(source, args.task_split, args.task_config)
        name = stem_of(Path(source)) if Path(source).is_file() else str(source).rstrip("/")
        if any(source == file.source for file in found):
            raise UserError(f"{source} is given twice; once is enough")
        # test.jsonl of two folders
        if any(name == file.name for file in found):
            name = source
        drawn = range(len(items))
        if args.limit and args.limit < len(items):
            drawn = sorted(random.Random(args.seed).sample(drawn, args.limit))
        found.append(TaskFile(name, source, shape, [items[i] for i in drawn], len(items)))
    return found


def check(task: str, files: list[TaskFile], models: dict[str, Asked]) -> None:
    """Says how each file is read; that every model can be asked.

    Raises:
        UserError: no model there; which, and of which task.
    """
    for file in files:
        print(one_line(f"{task}: {described(file)}"))
    for name, asked in models.items():
        with named(f"--tasks {task}, model {name}"):
            LogProb(asked.path).check()


def described(file: TaskFile) -> str:
    """A file, the shape that it was read as, and how many of its rows are asked."""
    shape, count = file.shape, str(len(file.items))
    if len(file.items) < file.total:
        count += f" of {file.total} (--limit)"
    note = f" ({shape.note})" if shape.note else ""
    return f"{file.source}: read as {shape.name}{note}, {count} items"


################
# Tokens
################


class Encoded(NamedTuple):
    """An item as ids.

    Attributes:
        choices: the pairs of each: one, or of a long text its windows.
        apart: how many choices were cut into tokens apart from their prompt.
    """

    choices: list[list[Pair]]
    apart: int = 0

    @property
    def length(self) -> int:
        return max(len(p) + len(c) for pairs in self.choices for p, c in pairs)


def encode_item(
    tokenizer: PreTrainedTokenizerBase, item: Item, is_chat: bool, window: int = WINDOW
) -> Encoded:
    """The ids of an item's choices after those of its prompt.

    As lm-evaluation-harness: the two are cut into tokens together, blanks at the end of a prompt
    belong to the choice, and what has no prompt follows the tokenizer's bos, or eos. Where a token
    would span the two, the harness drops it; here they are cut apart.

    Args:
        is_chat: by the chat template, where there is a prompt.
        window: tokens of a text that are read at once; the next ones follow the last token.
    """
    if not item.prompt:
        return Encoded([_windows(tokenizer, text, window) for text in item.choices])
    if is_chat:
        turns = item.turns or [{"role": "user", "content": item.prompt}]
        system = [{"role": "system", "content": item.system}] if item.system else []
        context, delimiter = render_prompt(tokenizer, [*system, *turns]), ""
    else:
        context, delimiter = item.system + item.prompt, item.delimiter
    asked = context.rstrip()
    delimiter = context[len(asked) :] + delimiter
    prompt, choices, apart = _ids(tokenizer, asked, is_chat), [], 0
    for choice in item.choices:
        whole = _ids(tokenizer, asked + delimiter + choice, is_chat)
        if is_apart := whole[: len(prompt)] != prompt:
            whole = [*prompt, *ids_of(tokenizer, delimiter + choice)]
        apart += is_apart
        choices.append([(prompt, whole[len(prompt) :])])
    return Encoded(choices, apart)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, is_chat: bool) -> list[int]:
    # a template writes its own bos
    if is_chat:
        return ids_of(tokenizer, text)
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if len(ids) > 1 and ids[-1] in turn_end(tokenizer).ids else ids


def _windows(tokenizer: PreTrainedTokenizerBase, text: str, window: int) -> list[Pair]:
    bos, ids = tokenizer.bos_token_id, ids_of(tokenizer, text)
    before = tokenizer.eos_token_id if bos is None else bos
    return [
        ([before if start == 0 else ids[start - 1]], ids[start : start + window])
        for start in range(0, len(ids), window)
    ]


################
# Asking
################


class _Model:
    """The one model that is loaded, when it is first needed."""

    path: str | None = None
    loaded: Loaded | None = None

    def at(self, path: str, dtype: str) -> Loaded:
        if self.path != path:
            # before the next one is loaded
            self.path, self.loaded = None, None
            gc.collect()
            self.loaded, self.path = Loaded(*load_policy(path, dtype)), path
        return self.loaded


def _ask(
    task: str, name: str, asked: Asked, files: list[TaskFile], model: _Model, args
) -> dict[str, tuple[list[Known], int]]:
    """{file: what a model says of each item, and how many choices were cut apart}, kept in steps.

    Raises:
        UserError: the model cannot be loaded, or has no finite log-likelihood: model, task and row.
    """
    is_chat = args.task_chat and asked.is_chat
    key = hash_of({"model": content_of(model_identity(asked.path)), "dtype": args.dtype})
    path = Path(args.output_dir) / task / f"{name}.jsonl"
    kept, found = KeptSteps(path, key, anew=args.overwrite_output_dir), {}
    for file in files:
        # a row's place is not what is asked
        content = [item._replace(place="", labels={}, group=None) for item in file.items]
        of_file = hash_of([content, is_chat, ITEMS_AT_ONCE])[:16]
        steps = range(0, len(file.items), ITEMS_AT_ONCE)
        if not all(f"{of_file} {start}" in kept.done for start in steps):
            with named(f"--tasks {task}, model {name}"):
                loaded = model.at(asked.path, args.dtype)
            _ask_file(f"--tasks {task}, model {name}", file, of_file, loaded, is_chat, kept)
        rows = [row for start in steps for row in kept.done[f"{of_file} {start}"]]
        by_item = {i: (Known(sums, tokens), apart) for i, sums, tokens, apart in rows}
        known = [by_item[i][0] for i in range(len(file.items))]
        found[file.name] = known, sum(apart for _, apart in by_item.values())
    return found


def _ask_file(
    what: str, file: TaskFile, of_file: str, loaded: Loaded, is_chat: bool, kept: KeptSteps
) -> None:
    """Keeps [item, sums, tokens, choices cut apart] of every item in `kept`, step by step."""
    limits = limits_of(loaded.model.config)
    window = min([WINDOW, *(n - 1 for n in (limits.positions, limits.trained) if n)])
    encoded = []
    for item in file.items:
        with named(f"{what}: {item.place}"):
            encoded.append(encode_item(loaded.tokenizer, item, is_chat, window))
        _check_length(limits, encoded[-1], f"{what}: {item.place}")
    # steps of similar length; the same ones whenever it is killed
    order = sorted(range(len(encoded)), key=lambda i: encoded[i].length)
    steps = range(0, len(order), ITEMS_AT_ONCE)
    told = f"{what.split()[-1]} on {file.name}"
    with tqdm(total=len(order), desc=told, unit="item", disable=not is_main_process()) as bar:
        for start in steps:
            batch = order[start : start + ITEMS_AT_ONCE]
            if (step := f"{of_file} {start}") not in kept.done:
                some = [encoded[i] for i in batch]
                with moving(bar, 0):
                    sums = _sums(loaded.model, some, what, is_text=file.shape.kind == TEXT)
                for i, found in zip(batch, sums, strict=True):
                    _check_finite(found, f"{what}: {file.items[i].place}")
                tokens = [[sum(len(c) for _, c in pairs) for pairs in e.choices] for e in some]
                apart = [e.apart for e in some]
                kept.add(step, list(map(list, zip(batch, sums, tokens, apart, strict=True))))
            bar.update(len(batch))


def _check_length(limits: Limits, encoded: Encoded, where: str) -> None:
    for number, pairs in enumerate(encoded.choices, 1):
        if not all(completion for _, completion in pairs) or not pairs:
            raise UserError(f"{where}: choice {number} has no token of this tokenizer")
        for prompt, completion in pairs:
            limits.check(prompt + completion, where, shorter="leave that row out")


def _check_finite(sums: list[float], where: str) -> None:
    for number, found in enumerate(sums, 1):
        if not math.isfinite(found):
            raise UserError(
                f"{where}: the log-likelihood of choice {number} is {found}; "
                "give another --dtype, or another model"
            )


def _sums(
    model: PreTrainedModel, items: list[Encoded], what: str, is_text: bool
) -> list[list[float]]:
    """log p of each item's choices, in nats."""
    pairs = [pair for item in items for choice in item.choices for pair in choice]
    # the logits of a choice are few, those of a text all of its tokens
    longest = max(len(completion) for _, completion in pairs)
    at_once = max(1, TOKENS_AT_ONCE // longest) if is_text else len(pairs)
    parts = [pairs[i : i + at_once] for i in range(0, len(pairs), at_once)]
    totals = iter([one.total for part in parts for one in log_likelihoods(model, part, what)])
    return [[sum(next(totals) for _ in choice) for choice in item.choices] for item in items]


################
# Measures
################


def measure(
    task: str, files: list[TaskFile], models: dict[str, Asked], args: argparse.Namespace
) -> dict:
    """What each model knows of each file, beside the first model or `--reference`.

    Returns {"reference", "chat", "seed", "files": {name: {"source", "shape", "kind", "n", "of",
    "models": {name: {measure: interval}}, "difference": {name: {measure: interval}}}}}; of pairs
    `groups`, too. Differences are item by item.

    Raises:
        UserError: a model cannot be loaded or asked: model, task and row.
    """
    model, asked_before, known = _Model(), {}, {}
    for name, asked in models.items():
        # asked alike (:raw and :few_shot are, as plain text), one is asked
        key = (content_of(model_identity(asked.path)), args.task_chat and asked.is_chat)
        first = asked_before.setdefault(key, name)
        known[name] = known[first] if first in known else None
        if known[name] is None:
            known[name] = _ask(task, name, asked, files, model, args)
    reference = args.reference if args.reference in models else next(iter(models))
    return {
        "reference": reference,
        "seed": args.seed,
        "chat": [name for name, asked in models.items() if args.task_chat and asked.is_chat],
        "files": {
            file.name: _of_file(
                file, {name: of[file.name] for name, of in known.items()}, reference
            )
            for file in files
        },
    }


def _of_file(file: TaskFile, known: dict[str, tuple[list[Known], int]], reference: str) -> dict:
    shape = file.shape
    columns = {
        name: {
            f"prefers_{shape.first}" if measure == "prefers_first" else measure: column
            for measure, column in columns_of(shape.kind, file.items, found).items()
        }
        for name, (found, _) in known.items()
    }
    theirs = columns[reference]
    differences = {
        name: {
            measure: found
            for measure, column in ours.items()
            if (found := difference(column, theirs[measure])) is not None
        }
        for name, ours in columns.items()
        if name != reference
    }
    found = {
        "source": file.source,
        "shape": shape.name,
        "kind": shape.kind,
        "n": len(file.items),
        "of": file.total,
        "cut_apart": {name: apart for name, (_, apart) in known.items()},
        "models": {
            name: {measure: interval(column) for measure, column in ours.items()}
            for name, ours in columns.items()
        },
        "difference": differences,
    }
    groups: dict[str, list[int]] = {}
    for i, item in enumerate(file.items):
        if item.group is not None:
            groups.setdefault(item.group, []).append(i)
    if groups:
        found["groups"] = {
            group: {
                "n": len(rows),
                "models": {name: interval(c["entropy"], rows) for name, c in columns.items()},
            }
            for group, rows in sorted(groups.items())
        }
    return found
