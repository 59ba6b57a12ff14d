"""Best-of-n from what was sampled for ranking: which of those outputs are the reference's own."""

import argparse
from collections import Counter
from pathlib import Path

from instruct.errors import UserError
from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks.reward_model import COMPARISONS
from instruct.files import load_rows, split_files
from instruct.ranking import key_of
from instruct.run.fingerprints import content_of, model_identity
from instruct.run.folders import json_in, record_beside


def samples_of(args: argparse.Namespace) -> str | None:
    """`--samples`, or the file of `--run_dir`; None where it has none."""
    if args.samples is not None:
        return args.samples
    file = args.run_dir / "samples.jsonl" if args.run_dir is not None else None
    return str(file) if file is not None and file.is_file() else None


def drawn_for_ranking(
    source: str, models: dict[str, Asked], args: argparse.Namespace, announce: bool = False
) -> list[dict]:
    """Rows of a samples file, with those of their outputs that the reference drew at temperature 1.

    All have as many outputs. Prompts that the reward model of `--run_dir` learned from are left
    out: of those it knows what the labeler said.

    Args:
        announce: print by which name the reference goes, where the file does not say by content.

    Raises:
        UserError: no such outputs, two of a prompt at least, are left, or the file's record cannot
            be read.
    """
    try:
        rows = load_rows(source, columns=("prompt", "completions")).to_list()
    except UserError as error:
        raise UserError(f"--samples {error}") from error
    learned, all_rows = _learned_from(args), len(rows)
    rows = [row for row in rows if key_of(row["prompt"]) not in learned]
    if not rows:
        raise UserError(
            f"--samples {source}: the reward model learned from all its {all_rows} prompts; give "
            "--best_of_n N, which draws for held-out prompts, or --best_of_n 0"
        )
    own = models.get(args.reference)
    known = _noted_reference(source, own)
    if known is None:
        known = _named_reference(rows, own)
        if announce and own is not None and known != {own.path}:
            print(
                f"{source} does not say by content which model drew it: {', '.join(known)} is "
                f"taken as --reference {args.reference}"
            )
    for row in rows:
        none = [None] * len(row["completions"])
        drawn = zip(row["completions"], row.get("model") or none, row.get("sampling") or none,
                    strict=True)  # fmt: skip
        row["completions"] = [text for text, *how in drawn if _is_drawn_by(known, *how)]
    # a row with one more, or without some, has another n
    counts = Counter(len(row["completions"]) for row in rows)
    usual = max(counts, key=lambda count: (counts[count], count))
    if usual < 2:
        raise UserError(
            f"--samples {source}: no two outputs of a prompt were drawn from --reference "
            f"{args.reference} at temperature 1; give --best_of_n N, or --best_of_n 0"
        )
    return [row for row in rows if len(row["completions"]) == usual]


def _is_drawn_by(names: set[str], model: str | None, sampling: dict | None) -> bool:
    """Whether an output is a model's of such a name, at temperature 1."""
    # a file without the column was sampled by who gave it
    if model is None:
        return True
    # a person's answer has no sampling
    return model in names and bool(sampling) and sampling.get("temperature") == 1


def _noted_reference(source: str, own: Asked | None) -> set[str] | None:
    """What a samples file calls the reference, by its record; None: nobody noted."""
    beside = record_beside(Path(source))
    record = json_in(beside)
    # of another command, or of an earlier version, which noted no content
    names, models = [], []
    if record.get("step") == "sample" and record.get("models"):
        names, models = record.get("model_name_or_path") or [], record["models"]
    if beside.exists() and not (record and len(names) == len(models)):
        raise UserError(
            f"{beside} cannot be read, so nobody can say which model drew {source}; delete it if "
            "you know that --reference did"
        )
    if own is None or not models:
        return None
    # by content: its folder may have gone elsewhere since
    wanted = content_of(model_identity(own.path))
    return {name for name, content in zip(names, models, strict=True) if content == wanted}


def _named_reference(rows: list[dict], own: Asked | None) -> set[str]:
    """The one model that drew all, else the reference by its path."""
    drawn_by = {name for row in rows for name in row.get("model") or [] if name is not None}
    if len(drawn_by) == 1:
        return drawn_by
    return {own.path} if own is not None else set()


def learned_files(args: argparse.Namespace) -> list[Path]:
    """The rankings that the reward model of `--run_dir` learned from."""
    folder = args.run_dir / COMPARISONS if args.run_dir is not None else None
    return split_files(folder, "train") if folder is not None else []


def _learned_from(args: argparse.Namespace) -> set[int]:
    """Keys of the prompts of those rankings."""
    if not learned_files(args):
        return set()
    return {key_of(prompt) for prompt in load_rows(args.run_dir / COMPARISONS, "train")["prompt"]}
