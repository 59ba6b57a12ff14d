"""PPO's samples in the trackers of --report_to, and in no other place."""

import json
from types import SimpleNamespace

import pytest
from ppo_tools import make_setup, make_trainer
from transformers.integrations import TrackioCallback, WandbCallback

from instruct.trainers.ppo.sample_trackers import table_of, track_samples

ROWS = [
    {"step": 4, "prompt": [{"role": "user", "content": "Tea | milk?"}], "completion": "<b>Tea",
     "ended": True, "score": 0.5, "kl": 1.25},
    {"step": 4, "prompt": "Why?", "completion": "So.", "ended": False, "score": -1.0, "kl": 0.0},
]  # fmt: skip


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def events_of(folder) -> list:
    return list(folder.rglob("events.out.tfevents*"))


def test_tensorboard_gets_every_table_beside_the_losses(setup, tmp_path, monkeypatch):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    trainer = make_trainer(
        setup, tmp_path / "out", report_to="tensorboard", sample_every=1, sample_rows=2
    )
    trainer.train()
    (file,) = events_of(tmp_path)
    found = loader.EventAccumulator(str(file.parent)).Reload()
    told = found.Tensors("samples/text_summary")
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").open()]
    assert [entry.step for entry in told] == sorted({row["step"] for row in rows}) != []
    assert any(name.startswith("train/") for name in found.Tags()["scalars"])
    for entry in told:
        (text,) = entry.tensor_proto.string_val
        head, _, *lines = text.decode().splitlines()
        ours = [row for row in rows if row["step"] == entry.step]
        assert head.startswith("| prompt | completion | ended | score | kl |")
        assert len(lines) == len(ours) == 2
        for line, row in zip(lines, ours, strict=True):
            assert line.startswith(f"| {row['prompt']} |") and f"{row['kl']:.4g}" in line


def test_nobody_gets_them_who_was_not_named(setup, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    make_trainer(setup, tmp_path / "out", sample_every=1).train()
    assert (tmp_path / "out" / "samples.jsonl").is_file() and not events_of(tmp_path)


def of(kind, **has):
    """A callback of transformers that has begun, without its package."""
    callback = object.__new__(kind)
    vars(callback).update(has)
    return callback


def test_trackio_and_wandb_get_a_table_of_their_own():
    logged = []
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("trackio")
    made = SimpleNamespace(log=logged.append, Table=lambda columns, data: (columns, data))
    track_samples(
        ROWS, 4,
        [of(TrackioCallback, _initialized=True, _trackio=made),
         of(WandbCallback, _initialized=True, _wandb=made),
         of(WandbCallback, _initialized=False, _wandb=made)],
    )  # fmt: skip
    by_trackio, by_wandb = logged
    names, *rows = table_of(ROWS)
    assert names == ["prompt", "completion", "ended", "score", "kl"]
    assert rows[0] == ["Tea | milk?", "<b>Tea", True, 0.5, 1.25]
    assert by_wandb == {"samples": (names, rows), "train/global_step": 4}
    frame = pandas.DataFrame(by_trackio["samples"].data)
    assert frame.values.tolist() == rows and by_trackio["train/global_step"] == 4
