"""Which files of a folder are which split: names match exactly, and no split stands in for another.

A file's split is the stem of its name without the number of a shard (`train.jsonl`,
`train-00000-of-00002.parquet`), or the folder it lies in (`train/part-0.jsonl`). A folder of files
that name no split at all is its own `train`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from instruct.errors import UserError
from instruct.rows.raw_files import ENDINGS, format_of, without_packing

# Notes of a command, of `datasets` or of the Hub beside rows.
NOT_ROWS = frozenset(
    "report.json run.json dataset_info.json dataset_infos.json dataset_dict.json state.json "
    "croissant.json requirements.txt readme.txt license.txt".split()
)
# removed.parquet is what data_prep/prompts.py writes beside its splits: taken by its name alone
ASIDE = "removed"
# a file with one of these words in its name is of a split, if not of the one asked for
WORDS = frozenset(
    "train training validation valid val dev test testing eval evaluation heldout holdout".split()
)
# test_2023 is a split of its own, as train_prefs is
SHARD = re.compile(
    r"(?:[-_.](?:part|shard)[-_.]?\d+|[-.]\d+|_\d{5}|_\d+(?=_of))"
    # the Hub's older files end in a hash
    r"(?:[-_.]of[-_.]\d+(?:-[0-9a-f]{16})?)?$"
)
DEEPEST = 3  # folders below a source: as the Hub's and `save_to_disk` lay them out


def data_among(paths: Iterable[Path]) -> list[Path]:
    """The files among those of a folder that hold rows, by their names.

    Texts count where nothing else does: beside rows they are notes.
    """
    found = [path for path in paths if _is_data(path)]
    return [path for path in found if format_of(path) != "text"] or found


def _is_data(path: Path) -> bool:
    name = path.name.lower()
    # what `datasets` keeps of a `map`, beside the rows of `save_to_disk`
    cached = name.startswith("cache-") and name.endswith(".arrow")
    hidden = name.startswith(".") or name in NOT_ROWS or cached
    return not hidden and format_of(path) is not None


def stem_of(path: Path) -> str:
    """A file's name without its endings."""
    name = without_packing(path)
    ending = next((end for end in ENDINGS if name.endswith(end)), "")
    return path.name[: len(name) - len(ending)]


def is_named_as_split(path: Path) -> bool:
    """Whether a file's name says its split, and the number of a shard, and nothing else."""
    return SHARD.sub("", stem_of(path)).lower() in WORDS


def is_path(source: str | Path) -> bool:
    """Whether a source is meant as a file or folder: the Hub has no dataset of such a name."""
    source = str(source)
    named = format_of(source) is not None
    return named or source.startswith((".", "/", "~")) or source.count("/") > 1


def split_files(source: str | Path, split: str) -> list[Path]:
    """The files of a split, sorted; none where the folder has no such split.

    A file is whatever split is asked for, since the flag that names it says so.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    by_split = _by_split(path) if path.is_dir() else {}
    files = by_split.get(split) or [
        file for found in by_split.values() for file in found if stem_of(file) == split
    ]
    if not files and split == "train" and not any(map(_names_a_split, by_split)):
        files = sorted(file for name, found in by_split.items() for file in found if name != ASIDE)
    return _in_one_folder(path, split, files)


def splits_of_file(path: str | Path) -> set[str]:
    """The names that one file may be asked for by: `train`, and those that its own name holds."""
    stem = stem_of(Path(path))
    return {"train", stem, SHARD.sub("", stem), *WORDS.intersection(re.split(r"[^a-z]+", stem))}


def data_files(source: str | Path, split: str | None = None) -> list[Path]:
    """The local files behind `source`, sorted; none when it is neither a file nor a folder.

    Args:
        split: of a folder; None for all of its files.

    Raises:
        UserError: a file of an unknown ending, a folder without data or without that split.
    """
    path = Path(source)
    if path.is_file():
        if format_of(path) is None:
            raise UserError(f"{path}: unknown file ending; use one of {', '.join(ENDINGS)}")
        return [path]
    if not path.is_dir():
        # not an error yet: it may be a Hub id
        return []
    by_split = _by_split(path)
    if split is None:
        files = sorted(file for name, found in by_split.items() for file in found if name != ASIDE)
    else:
        files = split_files(path, split)
    if files:
        return files
    splits = [name for name in sorted(by_split) if name != ASIDE]
    if not splits:
        raise UserError(f"{path}: no data file in this folder (looked for {', '.join(ENDINGS)})")
    raise UserError(
        f"{path}: no split {split!r} in this folder; it has {', '.join(map(repr, splits))}: "
        "name one of them, or give a file"
    )


def held_out_place(source: str, test_split: str) -> tuple[str, str] | None:
    """Where held-out rows lie: (source, split); None where `source` has none of that name.

    Args:
        source: what is trained on.
        test_split: a file or folder of held-out rows, or the name of a split of `source`.

    Raises:
        UserError: a file that is not there.
    """
    # "test" is a split first, even where a folder of that name lies in the working directory
    if "/" in test_split or is_path(test_split):
        if not Path(test_split).exists():
            raise UserError(f"{test_split}: no such file or folder")
        return test_split, "train"
    if not Path(source).exists():
        # of the Hub nobody knows before it is asked
        return source, test_split
    if Path(source).is_dir() and split_files(source, test_split):
        return source, test_split
    return (test_split, "train") if Path(test_split).exists() else None


def held_out_needed(
    source: str, test_split: str, instead: str = "--eval_strategy no"
) -> tuple[str, str]:
    """`held_out_place` of a run that evaluates.

    Args:
        instead: what may be given where no rows are held out.

    Raises:
        UserError: there is no such place; what to give.
    """
    place = held_out_place(source, test_split)
    if place is None:
        there = "this is one file"
        if Path(source).is_dir():
            there = f"it has {', '.join(sorted(map(repr, _by_split(Path(source)))))}"
        raise UserError(
            f"{source}: no split {test_split!r} to evaluate on ({there}); give held-out rows by "
            f"--dataset_test_split FILE, or {instead}"
        )
    return place


def _by_split(folder: Path) -> dict[str, list[Path]]:
    """{split: its data files} of a folder; those in folders below only where it has none itself."""
    found = data_among(p for p in folder.iterdir() if p.is_file()) or _below(folder)
    splits: dict[str, list[Path]] = {}
    for path in sorted(found):
        splits.setdefault(_split_of(folder, path), []).append(path)
    return splits


def _below(folder: Path) -> list[Path]:
    found, level = [], [folder]
    for _ in range(DEEPEST):
        level = [
            path
            for above in level
            for path in sorted(above.iterdir())
            if path.is_dir() and not path.name.startswith((".", "__"))
        ]
        found += [path for below in level for path in below.iterdir() if path.is_file()]
    return data_among(found)


def _split_of(folder: Path, path: Path) -> str:
    stem = stem_of(path)
    name = SHARD.sub("", stem) or stem
    # of datasets: data-00000-of-00002.arrow in train/
    above = path.relative_to(folder).parts[:-1]
    if above and not _names_a_split(name):
        return next((part for part in reversed(above) if _names_a_split(part)), above[-1])
    return name


def _names_a_split(name: str) -> bool:
    return not WORDS.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def _in_one_folder(folder: Path, split: str, files: list[Path]) -> list[Path]:
    """The files, where one folder holds them: two are two data sets, or two configurations."""
    homes = sorted({_home(folder, split, file) for file in files})
    if len(homes) > 1:
        raise UserError(
            f"{folder}: {split!r} lies in several folders ({', '.join(homes)}); give one of them"
        )
    return files


def _home(folder: Path, split: str, file: Path) -> str:
    above = file.relative_to(folder).parts[:-1]
    return "/".join(part for part in above if part != split)
