"""Answers -> rows of files: rankings, judgements, demonstrations. At any time, also while people
label: what is written is one moment of the database, whole or not at all.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from data_prep.formats.forms import CATEGORIES, category
from data_prep.formats.forms import request_form as form_of
from data_prep.labeling.project import Project
from data_prep.labeling.store import Store
from instruct.errors import UserError
from instruct.files import check_output, write_json, write_rows
from instruct.hashes import file_hash
from instruct.run.data_runs import VERSIONS_OF
from instruct.run.folders import claim, record_beside
from instruct.run.run_record import versions
from instruct.tokens import FOR_TEMPLATE

JUDGED = ("prompt_id", "user_id", "prompt", "models", "completions")  # of the item
SOURCE = "labeler"  # of demonstrations that people wrote here


def export(
    path: Path,
    output: Path,
    kind: str | None = None,
    *,
    screening: bool = False,
    changed: bool = False,
) -> dict:
    """Writes the latest answer of each labeler to each item, and `OUTPUT.run`, which says of what.

    Args:
        path: the database.
        output: .jsonl, .jsonl.gz or .parquet.
        kind: what the database must hold; default whatever it does.
        screening: whether answers to screening items are written as well, each row with
            `is_screening`.
        changed: whether an export that was changed by hand since is replaced as well.

    Returns:
        rows: how many. labelers: {name: rows}. screening: answers that were left out.

    Raises:
        UserError: no such database, another kind in it, no answer yet, an output that is
            something else.
    """
    output = Path(output)
    check_output(output)
    claim(output)
    store = Store.read(path)
    try:
        _check_kind(store, kind)
        check_replaces(output, store, changed)
        # one look at the database: rows and counts are of the same moment
        found = list(store.answers())
        wanted = [one for one in found if screening or not one["is_screening"]]
        rows = [as_row(store.project, one) for one in wanted]
        if screening:
            for row, one in zip(rows, wanted, strict=True):
                row["is_screening"] = one["is_screening"]
    finally:
        store.close()
    left_out = len(found) - len(wanted)
    if not rows:
        but = f" but {left_out} to screening items" if left_out else ""
        raise UserError(f"{path}: no answer in it yet{but}; nothing was written")
    labelers = Counter(row["labeler"] for row in rows)
    record = _record(store, screening, sorted(labelers))
    replaced = file_hash(output) if output.is_file() else None

    def note(written: Path) -> None:
        # by its bytes the next export knows whether somebody has edited it since; killed before
        # the file has its name, the one before it still stands
        hashes = {"sha256": file_hash(written), "replaces": replaced}
        write_json(record_beside(output), {**record, **hashes})

    # first: an output never stands without its record
    write_rows(output, rows, before=note)
    # from now on the file before it is another
    write_json(record_beside(output), {**record, "sha256": file_hash(output)})
    return {"rows": len(rows), "labelers": dict(labelers), "screening": left_out}


def exported_rows(store: Store) -> Iterator[dict]:
    """Rows of the database's kind, by item and labeler, but those of screening items."""
    for found in store.answers():
        if not found["is_screening"]:
            yield as_row(store.project, found)


def as_row(project: Project, found: dict) -> dict:
    """One of `Store.answers` as a row of the project's kind."""
    who = {"labeler": found["labeler"], "timestamp": found["timestamp"]}
    if project.kind == "demonstrations":
        return {**_demonstration(found), **who}
    made = _ranking if project.kind == "rankings" else _judgement
    # a question that nobody ticked was asked all the same
    return {**made(found), "questions": list(project.questions), **who}


def check_replaces(output: Path, store: Store, changed: bool = False) -> None:
    """That a file is no other than an earlier export of the same database, as it was written.

    Args:
        changed: whether one that was changed by hand since is let pass.

    Raises:
        UserError: somebody or something else wrote it, or changed it.
    """
    # one that was touched and never filled holds nothing
    if not output.is_file() or not output.stat().st_size:
        return
    try:
        record = json.loads(record_beside(output).read_text(encoding="utf-8"))
    # none, or no JSON: not ours
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("database") != store.database:
        raise UserError(
            f"--output {output} is there and is no export of {store.path}; give another file"
        )
    # the record of an earlier version names no bytes
    written = [record[key] for key in ("sha256", "replaces") if record.get(key)]
    if not changed and written and file_hash(output) not in written:
        raise UserError(
            f"--output {output} was changed by hand since it was exported; give another file, or "
            "add --overwrite_output_dir to replace it"
        )


def _check_kind(store: Store, kind: str | None) -> None:
    if kind is not None and kind != store.project.kind:
        raise UserError(f"--kind {kind}: {store.path} holds {store.project.kind}; leave --kind out")


def _record(store: Store, screening: bool, labelers: list[str]) -> dict:
    """`run.json` of an export: of which database, labeled how, by whom."""
    return {
        "step": "label",
        "models": {},
        "data": {},
        "database": store.database,
        "labelers": labelers,
        "seed": store.project.seed,
        "flags": {"labeler": "people", "screening": screening, **asdict(store.project)},
        "versions": versions(VERSIONS_OF),
    }


################
# Rows of each kind
################


def _ranking(found: dict) -> dict:
    return {**found["row"], **found["answer"], "seconds": found["seconds"]}


def _judgement(found: dict) -> dict:
    row = {name: found["row"][name] for name in JUDGED}
    return {**row, "order": found["order"], **found["answer"]}


def _demonstration(found: dict) -> dict:
    row, answer = found["row"], found["answer"]
    prompt, form, use_case = answer["prompt"], answer["request_form"], answer["use_case"]
    kept = {}
    if prompt == row["prompt"]:
        # of the log: its id says in which split it belongs; how it asks is no choice of the labeler
        kept = {name: row[name] for name in ("prompt_id", *FOR_TEMPLATE) if name in row}
        form = row.get("request_form") or form_of(prompt[-1]["content"])
    elif isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return {
        **kept,
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": answer["completion"]}],
        "source": SOURCE,
        "category": _named(use_case) or category(prompt[-1]["content"]),
        "request_form": form,
    }


def _named(use_case: str | None) -> str | None:
    # the page says "closed qa", which is closed_qa to the table of what is short
    key = use_case and use_case.casefold().replace(" ", "_")
    return key if key in CATEGORIES else use_case
