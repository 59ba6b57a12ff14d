"""One progress bar at a time."""

import io

import pytest
from tqdm import tqdm

from instruct import one_bar as module
from instruct.one_bar import moving, progress


def shown(*total) -> tuple[tqdm, io.StringIO]:
    out = io.StringIO()
    return tqdm(total=total[0], file=out, mininterval=0, miniters=1), out


def test_work_inside_moves_the_bar_around_and_shows_none(capsys, monkeypatch):
    monkeypatch.setattr(module, "TOLD_AFTER", 0)
    bar, _ = shown(10)
    seen = []
    with bar:
        for _ in range(2):
            with moving(bar, 5), progress(4, "inside") as update:
                for _ in range(4):
                    update(1)
                    seen.append(bar.n)
    assert seen == [1, 2, 3, 5, 6, 7, 8, 10] and "inside" not in capsys.readouterr().err
    with progress(4, "alone") as update:
        update(2)
    assert "alone:" in capsys.readouterr().err


def test_the_bar_ends_where_the_block_does():
    bar, _ = shown(9)
    with bar:
        with moving(bar, 3):
            pass  # nothing was new
        assert bar.n == 3
        with moving(bar, 3):
            for _ in range(2):  # in two parts
                with progress(2, "part") as update:
                    update(2)
                    assert bar.n == 6
        with moving(bar, 0), progress(2, "hidden") as update:
            update(2)
        assert bar.n == 6
        with pytest.raises(KeyError), moving(bar, 3):
            raise KeyError
        assert bar.n == 6  # it did not come to its end
        with progress(1, "on its own again") as update:
            update(1)
        assert bar.n == 6
