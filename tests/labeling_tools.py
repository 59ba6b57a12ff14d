"""Items and answers for tests of labeling."""

from data_prep.labeling.items import Item
from data_prep.labeling.project import Project
from data_prep.labeling.store import Store


def item(number: int, outputs: int = 3, owner: dict | None = None, **more) -> Item:
    row = {
        "prompt_id": f"p{number}",
        "prompt": [{"role": "user", "content": f"What of {number}?"}],
        "completions": [f"{number}{letter}" for letter in "abcdefghi"[:outputs]],
        "model": [f"secret-{letter}" for letter in "abcdefghi"[:outputs]],
        **more,
    }
    return Item(row, owner)


def ranked(ranks: list[int], quality=None, flags=None) -> dict:
    count = len(ranks)
    return {
        "ranks": ranks,
        "quality": quality or [4] * count,
        "flags": flags or [[] for _ in range(count)],
    }


def store_of(path, count: int = 4, items=None, kind: str = "rankings", **settings) -> Store:
    """A store of rankings without overlap, but for what `settings` say."""
    project = Project(kind, **{"overlap": 0.0, **settings})
    return Store.create_or_open(path, project, items or [item(i) for i in range(count)])


class Clock:
    """A wall clock that a test sets forward, in minutes."""

    def __init__(self, store: Store):
        self.seconds = 1_800_000_000.0
        store.now = lambda: self.seconds

    def minutes(self, passed: float) -> None:
        self.seconds += 60 * passed
