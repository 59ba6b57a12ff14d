"""What the steps of a run left in its folder, for the report: of the models that are evaluated."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from instruct.evaluation.scripted import spoken_name
from instruct.plain_text import markdown_code, markdown_text
from instruct.run.run_record import read_record

# Our name of a curve -> the trainer's name in its log.
PPO_KEYS = {
    "reward": "objective/scores",
    "kl": "objective/kl",
    "entropy": "objective/entropy",
    "length": "objective/length",
    "eos_rate": "objective/eos_rate",
}
# The scripted labeler as PPO watches him, and what is over his curve.
GOLD_KEYS = {
    "rewards/scripted_reader": "gold score (scripted labeler who reads)",
    # all of his taste, or where he reads the prompt a part of it
    "rewards/scripted_reward": "cheerful and clean (scripted labeler)",
}
# Over the panels, in the order they are drawn.
PPO_TITLES = {
    "gold": "gold score",
    "reward": "learned reward",
    "kl": "KL from SFT (nats per response)",
    "entropy": "entropy (nats per response)",
    "length": "response tokens",
    "eos_rate": "share of responses that end",
}
STEPS = ("sft", "reward", "ppo")  # folders of a run with a trainer
SHOWN_LABELERS = 5  # names in a sentence

################
# What the steps wrote
################


def _read(path: Path) -> dict:
    """A JSON document; empty where the step was not run."""
    # a report of SFT alone is a report: a missing step is no error
    return json.loads(path.read_text()) if path.is_file() else {}


def _logged(step_dir: Path, key: str) -> list[dict]:
    """The entries of a trainer's log that hold `key`."""
    history = _read(step_dir / "trainer_state.json").get("log_history", [])
    return [entry for entry in history if key in entry]


def _ranked_by(run_dir: Path) -> str | None:
    """Who ranked what the reward model learned from, as its run recorded; None: not recorded."""
    labelers = (read_record(run_dir / "reward") or {}).get("labelers")
    return spoken_names(labelers or ())


def spoken_names(labelers: Iterable[str]) -> str | None:
    """Labelers in a sentence; None: of none."""
    names = list(map(spoken_name, labelers))
    if not names:
        return None
    more = f" and {len(names) - SHOWN_LABELERS} more" if len(names) > SHOWN_LABELERS else ""
    return ", ".join(names[:SHOWN_LABELERS]) + more


class Base(NamedTuple):
    """The base model of a run, as its first step recorded it.

    Attributes:
        tuned: whether it had been instruction-tuned before step 1.
    """

    name: str
    commit: str | None
    tuned: bool

    def sentence(self) -> str:
        """As plain text."""
        commit = f" at commit {self.commit}" if self.commit else ""
        return f"{self.name}{commit}{self._tuned()}"

    def markdown(self) -> str:
        """As Markdown, escaped."""
        commit = f" at commit {markdown_code(self.commit)}" if self.commit else ""
        return f"**{markdown_text(self.name)}**{commit}{self._tuned()}"

    def _tuned(self) -> str:
        return ", so already instruction-tuned before step 1" if self.tuned else ""


def base_of_run(run_dir: Path) -> Base | None:
    """The base model of a run; None: not recorded."""
    steps = (run_dir / step for step in STEPS)
    first = next((step for step in steps if read_record(step)), None)
    base = (read_record(first) or {}).get("base") if first else None
    if base is None:
        return None
    # a model that one of our commands made is described beside it
    made = read_record((first / base["path"]).parent) if "path" in base else None
    made = (made or {}).get("model") or {"name": base["name"], "instruction_tuned": False}
    return Base(made["name"], base.get("commit"), made["instruction_tuned"])


def evaluated_steps(run_dir: Path, models: Iterable[str], reward: str | None) -> list[str]:
    """The steps of a run that made what is evaluated: curves of another model would mislead.

    Args:
        models: their paths.
        reward: path of the reward model that is asked; None: the run's own is not another one.
    """

    def within(step: str, paths: Iterable[str]) -> bool:
        folder = (run_dir / step).resolve()
        return any(Path(path).resolve().is_relative_to(folder) for path in paths)

    paths = list(models)
    ppo = within("ppo", paths)
    # the base of the policy
    sft = ppo or within("sft", paths)
    # what led the policy, or was trained on what this model said
    judge = within("reward", [reward]) if reward else sft
    found = {"sft": sft, "reward": judge, "ppo": ppo}
    return [step for step in STEPS if found[step]]


def _seconds(file: Path) -> dict[str, float]:
    """{stage: seconds} of demo.sh's table."""
    if not file.is_file():
        return {}
    lines = (line.split("\t") for line in file.read_text().splitlines())
    return {stage: float(seconds) for stage, seconds in lines}


def collect_run(run_dir: Path, steps: Iterable[str] | None = None) -> dict:
    """`data`, `demonstrations`, `sft`, `reward`, `ppo`, `seconds` and `made_by` of a run; empty
    where a step was not run.

    Args:
        steps: those of `STEPS` to read, see `evaluated_steps`; default all.
    """
    wanted = set(STEPS if steps is None else steps)
    prompts = _read(run_dir / "prompts" / "report.json")
    written = _read(run_dir / "demonstrations" / "report.json")
    # not the whole file: the report is to be read
    counts = ("in", "kept", "removed", "splits")
    found = {
        "data": {key: prompts[key] for key in counts if key in prompts},
        "demonstrations": {key: written[key] for key in counts if key in written},
        "sft": {},
        "reward": {},
        "ranked_by": None,
        "ppo": {"steps": [], "gold_by": None},
        "seconds": _seconds(run_dir / "seconds.tsv"),
        "made_by": {step: _made_by(run_dir / step) for step in STEPS if step in wanted},
    }
    found["made_by"] = {step: made for step, made in found["made_by"].items() if made}
    if "sft" in wanted:
        found["sft"] = _sft(run_dir / "sft")
    if "reward" in wanted:
        found["reward"] = _read(run_dir / "reward" / "metrics.json")
        found["reward_steps"] = _curve(run_dir / "reward", ("loss",))
        found["ranked_by"] = _ranked_by(run_dir)
    if "ppo" in wanted:
        found["ppo"] = _ppo(run_dir / "ppo")
    return found


def _curve(step_dir: Path, keys: tuple[str, ...]) -> list[dict]:
    """The entries of a trainer's log that hold one of `keys`, and of these `step` and `keys`."""
    history = _read(step_dir / "trainer_state.json").get("log_history", [])
    kept = ({k: entry[k] for k in ("step", *keys) if k in entry} for entry in history)
    return [entry for entry in kept if len(entry) > 1 and "step" in entry]


def _sft(step_dir: Path) -> dict:
    measured = _logged(step_dir, "eval_loss")
    if not measured:
        return {}
    return {
        # SFT evaluates once before it trains
        "eval_loss_before": measured[0]["eval_loss"],
        "eval_loss_after": measured[-1]["eval_loss"],
        "steps": _curve(step_dir, ("loss", "eval_loss")),
    }


def _ppo(step_dir: Path) -> dict:
    logged = _logged(step_dir, "objective/kl")
    gold = next((name for name in GOLD_KEYS if any(name in entry for entry in logged)), None)
    steps = [
        {
            "step": entry["step"],
            "gold": entry.get(gold),
            **{key: entry.get(name) for key, name in PPO_KEYS.items()},
        }
        for entry in logged
    ]
    return {"steps": steps, "gold_by": gold}


def _made_by(step_dir: Path) -> dict:
    """How a step was run: base model, seed, hardware, versions and settings that were set."""
    record = read_record(step_dir)
    if not record:
        return {}
    base = record.get("base") or {}
    return {
        # within the run, where it lies there: a path of this machine says less
        "base": base.get("path", base.get("name")),
        "seed": record.get("seed"),
        "hardware": record.get("hardware"),
        "versions": record.get("versions", {}),
        # what is not set says nothing
        "flags": {k: v for k, v in record.get("flags", {}).items() if v not in (None, {}, [])},
    }
