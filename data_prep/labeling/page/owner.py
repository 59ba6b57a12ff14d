"""What the owner sees: who has done how much, how well people agree, where they do not."""

import json
from contextlib import closing
from itertools import islice

from data_prep.labeling.agreement import report
from data_prep.labeling.export import as_row
from data_prep.labeling.page.shown import messages_shown, shown
from instruct.errors import UserError
from instruct.plain_text import one_line

WRITTEN = "demonstrations"
MOST_SKIPS = 200  # that are told, the latest
BEGINNING = 200  # characters of a prompt that tell which it is
# of what labelers disagree in: rows may hold megabytes each
LONGEST_TEXT = 4000  # characters of an output or of a message
MOST_TURNS = 20  # messages of a prompt, the last
LARGEST = 200_000_000  # bytes of an export that a browser is handed; the command takes any


class OwnersView:
    """One project as its owner sees it; the caller has checked who asks."""

    def __init__(self, store, project):
        self.store = store
        self.project = project

    def overview(self) -> dict:
        """Progress by labeler, skips and, where outputs are ranked, how well people agree."""
        people = [
            {"name": shown(name), **self.store.progress(name)} for name in self.store.labelers()
        ]
        told = {
            "progress": self.store.progress(),
            "labelers": people,
            "skips": self._skips(),
            "agreement": None,
        }
        if self.project.kind != WRITTEN:
            # answers are read while others save: a labeler may be new in them
            found = report(self.store.answers(), self.project.questions)
            told["agreement"] = {
                **found,
                "by_labeler": {shown(name): rates for name, rates in found["by_labeler"].items()},
                "by_pair": [
                    {**pair, "labelers": [shown(name) for name in pair["labelers"]]}
                    for pair in found["by_pair"]
                ],
                "disagreements": [_disagreement(one) for one in found["disagreements"]],
            }
        return told

    def _skips(self) -> list[dict]:
        with closing(self.store.skips()) as skips:
            latest = list(islice(skips, MOST_SKIPS))
        return [
            {
                "item": one["item"],
                "prompt": self._beginning(one["labeler"], one["item"]),
                "labeler": shown(one["labeler"]),
                "reason": shown(one["reason"]),
            }
            for one in latest
        ]

    def _beginning(self, labeler: str, item: int) -> str:
        messages = messages_shown(self.store.task_of(labeler, item).row.get("prompt"))
        text = messages[-1]["content"] if messages else ""
        return text if len(text) <= BEGINNING else text[:BEGINNING] + " …"

    def export(self) -> dict:
        """All answers as rows of their kind, but those to screening items: JSONL for a download.

        Returns {name, rows, n, left_out}: the file's, and how many screening items leave out.

        Raises:
            UserError: no answer yet, or more than a browser should be handed.
        """
        lines, size, left_out = [], 0, 0
        for found in self.store.answers():
            if found["is_screening"]:
                left_out += 1
                continue
            # ASCII: half a character of a model's output is no text to a browser
            lines.append(json.dumps(as_row(self.project, found)) + "\n")
            size += len(lines[-1])
            if size > LARGEST:
                raise UserError(
                    f"more than {LARGEST // 10**6} MB: python -m data_prep.label --database "
                    f"{self.store.path.name} --output FILE writes it"
                )
        if not lines:
            but = f" but {left_out} to screening items" if left_out else ""
            raise UserError(f"no answer yet{but}; nothing was written")
        name = f"{self.project.kind}.jsonl"
        return {"name": name, "rows": "".join(lines), "n": len(lines), "left_out": left_out}


def _disagreement(one: dict) -> dict:
    turns = messages_shown(one["prompt"])
    named = "" if one["prompt_id"] is None else f" ({one_line(str(one['prompt_id']), 60)})"
    return {
        "item": f"{one['item']}{named}",
        "prompt": [
            {**turn, "content": turn["content"][:LONGEST_TEXT]} for turn in turns[-MOST_TURNS:]
        ],
        "prompt_note": _prompt_note(turns),
        "outputs": [_output(text) for text in one["completions"]],
        # a list: names are no keys of ours
        "answers": [
            {"labeler": shown(name), "ranks": answer["ranks"], "quality": answer["quality"]}
            for name, answer in one["answers"].items()
        ],
        "opposed": one["opposed"],
        "pairs": one["pairs"],
    }


def _output(text: str) -> dict:
    cut = len(text) > LONGEST_TEXT
    note = f"The first {LONGEST_TEXT:,} of {len(text):,} characters" if cut else ""
    return {"text": shown(text[:LONGEST_TEXT]), "note": note}


def _prompt_note(turns: list[dict]) -> str:
    """What of a prompt is not told; empty where it is whole."""
    last = turns[-MOST_TURNS:]
    notes = []
    if earlier := len(turns) - len(last):
        notes.append(f"{earlier:,} earlier messages are left out")
    if any(len(turn["content"]) > LONGEST_TEXT for turn in last):
        notes.append(f"The first {LONGEST_TEXT:,} characters of each message")
    return "; ".join(notes)
