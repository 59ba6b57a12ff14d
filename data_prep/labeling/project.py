"""What a labeling project asks for, and what one labeler is shown of it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.labeling.answers import KINDS
from data_prep.labeling.questions import DEFAULT_QUESTIONS, check_questions
from instruct.errors import UserError

MOST_PER_ITEM = 10_000  # labelers; more is a slip, and in the end no number to SQLite
FREE = ("instructions", "lease_minutes", "owner")  # settings that may change while people label


@dataclass(frozen=True)
class Project:
    """What the page was started with; kept in the database.

    Attributes:
        kind: "rankings", "judgements" or "demonstrations".
        per_item: labelers of an item.
        overlap: share of the items that go to all labelers.
        questions: keys of those that are asked of each output; none with `ranking_only`.
        ranking_only: outputs are ranked, not looked at one by one: no quality, no questions.
        seed: of what goes to all, and of the orders that outputs are shown in.
        instructions: Markdown.
        lease_minutes: after these an item that somebody took and left may go to another.
        owner: who sees how far all are; alone, who labels.

    Raises:
        UserError: a setting out of its range.
    """

    kind: str
    per_item: int = 1
    overlap: float = 0.1
    questions: tuple[str, ...] = DEFAULT_QUESTIONS
    ranking_only: bool = False
    seed: int = 0
    instructions: str = ""
    lease_minutes: float = 60
    owner: str | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"--kind {self.kind}: must be one of {', '.join(KINDS)}")
        if not 1 <= self.per_item <= MOST_PER_ITEM:
            raise UserError(f"--per_item {self.per_item}: must be from 1 to {MOST_PER_ITEM}")
        if not 0 <= self.overlap <= 1:
            raise UserError(f"--overlap {self.overlap}: is a share, from 0 to 1")
        if not self.lease_minutes > 0:
            raise UserError(f"--lease_minutes {self.lease_minutes}: must be more than 0")
        check_questions(tuple(self.questions))
        # asked they are only on the first screen, which is left out
        keys = () if self.ranking_only else tuple(self.questions)
        object.__setattr__(self, "questions", keys)


@dataclass(frozen=True)
class Task:
    """What one labeler is shown.

    Attributes:
        item: its number in the database.
        kind: of the project.
        row: what he may know of it: prompt and outputs, never who wrote them.
        order: order[i] is the output of the row that stands at place i as shown.
        is_screening: whether the owner has ranked it; labelers are not told.
        previous: his earlier answer, where he undoes it.
        skipped: why he left it out before, where he undoes that.
    """

    item: int
    kind: str
    row: dict
    order: tuple[int, ...]
    is_screening: bool
    previous: dict | None
    skipped: str | None = None


def project_of(path: Path, settings: dict) -> Project:
    """The project that a database was made with."""
    return Project(**{**settings, "questions": tuple(settings["questions"])})


def check_same(path: Path, was: Project, now: Project) -> None:
    """That a database goes on with the settings that it was begun with.

    Raises:
        UserError: one differs, of which answers of both kinds would be mixed.
    """
    before, after = asdict(was), asdict(now)
    for name, value in after.items():
        if name not in FREE and before[name] != value:
            raise UserError(
                f"{path}: was begun with --{name} {_typed(before[name])}, not {_typed(value)}; "
                "give that again, or another --database"
            )


def _typed(value) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "(none)"
    return str(value)
