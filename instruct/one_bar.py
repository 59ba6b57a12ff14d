"""One progress bar at a time: what is asked inside a longer piece of work moves that one's bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

from instruct.processes import is_main_process

TOLD_AFTER = 3  # seconds; what takes longer shows a bar

# the bar around, where it stood, and by how much the work inside moves it
_around: ContextVar[tuple[tqdm, int, int] | None] = ContextVar("bar", default=None)


@contextmanager
def moving(bar: tqdm, by: int) -> Iterator[None]:
    """A block whose own `progress` moves `bar`, by `by` steps in all once the block has ended."""
    begun = bar.n
    token = _around.set((bar, begun, by))
    try:
        yield
    finally:
        _around.reset(token)
    bar.update(begun + by - bar.n)


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Yields what is called with the number of steps that were done, of `total`.

    They show in a bar of their own where that takes long, or in the bar of `moving`.
    """
    if (around := _around.get()) is None:
        hidden = not is_main_process()
        with tqdm(total=total, desc=what, delay=TOLD_AFTER, leave=False, disable=hidden) as bar:
            yield bar.update
        return
    bar, begun, by = around
    done = 0

    def update(steps: int) -> None:
        nonlocal done
        done += steps
        # a second piece of work in one block stands still
        bar.update(max(0, begun + by * done // total - bar.n))

    yield update
