"""Prompt log -> prompts to train on and to hold out, as the InstructGPT paper prepared its API log.

    python -m data_prep.prompts --input log.jsonl --output_dir prompts/

Steps, each counted in `report.json` (paper: section 3.2 and appendix A.1):

1. validate      every row is a prompt or is reported as `malformed`
2. split         train / validation / test by user, a stable hash of user id and seed
3. prefix        prompts that share a long common prefix: the earliest stays (`duplicate_prefix`)
4. exclude       --exclude: prompts of evaluation sets, or that share a long n-gram (`contaminated`)
5. near          --near_duplicates: MinHash, DuckDB only (`near_duplicate`)
6. pii           personal information: `drop`, `redact` or `keep`
7. cap           at most --max_per_user prompts of one user (`over_user_cap`)

Writes `{train,validation,test}.parquet`, `removed.parquet`, `report.json` and a dataset card, whole
or not at all. The steps are Ibis expressions over narrow columns, the same on DuckDB and on Spark;
texts are joined back by position.
"""

import argparse
import contextlib
import os
import shutil
import sys
from pathlib import Path

import duckdb
import ibis
import pyarrow as pa
from tqdm import tqdm

from data_prep.formats.log_files import first_line, first_rows, log_files
from data_prep.formats.prompt_log import FIRST_ROWS, LogFormat, shape_of
from data_prep.pii import KINDS, REGIONS, ModelFinder
from data_prep.prompt_pipeline.checks import check_flags, names_of
from data_prep.prompt_pipeline.engine import Engine, batches, write_marks
from data_prep.prompt_pipeline.near_duplicates import find_near_duplicates
from data_prep.prompt_pipeline.outputs import output_schemas, write_outputs
from data_prep.prompt_pipeline.overlap import Ngrams, find_contaminated, texts_of
from data_prep.prompt_pipeline.pii_key import PiiKey
from data_prep.prompt_pipeline.pii_step import PiiJob, find_all_pii
from data_prep.prompt_pipeline.report import Ledger, dataset_card, make_report
from data_prep.prompt_pipeline.staging import Staged, stage_log
from data_prep.prompt_pipeline.steps import (
    at_most_per_user,
    earliest_first,
    marked,
    with_split,
    without_shared_prefixes,
)
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.files import write_json
from instruct.run.data_runs import (
    CHANGED_TOO,
    add_overwrite,
    check_replaces,
    record_of_data,
    under_secret,
)
from instruct.run.folders import atomic_folder, claim
from instruct.run.run_record import write_record

# --- arguments ------------------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    add_log_flags(parser)
    add_step_flags(parser)
    add_pii_flags(parser)
    add_engine_flags(parser)
    add_overwrite(parser, CHANGED_TOO)
    return parser


def add_log_flags(parser: argparse.ArgumentParser) -> None:
    """What is read, and where it goes."""
    add = parser.add_argument
    files = "files, folders, globs, hf:// paths or Hub ids (JSONL, JSON, CSV, Parquet, .gz)"
    add("--input", nargs="+", required=True, help=files)
    add("--output_dir", type=Path, required=True, help="where the splits are written")
    add("--prompt_column", default="prompt", help="column of the prompts")
    add("--user_column", default="user_id", help="column that says whose they are")
    add("--time_column", default="timestamp", help="column that says when, if there is one")
    add("--id_column", default="id", help="column of their own ids, if there is one")
    found = "(found by itself: messages, conversation, conversations)"
    add("--messages_column", help=f"column with conversations {found}")
    which = "of a conversation: the first user turn, or each with its history"
    add("--turns", choices=["first", "all"], default="first", help=which)
    copied = "other columns to copy, unsearched for PII (default: all; none: --ride_along alone)"
    add("--ride_along", nargs="*", help=copied)


def add_step_flags(parser: argparse.ArgumentParser) -> None:
    """What the steps do."""
    add = parser.add_argument_group("steps").add_argument
    prefix = "prompts whose first characters agree are duplicates"
    # the paper says "a long common prefix" and gives no length
    add("--prefix_chars", type=int, default=200, help=prefix)
    # paper, section 3.2
    add("--max_per_user", type=int, default=200, help="most prompts of one user")
    add("--splits", default="train=0.9,validation=0.05,test=0.05", help="shares of the users")
    add("--seed", type=int, default=0, help="of the split by user")
    near = "also drop near duplicates (0.8, say); DuckDB only"
    add("--near_duplicates", type=float, metavar="SIMILARITY", help=near)
    shared = "evaluation sets: their texts, and prompts that share a long n-gram with them, go"
    add("--exclude", nargs="+", default=[], metavar="FILE", help=shared)
    long = "length of that n-gram in words; in characters half as much again, without spaces"
    # 13 is GPT-3's
    add("--exclude_words", type=int, default=13, help=long)
    detect = "add a column with the language of every prompt, and count them (paper, A.4)"
    add("--language", action="store_true", help=detect)


def add_pii_flags(parser: argparse.ArgumentParser) -> None:
    """What is done about personal information."""
    add = parser.add_argument_group("personal information").add_argument
    what = "what is done to prompts that hold some"
    add("--pii", choices=["drop", "redact", "keep"], default="drop", help=what)
    # held-out prompts are read and shared as well, so all by default
    letter = "train: only the training split, the paper's letter"
    add("--pii_splits", choices=["all", "train"], default="all", help=letter)
    add("--pii_kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds to look for")
    add("--pii_off", nargs="+", choices=KINDS, default=[], help="kinds to switch off")
    regions = "countries whose national phone formats are read"
    add("--phone_regions", nargs="+", default=list(REGIONS), help=regions)
    nobody = "also private and documentation IPs, example.com and its like, which are nobody's"
    add("--pii_reserved", action="store_true", help=nobody)
    key = "secret under which what was found is hashed (default: OUTPUT_DIR.key, made once)"
    add("--pii_key_file", type=Path, metavar="FILE", help=key)
    model = "Hub id or folder of a token classification model, for names and addresses"
    add("--pii_model", help=model)
    labels = "only these labels of that model (for example PER LOC)"
    add("--pii_model_labels", nargs="+", default=[], metavar="LABEL", help=labels)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """What computes them."""
    add = parser.add_argument_group("engine").add_argument
    backend = "DuckDB on this machine, or Spark"
    add("--backend", choices=["duckdb", "pyspark"], default="duckdb", help=backend)
    add("--spark_master", default="local[*]", help="where Spark runs")
    add("--memory_limit", help="most memory for the engine, for example 4GB; more goes to disk")
    # the main process reads for all workers: it cannot feed many
    cores = min(os.cpu_count() or 1, 8)
    add("--num_proc", type=int, default=cores, help="processes that read and search")


# --- the spine ------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> dict:
    """Runs every step and writes `args.output_dir`, whole or not at all; returns the report."""
    claim(args.output_dir)
    splits = check_flags(args)
    # before the work: it may be no key
    key = PiiKey(args.pii_key_file, args.output_dir) if args.pii != "keep" else None
    data = {"input": log_files(args.input), "exclude": args.exclude}
    record = record_of_data("prompts", args, data, {"pii_model": args.pii_model})
    record["data"]["input"]["name"] = " ".join(args.input)  # a folder may hold thousands
    ours = names_of(args.output_dir)
    check_replaces(args.output_dir, hidden(record, key), args.overwrite_output_dir, **ours)
    ledger = Ledger()
    overwrite = args.overwrite_output_dir
    with atomic_folder(args.output_dir, **ours, changed=overwrite) as folder:
        work = folder / "work"
        # texts that nobody has searched yet: for their owner alone
        work.mkdir(mode=0o700)
        staged = read_log(args, work, ledger)
        engine = Engine(args.backend, work, args.memory_limit, args.spark_master)
        with contextlib.closing(engine):
            decisions = decide(engine, staged, args, splits, ledger, key)
        # the engine is closed: its memory is free for the writing
        schemas = output_schemas(
            list(splits), staged.kinds, history=args.turns == "all", language=args.language
        )
        with bar("write", staged.rows) as shown:
            outputs = write_outputs(
                work, decisions, folder, schemas, redacted(args, splits), shown.update
            )
        # a row lost in writing would show here as removed
        counts, tallies = outputs.counts, outputs.tallies
        ledger.add("write", ledger.left, sum(counts[name] for name in splits))
        # not where the key lies: the report is published
        private = ("pii_key_file", "overwrite_output_dir")
        public = {k: v for k, v in vars(args).items() if k not in private}
        options = {k: str(v) if isinstance(v, Path) else v for k, v in public.items()}
        report = make_report(ledger, counts, tallies, list(splits), staged.without_user, options)
        write_record(folder, hidden(record, key))
        write_json(folder / "report.json", report)
        (folder / "README.md").write_text(dataset_card(report, list(splits)), encoding="utf-8")
        # staged texts are not redacted: they must not stay beside the outputs
        shutil.rmtree(work)
    return report


def hidden(record: dict, key: PiiKey | None) -> dict:
    """The record as it is published: the log is known by a hash under the key, where one is kept.

    Where none is (nothing was found), nothing is hidden in the rows either.
    """
    if key is None or key.is_new:
        return record
    log = under_secret(record["data"]["input"], key.secret)
    return {**record, "data": {**record["data"], "input": log}}


def read_log(args: argparse.Namespace, work: Path, ledger: Ledger) -> Staged:
    """Step 1: stages the log under `work`; a log without any prompt is the user's mistake."""
    form = LogFormat(
        prompt=args.prompt_column,
        user=args.user_column,
        time=args.time_column,
        id=args.id_column,
        messages=args.messages_column,
        turns=args.turns,
        prefix_chars=args.prefix_chars,
        ride_along=None if args.ride_along is None else tuple(args.ride_along),
        language=args.language,
    )
    files, source = log_files(args.input), " ".join(args.input)
    name, form = shape_of(first_rows(files, FIRST_ROWS), form)
    with bar("read") as shown:
        staged = stage_log(files, form, work, args.num_proc, shown.update)
    if not staged.rows:
        bad = f"; the first of {staged.malformed} malformed rows is {staged.first_malformed}"
        raise UserError(f"{source}: no prompt in it{bad if staged.malformed else ''}")
    # a column named by hand and never filled is a typo; a default may be missing
    for flag, column in (("user_column", "user_id"), ("time_column", "timestamp")):
        named = getattr(args, flag)
        if named != column and staged.kinds[column] == "null":
            raise UserError(f"--{flag} {named}: no row of {source} has a value in such a column")
    first = f"(first: {staged.first_malformed})" if staged.first_malformed else ""
    counts = f"{staged.rows:,} prompts, {staged.malformed:,} rows that are none"
    print(f"{source}: read as: {name}, {counts}")
    ledger.add("validate", staged.rows + staged.malformed, staged.rows, first)
    return staged


def decide(
    engine: Engine,
    staged: Staged,
    args: argparse.Namespace,
    splits: dict[str, float],
    ledger: Ledger,
    key: PiiKey | None,
) -> Path:
    """Steps 2 to 7: which rows go and why.

    Returns:
        The folder with `row, split, reason, kept_id, dup_count` of every staged row, in the log's
        order.
    """

    def step(name: str, table: ibis.Table, note: str = "") -> ibis.Table:
        folder = engine.write(table, name)
        ledger.add(name, ledger.left, without_reason(folder), note)
        return engine.read(folder)

    # 2. split, before anything goes: nobody's split depends on what others wrote
    rows = engine.read(engine.folder / "rows")
    numeric_ids = staged.kinds["id"] == "int"
    narrow = with_split(rows.select("row", "id", "user", "time", "key"), splits, args.seed)
    without_user = f"{staged.without_user:,} prompts without a user id"
    ledger.add("split", ledger.left, ledger.left, without_user)
    # 3. duplicates over all splits, so that none of test is in train
    decided = step("prefix", without_shared_prefixes(narrow, numeric_ids))
    # 4. and 5. find marks in Python; the engine joins them
    if args.exclude:
        marks = contaminated(engine, staged, args)
        decided = step("exclude", marked(decided, marks, "contaminated"))
    if args.near_duplicates is not None:
        # narrow: texts are read in the log's order, and sketches of them compared in this one
        left = decided.filter(decided.reason.isnull()).select("row", "id", "time")
        engine.write(left.order_by(earliest_first(left, numeric_ids)), "earliest_first")
        engine.write(left.select("row").order_by("row"), "left")
        marks = near_duplicates(engine, args, ledger.left)
        decided = step("near", marked(decided, marks, "near_duplicate"))
    # 6. in all rows, removed ones too: removed.parquet shows them, redacted
    with_pii = personal_information(engine, rows, args, key)
    if args.pii == "drop":
        marks = engine.read(engine.folder / "found").select("row", kept_id=ibis.null("string"))
        decided = marked(decided, marks, "pii", ["train"] if args.pii_splits == "train" else None)
    decided = step("pii", decided, f"{with_pii:,} prompts of the log hold personal information")
    # 7. last, so that nobody's quota goes to prompts that another step removes
    decided = at_most_per_user(decided, args.max_per_user, args.seed)
    # in row order: the outputs are written by walking decisions and texts side by side
    step("cap", decided.select("row", "split", "reason", "kept_id", "dup_count").order_by("row"))
    return engine.folder / "cap"


def contaminated(engine: Engine, staged: Staged, args: argparse.Namespace) -> ibis.Table:
    """Step 4: marks of the prompts that share an n-gram with `--exclude`."""
    ngrams = Ngrams(texts_of(args.exclude), args.exclude_words)
    with bar("exclude", staged.rows) as shown:
        found = find_contaminated(engine.folder / "rows", ngrams, shown.update)
        # no id: nothing stays in their place
        return write_marks(engine, "contaminated", dict.fromkeys(found))


def near_duplicates(engine: Engine, args: argparse.Namespace, total: int) -> ibis.Table:
    """Step 5: marks of the prompts that say nearly what an earlier one says."""
    left, ordered, rows = (engine.folder / name for name in ("left", "earliest_first", "rows"))
    with bar("near", total) as shown:
        found = find_near_duplicates(
            left, ordered, rows, args.near_duplicates, args.seed, shown.update
        )
        return write_marks(engine, "similar", dict(found))


def personal_information(
    engine: Engine, rows: ibis.Table, args: argparse.Namespace, key: PiiKey | None
) -> int:
    """Step 6: writes the folder `found`; returns how many prompts hold personal information."""
    wanted = [kind for kind in KINDS if kind in args.pii_kinds and kind not in args.pii_off]
    job = PiiJob(
        kinds=tuple(wanted) if key else (),
        regions=tuple(args.phone_regions),
        key=key.secret if key else b"",
        reserved=args.pii_reserved,
    )
    with bar("pii") as shown:
        finder = None
        if args.pii_model and key:
            finder = ModelFinder(args.pii_model, args.pii_model_labels)
        count = find_all_pii(engine, rows, job, finder, args.num_proc, shown.update)
    if key and count:
        key.keep()
    return count


def redacted(args: argparse.Namespace, splits: dict[str, float]) -> list[str]:
    """The splits in which personal information is replaced by its kind."""
    if args.pii != "redact":
        return []
    return list(splits) if args.pii_splits == "all" else ["train"]


def bar(what: str, total: int | None = None) -> tqdm:
    # disable=None: no bar where stderr is no terminal
    return tqdm(desc=what, total=total, unit=" prompts", unit_scale=True, disable=None, leave=False)


def without_reason(folder: Path) -> int:
    """How many rows of a step's result stay."""
    # from the file: a query would compute the step again
    return sum(batch.column("reason").null_count for batch in batches(folder, ["reason"]))


@command
def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    out = args.output_dir
    try:
        report = prepare(args)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--output_dir {out}: cannot be written: {error}") from error
    # DuckDB's types are no OSErrors
    except duckdb.OutOfMemoryException as error:
        limit = args.memory_limit or "of this machine"
        raise UserError(
            f"the memory limit {limit} is too small for DuckDB ({first_line(error)}); "
            "raise --memory_limit"
        ) from error
    except duckdb.IOException as error:
        raise UserError(
            f"--output_dir {out}: DuckDB cannot write beside it: {first_line(error)}"
        ) from error
    splits = ", ".join(f"{name} {n:,}" for name, n in report["splits"].items())
    kept = f"{report['kept']:,} of {report['in']:,} prompts kept ({splits})"
    print(f"{out}: {kept} in {report['seconds']:.1f} s")
    if unknown := report.get("request_forms", {}).get("null"):
        print(f"{out}: {unknown:,} of them in a language whose request_form is not known (null)")
    empty = [name for name, n in report["splits"].items() if not n]
    if empty:
        why = "users are split, not prompts: more users or another --splits fill it"
        print(f"{out}: no prompt is in {', '.join(empty)} ({why})", file=sys.stderr)


if __name__ == "__main__":
    main()
