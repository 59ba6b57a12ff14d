"""What a reward model is worth: whom it agrees with, whether it means its scores, and length.

On held-out rankings: how often it orders two answers as the labeler did, by how far apart they were
ranked and by labeler; whether sigmoid(r_w - r_l) is how often the better one is better; and whether
its scores go with length. On files of preferences (HHH, say): how often it prefers the better one.

Labelers held out (the paper's appendix E.2: five folds, 69.6 ± 0.9 % on labelers that it never
learned from, 72.4 ± 0.4 % on those it had) are a loop over files, which docs/evaluation.md gives:
`recipes/reward.py --dataset_test_split FILE` takes the rankings of those held out, and what this
task tells of each labeler says whether the model learned from them.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from instruct.errors import UserError
from instruct.evaluation.calibration import calibration, correlation_within, pairs_of
from instruct.evaluation.kept_scores import kept_scores, let_go
from instruct.evaluation.modes import Asked
from instruct.evaluation.panel import Judge, reward_judge
from instruct.evaluation.ranking_metrics import PAD, ranking_metrics
from instruct.evaluation.tables import interval, of_all, table_lines
from instruct.evaluation.tasks.choice_files import read_items, shape_of
from instruct.evaluation.tasks.choice_values import Item
from instruct.files import placed_source, split_files
from instruct.plain_text import markdown_text
from instruct.ranking import as_ranking, key_of, why_no_preference
from instruct.run.run_record import read_record
from instruct.tokens import FOR_TEMPLATE, encode_completion

NAME = "reward"
COMPARISONS = "comparisons"  # of a run: the rankings that its reward model learned from
SPLITS = ("test", "validation", "train")  # of a folder of preferences: the first that it has
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high", "n_pairs", "n_rankings")
SHOWN = 20  # labelers in a table


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this task alone."""
    add = parser.add_argument_group(f"--tasks {NAME}").add_argument
    held_out = "held-out rankings; default: validation in comparisons/ of --run_dir"
    add("--rankings", metavar="FILE", help=held_out)
    more = "preferences in any shape (HHH, say), to tell the accuracy on each"
    add("--reward_file", nargs="+", default=[], metavar="FILE", help=more)


def sources(args: argparse.Namespace) -> dict[str, list[str]]:
    """{flag: what it reads}, of `--run_dir` where that holds it."""
    rankings = _rankings_of(args)
    return {"rankings": [rankings] if rankings else [], "reward_file": args.reward_file}


def check(models: dict[str, Asked], args: argparse.Namespace) -> None:
    """What cannot work, told before anything is asked.

    Raises:
        UserError: no reward model, no rankings, or rows that are none.
    """
    path = reward_path(args, NAME)
    held_out(args)
    for source in args.reward_file:
        preferences(source, args)
    # `--reward` was loaded by who reads it
    if args.reward is None:
        reward_judge(path)


def reward_path(args: argparse.Namespace, task: str) -> str:
    """The reward model that a task is about: `--reward`, or the one of `--run_dir`.

    Raises:
        UserError: neither is there.
    """
    if args.reward is not None:
        return args.reward
    path = args.run_dir / "reward" if args.run_dir is not None else None
    if path is None or not path.is_dir():
        raise UserError(f"--tasks {task} needs a reward model: give --reward PATH")
    return str(path)


def measure(models: dict[str, Asked], args: argparse.Namespace) -> dict:
    """What a report says of the reward model, under `reward`.

    Returns `ranking_metrics` of the held-out rankings, clustered by user where users are known, and
        n_rows: rankings that were read, those without a preference among them.
        by_labeler: {labeler: accuracy with interval, and whether it was `trained_on`}.
        held_out_labelers: the same of all labelers that it never learned from; None: of none.
        calibration: see `calibration.calibration`.
        length_correlation: {spearman, pearson} of score and tokens within a prompt; and
            {labels_spearman} of rank and tokens, what there was to learn.
        length_accuracy: that of a model which says that the longer answer is better.
        rankings: the file, where it is not the run's own.
        files: {file: accuracy with interval}, of `--reward_file`.

    Raises:
        UserError: names the file and row.
    """
    judge, found = reward_judge(reward_path(args, NAME)), {"model": reward_path(args, NAME)}
    if (source := _rankings_of(args)) is not None:
        rows = held_out(args)
        scores = scores_of_rankings(judge, rows, source, args)
        tokenizer = judge.score.loaded.tokenizer
        lengths = [[len(encode_completion(tokenizer, t)) for t in r["completions"]] for r in rows]
        found |= of_rankings(rows, scores, lengths, _trained_on(judge.model))
        if args.rankings is not None:
            found["rankings"] = source
    found["files"] = {}
    for source, name in zip(args.reward_file, _names(args.reward_file), strict=True):
        rows = preferences(source, args)
        scores = scores_of_rankings(judge, rows, source, args)
        metrics = _metrics(rows, scores)
        found["files"][name] = {key: metrics[key] for key in ACCURACY}
    let_go(judge)
    return found


################
# Rows
################


def _rankings_of(args: argparse.Namespace) -> str | None:
    if args.rankings is not None:
        return args.rankings
    folder = args.run_dir / COMPARISONS if args.run_dir is not None else None
    return str(folder) if folder is not None and folder.is_dir() else None


def held_out(args: argparse.Namespace) -> list[dict]:
    """The held-out rankings: prompt [messages], completions, ranks, and what rode along.

    Empty where only files of preferences are asked for.

    Raises:
        UserError: there are none, or (with file and row) a row is none.
    """
    source = _rankings_of(args)
    if source is None:
        if args.reward_file:
            return []
        raise UserError(
            f"--tasks {NAME} needs held-out rankings: give --rankings FILE (or --reward_file), or "
            "a --run_dir that holds comparisons/"
        )
    return _read(source, "validation", "--rankings", args)


def preferences(source: str, args: argparse.Namespace) -> list[dict]:
    """The rows of a `--reward_file` as rankings."""
    # as a Hub id, the split that such a set has
    there = (split for split in SPLITS if split_files(source, split))
    return _read(source, next(there, SPLITS[0]), "--reward_file", args)


def _rows_of(source: str, split: str, args: argparse.Namespace) -> Iterable[dict]:
    """Rows of any shape of preferences, HHH's own (an input and choices of it) among them."""
    _, first = next(iter(placed_source(source, split)), (None, {}))
    shape = None
    # of no shape of multiple choice: who reads preferences says what is wrong
    with suppress(UserError):
        shape = shape_of(source, first).name
    if shape == "BIG-bench":
        return [_as_preference(item) for item in read_items(source, split)[1]]
    # who can read more shapes than this room says how
    return getattr(args, "read_rankings", _own_rankings)(source, split)


def _as_preference(item: Item) -> dict:
    ranks = [2 - label for label in item.labels["answer"]]
    row = {"prompt": item.prompt, "completions": item.choices, "ranks": ranks}
    return as_ranking(row, item.place)


def _read(source: str, split: str, flag: str, args: argparse.Namespace) -> list[dict]:
    try:
        rows = _rows_of(source, split, args)
    except UserError as error:
        raise UserError(f"{flag} {error}") from error
    if all(why_no_preference(row) for row in rows):
        raise UserError(f"{flag} {source}: no ranking of two answers one of which is the better")
    return rows


def _own_rankings(source: str, split: str) -> list[dict]:
    rows = placed_source(source, split)
    return [{**row, **as_ranking(row, where)} for where, row in rows]


def _names(sources: Sequence[str]) -> list[str]:
    """What a report calls files: by their stems, where these tell them apart."""
    stems = [Path(source).stem if Path(source).exists() else source for source in sources]
    return [s if stems.count(s) == 1 else str(o) for s, o in zip(stems, sources, strict=True)]


def scores_of_rankings(
    judge: Judge, rows: list[dict], source: str, args: argparse.Namespace
) -> list[list[float]]:
    """K scores a row, kept on disk."""
    texts = [
        {"prompt": row["prompt"], "completion": text}
        | {key: row[key] for key in FOR_TEMPLATE if row.get(key) is not None}
        for row in rows
        for text in row["completions"]
    ]
    what = f"--tasks {NAME}, {judge.model} on {Path(source).name}"
    found = iter(kept_scores(judge, texts, what, args))
    return [[next(found) for _ in row["completions"]] for row in rows]


def _trained_on(path: str) -> set[str] | None:
    """The labelers that a reward model learned from; None where that is not recorded."""
    record, metrics = read_record(Path(path)) or {}, Path(path) / "metrics.json"
    if not record.get("labelers") or not metrics.is_file():
        return None
    # the record names those of both splits
    new = json.loads(metrics.read_text()).get("held_out_labelers") or {}
    return set(record["labelers"]) - set(new.get("labelers", ()))


################
# Numbers
################


def clusters_of(rows: list[dict]) -> list[str]:
    """Who asked, where every row says so; else what was asked."""
    if all(row.get("user_id") is not None for row in rows):
        return [str(row["user_id"]) for row in rows]
    return [str(key_of(row["prompt"])) for row in rows]


def _metrics(rows: list[dict], scores: list[list[float]]) -> dict:
    longest = max(len(row["ranks"]) for row in rows)
    ranks, padded = np.full((len(rows), longest), PAD), np.zeros((len(rows), longest))
    for i, (row, given) in enumerate(zip(rows, scores, strict=True)):
        ranks[i, : len(given)], padded[i, : len(given)] = row["ranks"], given
    return ranking_metrics(padded, ranks, prompts=np.asarray(clusters_of(rows)))


def of_rankings(
    rows: list[dict],
    scores: list[list[float]],
    lengths: list[list[int]],
    trained_on: set[str] | None = None,
) -> dict:
    """What `measure` says of the held-out rankings.

    Args:
        scores, lengths: of each completion, the latter in tokens.
        trained_on: labelers that the reward model learned from; None where nobody knows.
    """
    ranks, texts = [row["ranks"] for row in rows], [row["completions"] for row in rows]
    clusters, pairs = np.asarray(clusters_of(rows)), pairs_of(texts, scores, ranks)
    lower = [[-rank for rank in row] for row in ranks]
    by_labeler, new = _by_labeler(rows, scores, trained_on)
    longer = _metrics(rows, lengths)
    return {
        **_metrics(rows, scores),
        "n_rows": len(rows),
        "by_labeler": by_labeler,
        "held_out_labelers": new,
        "calibration": calibration(pairs.gaps, pairs.wins, clusters[pairs.rankings]),
        "length_correlation": {
            "spearman": correlation_within(scores, lengths, clusters, by_rank=True),
            "pearson": correlation_within(scores, lengths, clusters),
            "labels_spearman": correlation_within(lower, lengths, clusters, by_rank=True),
        },
        "length_accuracy": {key: longer[key] for key in ACCURACY},
    }


def _by_labeler(
    rows: list[dict], scores: list[list[float]], trained_on: set[str] | None
) -> tuple[dict[str, dict], dict | None]:
    """Accuracy on each labeler's rankings, and on those of all who were never learned from."""

    def of(names: set[str]) -> dict | None:
        some = [i for i, row in enumerate(rows) if str(row.get("labeler")) in names]
        found = _metrics([rows[i] for i in some], [scores[i] for i in some]) if some else {}
        return {key: found[key] for key in ACCURACY} if found else None

    names = sorted({str(row["labeler"]) for row in rows if row.get("labeler") is not None})
    found = {name: entry for name in names if (entry := of({name})) is not None}
    for name, entry in found.items():
        entry["trained_on"] = None if trained_on is None else name in trained_on
    new = sorted(name for name, entry in found.items() if entry["trained_on"] is False)
    return found, {"labelers": new, **of(set(new))} if new else None


################
# In words
################


def _accuracy(entry: dict) -> str:
    share, low, high = (100 * entry[key] for key in ACCURACY[:3])
    return f"{share:.1f} % [{low:.1f}, {high:.1f}]"


def _table(rows: list[list[str]]) -> list[str]:
    return ["", *table_lines(rows), ""]


def lines(found: dict) -> list[str]:
    """The section of report.md."""
    out = ["## Reward model", ""]
    if "calibration" in found:
        out += _ranking_lines(found) + _labeler_lines(found) + _calibration_lines(found)
        out += _length_lines(found)
    if found["files"]:
        rows = [["preferences", "accuracy", "pairs"]]
        for name, entry in found["files"].items():
            rows.append([markdown_text(name), _accuracy(entry), str(entry["n_pairs"])])
        out += _table(rows)
    return out


def _ranking_lines(found: dict) -> list[str]:
    rows = [["apart in rank", "accuracy", "pairs"]]
    for distance, entry in found["by_rank_distance"].items():
        rows.append([distance, f"{100 * entry['accuracy']:.1f} %", str(entry["n_pairs"])])
    return [
        f"Of {found['n_pairs']} pairs of "
        f"{of_all(found['n_rankings'], found.get('n_rows'), 'held-out rankings')} it orders "
        f"{_accuracy(found)} as the labeler did; choosing the longer answer orders "
        f"{_accuracy(found['length_accuracy'])}. Intervals are 95 % bootstrap over users (or "
        "prompts).",
        *_table(rows),
    ]


def _labeler_lines(found: dict) -> list[str]:
    if len(found["by_labeler"]) < 2:
        return []
    said = {True: "yes", False: "no", None: "–"}
    rows = [["labeler", "accuracy", "pairs", "learned from"]]
    for name, entry in list(found["by_labeler"].items())[:SHOWN]:
        cells = [markdown_text(name), _accuracy(entry), str(entry["n_pairs"])]
        rows.append([*cells, said[entry["trained_on"]]])
    if (new := found["held_out_labelers"]) is not None:
        rows.append(["all never learned from", _accuracy(new), str(new["n_pairs"]), "no"])
    return _table(rows)


def _calibration_lines(found: dict) -> list[str]:
    entry = found["calibration"]
    rows = [["predicted that A is better", "observed", "pairs"]]
    for b in entry["bins"]:
        if b["n"]:
            low, high = 100 * b["observed_low"], 100 * b["observed_high"]
            observed = f"{100 * b['observed']:.0f} % [{low:.0f}, {high:.0f}]"
            rows.append([f"{100 * b['predicted']:.0f} %", observed, str(b["n"])])
    return [
        f"Calibration: expected calibration error {entry['ece']:.3f} (a model whose probabilities "
        f"are right would have {entry['ece_by_chance']:.3f} on as many pairs); slope "
        f"{entry['slope']:.2f} (1 is right, below it is too sure of itself).",
        *_table(rows),
    ]


def _length_lines(found: dict) -> list[str]:
    by = found["length_correlation"]
    return [
        f"Length: within a prompt, score and tokens correlate by {interval(by['spearman'])} "
        f"(Spearman; Pearson {interval(by['pearson'])}), what labelers prefer and tokens by "
        f"{interval(by['labels_spearman'])}.",
        "",
    ]
