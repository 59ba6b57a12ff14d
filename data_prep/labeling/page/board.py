"""What a labeler's browser may ask the server for, and what it is told.

A browser knows places as shown, the store knows the order of the row: both turn into each other
here. Nothing that a browser sends is believed: the store checks the answer, and whose item it is.
"""

import time

from data_prep.formats.forms import coverage
from data_prep.labeling.export import exported_rows
from data_prep.labeling.page.shown import as_row, as_shown, messages_shown, shown
from data_prep.labeling.questions import QUESTIONS
from instruct.errors import UserError

BY_PLACE = ("ranks", "quality", "flags")  # lists of an answer with a value for each output
OF_WRITING = ("prompt", "completion", "request_form", "use_case")
WRITTEN = "demonstrations"
LONGEST_OPEN = 24 * 3600  # seconds; a page left open over night says nothing of the item
RECOUNT_SECONDS = 10  # how old the table of what is short may be


class Board:
    """One project's board for all its labelers.

    Args:
        store: items and answers, `data_prep.labeling.store.Store`.
        project: what the page was started with.
        instructions: Markdown, shown as text.
    """

    def __init__(self, store, project, instructions: str):
        self.store = store
        self.project = project
        self.instructions = instructions
        # {(labeler, item): when it was first shown}
        self._shown: dict[tuple[str, int], float] = {}
        self._short: tuple[float, list[dict]] = (float("-inf"), [])

    def state(self, labeler: str) -> dict:
        """Everything that the page needs at its start."""
        asked = () if self.project.ranking_only else self.project.questions
        return {
            "labeler": shown(labeler),
            "database": self.store.database,
            "kind": self.project.kind,
            "ranking_only": self.project.ranking_only,
            "questions": [{"key": key, "text": QUESTIONS[key]} for key in asked],
            "instructions": shown(self.instructions),
            "short": self._short_kinds(),
            **self._next(labeler),
        }

    def save(self, labeler: str, form: dict) -> dict:
        """Stores an answer, and only then says so; the next item comes with it.

        Raises:
            UserError: not his item, no answer, or a page that another opened.
        """
        self._check_page(labeler, form)
        item = _number_of(form)
        answer = self._answer_of(self.store.task_of(labeler, item), form.get("answer"))
        seconds = self._seconds(labeler, item, form.get("seconds"))
        self.store.answer(labeler, item, answer, seconds)
        self._shown.pop((labeler, item), None)
        return {"saved": item, "short": self._short_kinds(), **self._next(labeler)}

    def skip(self, labeler: str, form: dict) -> dict:
        """Leaves an item out, with the labeler's reason.

        Raises:
            UserError: not his item, no reason, or a page that another opened.
        """
        self._check_page(labeler, form)
        item, reason = _number_of(form), form.get("reason")
        self.store.skip(labeler, item, reason)
        self._shown.pop((labeler, item), None)
        return {"saved": item, **self._next(labeler)}

    def undo(self, labeler: str, form: dict) -> dict:
        """The labeler's latest item again, with what he answered.

        Raises:
            UserError: he has answered nothing yet, or a page that another opened.
        """
        self._check_page(labeler, form)
        task = self.store.undo(labeler)
        if task is None:
            raise UserError("there is no earlier item of yours to go back to")
        return self._told(labeler, task)

    def _check_page(self, labeler: str, form) -> None:
        """That places are those that this labeler was shown, of this database."""
        now = {"labeler": shown(labeler), "database": self.store.database}
        if isinstance(form, dict) and any(form.get(key, now[key]) != now[key] for key in now):
            raise UserError(
                "this page was opened under another name or of another database, and nothing was "
                "saved; load the page again"
            )

    def _next(self, labeler: str) -> dict:
        return self._told(labeler, self.store.take(labeler))

    def _told(self, labeler: str, task) -> dict:
        progress = self.store.progress(labeler)
        if task is None:
            return {"task": None, "progress": progress}
        # since the first time: the browser counts what was before a reload, too
        self._shown.setdefault((labeler, task.item), time.monotonic())
        return {"task": task_shown(task), "progress": progress}

    def _seconds(self, labeler: str, item: int, counted) -> float:
        """Seconds of work: what the browser counted, at most what has passed."""
        shown_at = self._shown.get((labeler, item))
        passed = LONGEST_OPEN
        if shown_at is not None:
            passed = min(time.monotonic() - shown_at, LONGEST_OPEN)
        number = isinstance(counted, int | float) and not isinstance(counted, bool)
        if number and 0 <= counted <= passed:
            return round(counted, 1)
        # of before a restart nobody knows
        return 0.0 if shown_at is None else round(passed, 1)

    def _answer_of(self, task, answer) -> dict:
        if not isinstance(answer, dict):
            raise UserError("an answer is an object")
        if task.kind != WRITTEN:
            found = {key: as_row(answer.get(key), task.order, key) for key in BY_PLACE}
            if not self.project.ranking_only and None in found["quality"]:
                raise UserError("quality: every output has one, a whole number from 1 to 7")
            return found
        answer = {key: answer.get(key) for key in OF_WRITING}
        # what is shown of a prompt has its invisible characters written out: the row's own is kept
        if answer["prompt"] is None:
            answer["prompt"] = task.row["prompt"]
        return answer

    def _short_kinds(self) -> list[dict]:
        """Use cases that labelers should write for, and prompts of which kind (section 3.2)."""
        if self.project.kind != WRITTEN:
            return []
        counted, table = self._short
        # counting reads every answer: not for each labeler who opens the page
        if time.monotonic() - counted > RECOUNT_SECONDS:
            table = [
                {"use_case": row["category"], "n": row["demonstrations"], "write": row["write"]}
                for row in coverage(list(exported_rows(self.store)))
                if row["write"]
            ]
            self._short = (time.monotonic(), table)
        return table


def task_shown(task) -> dict:
    """What a browser gets of a task: the prompt, and the outputs in the order that was drawn.

    By name, never the row as it is: a row tells who wrote what.
    """
    told = {
        "item": task.item,
        "prompt": messages_shown(task.row.get("prompt")),
        "previous": None,
        "skipped": task.skipped and shown(task.skipped),
    }
    if task.kind == WRITTEN:
        return {**told, "previous": task.previous}
    told["outputs"] = [shown(text) for text in as_shown(task.row["completions"], task.order)]
    if task.previous:
        told["previous"] = {
            key: as_shown(task.previous[key], task.order)
            for key in BY_PLACE
            if task.previous.get(key) is not None
        }
    return told


def _number_of(form) -> int:
    item = form.get("item") if isinstance(form, dict) else None
    # True is a number to Python
    if not isinstance(item, int) or isinstance(item, bool):
        raise UserError("a form names its item by a number")
    return item
