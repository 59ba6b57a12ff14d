"""What each command of `data_prep` is given, and what has to hold of what it made."""

import json
import re
from pathlib import Path

import fuzz_files as files
from fuzz_calls import Ended, call, flags, fresh_folder, rows_used
from hypothesis import strategies as st
from prompt_tools import adds_up

from data_prep import comparisons, demonstrations, embedded, label, prompts, sample
from instruct.errors import UserError
from instruct.files import load_rows

OUTPUTS = st.sampled_from(["out.jsonl", "out.jsonl.gz", "out.parquet", "out.csv", "out"])


def nothing_but_input(folder: Path, ended: Ended, *inputs: str) -> None:
    """A failed command leaves no output, and no half of one."""
    if ended.code:
        left = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
        assert left <= set(inputs), left


# --- prompts --------------------------------------------------------------------------------------

PROMPT_FLAGS = {
    "pii": ("drop", "redact", "keep"),
    "turns": ("first", "all"),
    "prefix_chars": ("1", "200"),
    "max_per_user": ("1", "2"),
    "splits": ("train=0.5,test=0.5", "train=1", "a=0.5,b=0.6", "train"),
    "seed": ("1",),
    "near_duplicates": ("0.8", "0.1"),
    "ride_along": ("x",),
    "prompt_column": ("prompt", "id", "no"),
    "user_column": ("user_id", "no"),
    "memory_limit": ("4GB", "4"),
    "phone_regions": ("US", "XX"),
    "exclude_words": ("9", "13"),
    "pii_splits": ("train", "all"),
    "messages_column": ("prompt", "no"),
}


def check_prompts(source: files.Source, argv: list[str]) -> None:
    with fresh_folder() as folder:
        given = source.write(folder)
        run = ["--input", given, "--output_dir", folder / "out", "--num_proc", "1", *argv]
        ended = call(prompts.main, run)
        nothing_but_input(folder, ended, source.name)
        if ended.code == 0:
            report = adds_up(folder / "out")
            assert source.rows is None or report["in"] == source.rows or "--turns=all" in argv
            assert all(
                re.search(rf"no prompt is in [^(]*\b{name}\b", ended.err)
                for name, n in report["splits"].items()
                if n == 0
            )


# --- demonstrations -------------------------------------------------------------------------------

DEMONSTRATION_FLAGS = {
    "min_words": ("1", "2"),
    "max_words": ("3", "100"),
    "validation": ("0", "0.5", "2"),
    "per_source": ("1", "5"),
}
PROMPT_IDS = files.DEMONSTRATED | st.builds(
    lambda row, prompt_id: {**row, "prompt_id": prompt_id}, files.DEMONSTRATED, files.IDS
)


def check_demonstrations(source: files.Source, split: files.Source | None, argv: list[str]) -> None:
    with fresh_folder() as folder:
        given = source.write(folder)
        if split:
            (folder / "prompts").mkdir()
            for name in ("train.parquet", "validation.parquet"):
                (folder / "prompts" / name).write_bytes(split.content)
            argv = [*argv, "--prompts", folder / "prompts"]
        ended = call(demonstrations.main, ["--input", given, "--output_dir", folder / "out", *argv])
        nothing_but_input(folder, ended, source.name, "prompts")
        if ended.code == 0:
            report = read_report(folder / "out")
            assert source.rows is None or report["in"] == source.rows
            check_splits(folder / "out", report["kept"])


def read_report(folder: Path) -> dict:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    out = sum(report["kept"].values()) + sum(report["removed"].values())
    # of a tree come several, of a thread's messages one
    rows = report.get("rows", {})
    several = rows["made"] - rows["used"] if "made" in rows else 0
    assert report["in"] + several == out
    return report


def check_splits(folder: Path, kept: dict[str, int]) -> None:
    for split, count in kept.items():
        file = folder / f"{split}.jsonl"
        assert len(load_rows(file)) == count if count else not file.exists()


# --- comparisons ----------------------------------------------------------------------------------


def check_comparisons(source: files.Source, argv: list[str]) -> None:
    with fresh_folder() as folder:
        given = source.write(folder)
        ended = call(comparisons.main, ["--input", given, "--output_dir", folder / "out", *argv])
        nothing_but_input(folder, ended, source.name)
        if ended.code == 0:
            report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
            misfits = sum(report["rows"]["misfits"].values())
            assert report["in"] == report["rows"]["used"] + misfits
            assert source.rows is None or report["in"] == source.rows
            # where one row is one ranking
            if source.rows and rows_used(ended, given, source.rows) is not None:
                read_report(folder / "out")
            check_splits(folder / "out", report["kept"])


# --- label ----------------------------------------------------------------------------------------


def check_label(source: files.Source, output: str, argv: list[str]) -> None:
    with fresh_folder() as folder:
        given = source.write(folder)
        run = ["--input", given, "--output", folder / output, "--labeler", "scripted", *argv]
        ended = call(label.main, run)
        nothing_but_input(folder, ended, source.name)
        if ended.code == 0:
            rankings = load_rows(folder / output, columns=["prompt", "completions", "ranks"])
            assert source.rows is None or len(rankings) == source.rows
            # the same command again replaces its own
            assert call(label.main, run).code == 0


# --- sample ---------------------------------------------------------------------------------------

SAMPLE_FLAGS = {
    "num_outputs": ("1", "3"),
    "temperature": ("0", "0.5"),
    "max_prompt_tokens": ("4", "20"),
    "limit": ("1", "3"),
    "batch_size": ("1", "3"),
    "seed": ("1",),
    "dtype": ("float32", "bfloat16", "float99"),
    "model_name_or_path": ("no/model", "/no/folder"),
}


def check_sample(
    source: files.Source, answers: files.Source | None, output: str, argv: list[str], model: str
) -> None:
    with fresh_folder() as folder:
        given = source.write(folder)
        run = ["--model_name_or_path", model, "--input", given]
        run += ["--output", folder / output, "--max_new_tokens", "3", "--num_outputs", "2"]
        if answers:
            argv = [*argv, "--answers", answers.write(folder)]
        ended = call(sample.main, [*run, *argv])
        # what was drawn before an error stays, to go on with
        kept = (f"{output}.partial", *(a.name for a in [answers] if a))
        nothing_but_input(folder, ended, source.name, *kept)
        if ended.code == 0:
            drawn = load_rows(folder / output, columns=["prompt", "completions"])
            too_long = int(re.search(r"(\d+) prompts too long", ended.out)[1])
            limited = answers or any(a.startswith("--limit") for a in argv)
            used = rows_used(ended, given, source.rows) if source.rows else None
            assert used is None or limited or len(drawn) + too_long == used


# --- embedded -------------------------------------------------------------------------------------


def check_embedded(argv: list[str]) -> None:
    def offline(requirement: str, digest: str, cache: Path) -> Path:
        raise UserError(f"{requirement}: no index here")

    with fresh_folder() as folder:
        (folder / "file").write_text("x")
        argv = [a.replace("FOLDER", str(folder)) for a in argv]
        fetch, embedded.fetch = embedded.fetch, offline
        try:
            ended = call(embedded.main, argv)
        finally:
            embedded.fetch = fetch
        assert ended.code == 2
        nothing_but_input(folder, ended, "file")


EMBEDDED = st.lists(
    st.sampled_from(
        ["--output_dir=FOLDER/out", "--output_dir=FOLDER/file", "--output_dir=/proc/x/y"]
        + ["--output_dir", "--output_dir=", "--cache_dir=FOLDER/file", "--cache_dir=", "--x", "y"]
    ),
    max_size=3,
)

# command -> (check, what it is given)
DATA_PREP = {
    "prompts": (
        check_prompts,
        {"source": files.sources(files.LOGGED, "log"), "argv": flags(PROMPT_FLAGS)},
    ),
    "demonstrations": (
        check_demonstrations,
        {
            "source": files.sources(PROMPT_IDS | files.CHAT),
            "split": st.none() | files.sources(files.ASKED),
            "argv": flags(DEMONSTRATION_FLAGS),
        },
    ),
    "comparisons": (
        check_comparisons,
        {"source": files.sources(files.RANKED), "argv": flags({"validation": ("0", "0.5", "2")})},
    ),
    "label": (
        check_label,
        {
            "source": files.sources(files.SAMPLED),
            "output": OUTPUTS,
            "argv": flags({"tie": ("0", "0.3", "10")}),
        },
    ),
    "sample": (
        check_sample,
        {
            "source": files.sources(files.ASKED),
            "answers": st.none() | files.sources(PROMPT_IDS, "answers"),
            "output": OUTPUTS,
            "argv": flags(SAMPLE_FLAGS),
        },
    ),
    "embedded": (check_embedded, {"argv": EMBEDDED}),
}
