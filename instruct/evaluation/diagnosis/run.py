"""What the rules look at: files of a run, any of them missing, and the report of `evaluate.py`."""

import json
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from instruct.errors import UserError
from instruct.evaluation.collapse import Check, checks_of, rankings_of
from instruct.files import load_rows
from instruct.ranking import as_ranking
from instruct.run.checkpoints import whole_checkpoints
from instruct.run.run_record import read_record

# in the order in which they are run: the first broken one spoils the later ones
STEPS = ("sft", "samples", "rankings", "reward", "ppo")
LAST = 3  # rollouts: one bad one happens in healthy runs, too; as --watchdog_patience


class NoData(Exception):
    """A rule has nothing to look at; says what is missing."""


class Finding(NamedTuple):
    """One thing that went wrong.

    Attributes:
        step: one of `STEPS`, where it is to be mended.
        found: what is wrong, as a sentence that is no Markdown.
        evidence: {name: number} it rests on.
        remedy: what to do, as a sentence.
    """

    step: str
    found: str
    evidence: dict[str, float | str]
    remedy: str


# Our name of a number -> the trainer's; of the steps in a report, where no log is at hand.
_OF_REPORT = {
    "kl": "objective/kl",
    "reward": "objective/scores",
    "length": "objective/length",
    "eos_rate": "objective/eos_rate",
}


def _read(file: Path) -> dict:
    """A JSON document.

    Raises:
        NoData: it is not there, or cannot be read.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NoData(f"no {file.parent.name}/{file.name}") from error
    except (OSError, ValueError) as error:
        raise NoData(f"{file.parent.name}/{file.name} cannot be read") from error
    return found if isinstance(found, dict) else {}


def _finite(entry: dict) -> dict:
    """Less what is no number: a NaN is neither above a bound nor below it."""
    return {
        name: value
        for name, value in entry.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


class Run:
    """A run folder and a report. What is asked for and not there raises `NoData`.

    Args:
        folder: with prompts/ demonstrations/ sft/ … inside; None: the report alone.
        report: as `evaluate.py` writes it, perhaps without some of its parts.
        trained: the steps with a trainer (sft, reward, ppo) that made what is reported on; None:
            all. Of others nothing is looked at.
    """

    def __init__(self, folder: Path | None, report: dict, trained: Iterable[str] | None = None):
        self.folder = folder
        self.report = report
        self.others = set() if trained is None else {"sft", "reward", "ppo"} - set(trained)

    def place(self, *names: str) -> Path:
        """A file or folder of the run, which may not be there."""
        if self.folder is None:
            raise NoData("no run folder was given")
        if names[0] in self.others:
            raise NoData(f"{names[0]}/ of the run made none of the models that were evaluated")
        return self.folder.joinpath(*names)

    def record(self, step: str) -> dict:
        """`run.json` of a step."""
        try:
            found = read_record(self.place(step))
        except UserError as error:
            raise NoData(f"{step}/run.json cannot be read") from error
        if found is None:
            raise NoData(f"no {step}/run.json")
        return found

    def log(self, step: str) -> list[dict]:
        """The log of a trainer: of its end, else of its last whole checkpoint."""
        folder = self.place(step)
        file = folder / "trainer_state.json"
        # a run that its watchdog stopped has no other
        if not file.is_file() and (kept := whole_checkpoints(folder) if folder.is_dir() else []):
            file = kept[-1] / file.name
        return [_finite(entry) for entry in _read(file).get("log_history", [])]

    # ---- step by step ----------------------------------------------------------------------------

    @cached_property
    def reward(self) -> dict:
        """What the reward model says of held-out rankings."""
        found = self.report.get("reward") or {}
        return found if "accuracy" in found else self.metrics

    @cached_property
    def metrics(self) -> dict:
        """What `recipes/reward.py` measured on the rankings that it held out."""
        found = _read(self.place("reward", "metrics.json"))
        if "accuracy" not in found:
            raise NoData("no held-out rankings with a preference")
        return found

    def rankings(self) -> Iterator[dict]:
        """Rankings as they were labeled, else as they were learned from: `as_ranking` rows."""
        comparisons = self.place("comparisons")
        files = [self.place("rankings.jsonl")]
        if not files[0].is_file():
            files = [comparisons / f"{split}.jsonl" for split in ("train", "validation")]
        files = [file for file in files if file.is_file()]
        if not files:
            raise NoData("no rankings.jsonl and no comparisons/")
        for file in files:
            yield from read_rankings(file)

    @cached_property
    def rollouts(self) -> list[dict]:
        """PPO's log, one entry a rollout; by the trainer's names, whole or of the report alone."""
        try:
            found = [entry for entry in self.log("ppo") if "objective/kl" in entry]
        except NoData:
            steps = (self.report.get("ppo") or {}).get("steps") or []
            found = [_of_report(step) for step in steps]
            if not found:
                raise
        if not found:
            raise NoData("PPO logged no rollout")
        return found

    def curve(self, key: str) -> list[float]:
        """One metric of all rollouts that have it."""
        values = [entry[key] for entry in self.rollouts if key in entry]
        if not values:
            raise NoData(f"PPO logged no {key}")
        return values

    def last(self, key: str) -> float:
        """The mean of a metric over the last rollouts."""
        return mean(self.curve(key)[-LAST:])

    # ---- what the models answer ------------------------------------------------------------------

    @property
    def policy(self) -> tuple[str, str]:
        """The names of policy and reference in the report."""
        collapse = self.report.get("collapse")
        if not collapse:
            raise NoData("no report of a policy beside its reference")
        return collapse["policy"], collapse["reference"]

    def check(self, key: str) -> Check:
        """A condition of a win, `collapse.checks_of`, that was measured."""
        collapse = self.report.get("collapse") or {
            **dict.fromkeys(("kl", "distinct2_ratio", "fit_ratio")),
            "reference": "sft",
            "fit_missing": "no report",
            **rankings_of(self.folder),
        }
        (found,) = [check for check in checks_of(collapse) if check.key == key]
        if found.value is None:
            raise NoData(found.missing)
        return found

    def by_step(self, metric: str, column: str) -> dict[str, float]:
        """{"sft": value, "ppo": value}, as far as measured: a metric of PPO's first rollout, which
        is SFT's, and of its last ones; else a mean of the report's models.
        """
        try:
            return {"sft": self.curve(metric)[0], "ppo": self.last(metric)}
        except NoData:
            models = self.report.get("models") or {}
            names = {"sft": self.report.get("reference")}
            if collapse := self.report.get("collapse"):
                names["ppo"] = collapse["policy"]
            means = {step: models.get(name, {}).get(column) for step, name in names.items()}
            found = {step: entry["mean"] for step, entry in means.items() if entry}
            if not found:
                raise
            return found


def _of_report(step: dict) -> dict:
    """A rollout under the trainer's names, of `ppo.steps` of a report."""
    entry = {_OF_REPORT[key]: step[key] for key in _OF_REPORT if step.get(key) is not None}
    if step.get("entropy") is not None and step.get("length"):
        entry["policy/entropy_avg"] = step["entropy"] / step["length"]
    return _finite(entry | {"step": step.get("step")})


def read_rankings(file: Path) -> Iterator[dict]:
    """The rankings of a file that this repo wrote, `as_ranking`.

    Raises:
        NoData: it cannot be read.
    """
    try:
        for number, row in enumerate(load_rows(file), 1):
            yield as_ranking(row, f"{file}, row {number}")
    except UserError as error:
        raise NoData(f"{file.name} cannot be read") from error
