"""A report in trackers: its figures, and the answers that it shows."""

import pytest

from instruct.errors import UserError
from instruct.evaluation.trackers import answers_table, check_trackers, headline_figures, track

MEAN = {"mean": 0.25, "low": 0.1, "high": 0.4}
REPORT = {
    "win_rate": {"ppo_vs_sft": {"rate": 0.75, "low": 0.7, "high": 0.8}},
    "models": {"sft": {"path": "s"}, "ppo": {"path": "p", "gold": {"mean": 1.5}}},
    "collapse": {"kl": 3.7, "fit_ratio": None},
    "harmless": {"models": {"ppo": {"none": {"mean": MEAN}, "biased": {"mean": None}}}},
    "truthful": {"files": {"mine": {"models": {"ppo": {"mc1": MEAN}}}}},
    "reward": {"accuracy": 0.79},
    "shown": {"rows": [1]},
}
ANSWERS = {
    name: [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "completion": f"{name} | {i}"}
        for i in range(3)
    ]
    for name in ("sft", "ppo")
}
FIGURES = {
    "win_rate/ppo_vs_sft/rate": 0.75, "win_rate/ppo_vs_sft/low": 0.7,
    "win_rate/ppo_vs_sft/high": 0.8, "gold/ppo": 1.5, "collapse/kl": 3.7,
    "toxicity/ppo/none": 0.25, "truthful/mine/mc1/ppo": 0.25, "reward_model/accuracy": 0.79,
}  # fmt: skip


def test_figures_and_answers_are_those_of_the_report():
    assert headline_figures(REPORT) == FIGURES
    table = [["prompt", "sft", "ppo"], ["q1", "sft | 1", "ppo | 1"]]
    assert answers_table(REPORT, ANSWERS) == table
    assert headline_figures({"models": {}}) == {} and answers_table({}, {}) == []


def test_tensorboard_has_them(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    track(REPORT, ANSWERS, ["tensorboard"], tmp_path, "p")
    found = loader.EventAccumulator(str(tmp_path / "runs")).Reload()
    told = {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"]}
    assert told == pytest.approx(FIGURES)
    (name,) = found.Tags()["tensors"]
    (text,) = found.Tensors(name)[0].tensor_proto.string_val
    # a table of Markdown: what a model wrote stays in its cell
    assert b"| q1 | sft \\| 1 | ppo \\| 1 |" in text


def test_trackio_has_them(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    logged = []

    class Run:
        def log(self, values, step=None):
            logged.append(values)

        def finish(self):
            logged.append("finished")

    monkeypatch.setattr(trackio, "init", lambda project, **more: logged.append(project) or Run())
    track(REPORT, ANSWERS, ["trackio"], tmp_path, "mine")
    project, values, end = logged
    assert project == "mine" and end == "finished"
    table = values.pop("answers")
    assert values == FIGURES
    assert table.data == [{"prompt": "q1", "sft": "sft | 1", "ppo": "ppo | 1"}]


@pytest.mark.parametrize(
    "name, sentence", [("mlflow", "no such tracker; there are"), ("wandb", "pip install wandb")]
)
def test_one_that_cannot_be_used_is_told(name, sentence, monkeypatch):
    monkeypatch.setattr("instruct.evaluation.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"--report_to {name}.*{sentence}"):
        check_trackers([name])
