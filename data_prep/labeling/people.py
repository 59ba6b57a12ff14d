"""Behind `data_prep.label --labeler people`: flags -> project, items, team, and the page."""

import argparse
from dataclasses import replace
from pathlib import Path

from data_prep.labeling.items import Item, read_items, read_screening
from data_prep.labeling.project import Project
from data_prep.labeling.schema import has_tables, open_to_read
from data_prep.labeling.store import Store
from data_prep.labeling.team import Team, composed
from instruct.errors import UserError
from instruct.evaluation.judges import is_judge
from instruct.plain_text import check_name
from instruct.rows.encodings import read_text

# flags that are the project's own
SETTINGS = ("kind", "per_item", "overlap", "lease_minutes", "seed", "owner")
OF_OUTPUTS = ("ranking_only", "questions", "screening")  # what is asked where outputs are ranked


def open_page(args: argparse.Namespace) -> None:
    """Opens the page and waits until it is stopped.

    Raises:
        UserError: before anything is made: flags or files that cannot work, no Gradio.
    """
    # imported here: Gradio takes seconds
    from data_prep.labeling.page.app import PORT, check_address, check_listens, gradio, serve

    args.owner = args.owner and composed(args.owner)
    project = project_of(args)
    team = team_of(args.passwords, project.owner)
    host = args.host or "127.0.0.1"
    port = PORT if args.port is None else args.port
    check_address(host, team)
    gradio()
    items = items_of(args, project.kind)
    check_listens(host, port)
    store = Store.create_or_open(args.database, project, items)
    try:
        if team is not None:
            _tell_overlap(store, project)
        serve(store, project, passwords=team, owner=project.owner, host=host, port=port)
    finally:
        store.close()


def project_of(args: argparse.Namespace) -> Project:
    """What the flags ask for; of a database that is there, what they leave out stays as it was.

    Raises:
        UserError: flags that do not go together, or instructions that cannot be read.
    """
    begun = _begun(args.database)
    kind = args.kind or (begun.kind if begun else "rankings")
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    for name in OF_OUTPUTS:
        if kind == "demonstrations" and getattr(args, name):
            raise UserError(f"--{name} is about outputs that are there; --kind {kind} has none")
    if args.screening is not None and kind != "rankings":
        raise UserError(f"--screening holds rankings; --kind {kind} is compared with none")
    only_ranks = args.ranking_only or (begun is not None and begun.ranking_only)
    if only_ranks and args.questions:
        raise UserError("--ranking_only asks no questions; leave --questions or that out")
    if args.ranking_only:
        given["ranking_only"] = True
    if args.questions:
        given["questions"] = tuple(args.questions)
    if args.instructions is not None:
        given["instructions"] = _text(args.instructions)
    if begun:
        return replace(begun, **given)
    # a prompt that is answered anew by everybody teaches little, and nothing is compared
    usual = {"overlap": 0.0} if kind == "demonstrations" else {}
    return Project(**{"kind": kind, **usual, **given})


def _begun(database: Path) -> Project | None:
    """The project of a database; None where there is none yet.

    Raises:
        UserError: a folder, or no database that can be read.
    """
    if not has_tables(database):
        return None
    store = Store(database, open_to_read(database), can_write=False)
    try:
        return store.project
    finally:
        store.close()


def _text(file: Path) -> str:
    text = read_text(file, f"--instructions {file}")
    if not text.strip():
        raise UserError(f"--instructions {file}: is empty; without the flag, ours are shown")
    return text


def _tell_overlap(store: Store, project: Project) -> None:
    """Says where agreement will never be known: of a few items a tenth may be none."""
    alone = project.per_item == 1 and project.kind != "demonstrations"
    if alone and project.overlap > 0 and not store.items_for_all():
        print(
            f"{store.path}: none of its items is one of the {project.overlap:g} that go to all, so "
            "agreement cannot be told; a larger --overlap, or --per_item 2, in a new database"
        )


def team_of(passwords: Path | None, owner: str | None) -> Team | None:
    """Who may log in; None where one person labels alone.

    Raises:
        UserError: no such file, an owner's name that cannot be shown, or somebody who is called
            like a judge that is no person.
    """
    if owner is not None:
        check_name(owner, "--owner")
    team = Team.read(passwords) if passwords is not None else None
    for name in (owner, *(team.names if team else ())):
        if is_judge(name):
            raise UserError(
                f"{name}: rows of a judge that is no person are called so; take another"
            )
    return team


def items_of(args: argparse.Namespace, kind: str) -> list[Item]:
    """The rows to label, and those that the owner has ranked before.

    Raises:
        UserError: no --input for a database that is not there, or rows that cannot be labeled.
    """
    if args.input is None and not args.database.is_file():
        raise UserError(f"{args.database} is not there yet: --input says what to label")
    items = [] if args.input is None else read_items(kind, args.input, args.format, args.columns)
    if args.screening is not None:
        items += read_screening(args.screening)
    return items
