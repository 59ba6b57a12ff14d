"""The report a person opens: `report.json`, `report.md` and curves of one run, from its files."""

import json
from pathlib import Path

from instruct.evaluation.answers import NOTES
from instruct.evaluation.report_text import markdown
from instruct.evaluation.scripted import spoken_name
from instruct.evaluation.terminal import print_summary
from instruct.files import atomic_file, write_json, write_rows
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
    if not labelers:
        return None
    names = list(map(spoken_name, labelers))
    more = f" and {len(names) - SHOWN_LABELERS} more" if len(names) > SHOWN_LABELERS else ""
    return ", ".join(map(markdown_text, names[:SHOWN_LABELERS])) + more


def base_of_run(run_dir: Path) -> str | None:
    """What a report says of the base model, as the first step recorded it; None: not recorded."""
    steps = (run_dir / step for step in ("sft", "reward", "ppo"))
    first = next((step for step in steps if read_record(step)), None)
    base = (read_record(first) or {}).get("base") if first else None
    if base is None:
        return None
    # a model that one of our commands made is described beside it
    made = read_record((first / base["path"]).parent) if "path" in base else None
    made = (made or {}).get("model") or {"name": base["name"], "instruction_tuned": False}
    commit = f" at commit {markdown_code(base['commit'])}" if base.get("commit") else ""
    tuned = ", so already instruction-tuned before step 1" if made["instruction_tuned"] else ""
    return f"**{markdown_text(made['name'])}**{commit}{tuned}"


def _seconds(file: Path) -> dict[str, float]:
    """{stage: seconds} of demo.sh's table."""
    if not file.is_file():
        return {}
    lines = (line.split("\t") for line in file.read_text().splitlines())
    return {stage: float(seconds) for stage, seconds in lines}


def collect_run(run_dir: Path) -> dict:
    """`data`, `demonstrations`, `sft`, `reward`, `ppo` and `seconds` of a run; empty where a step
    was not run.
    """
    prompts = _read(run_dir / "prompts" / "report.json")
    sft = _logged(run_dir / "sft", "eval_loss")
    losses = {}
    if sft:
        before, after = sft[0], sft[-1]  # SFT evaluates once before it trains
        losses = {
            "eval_loss_before": before["eval_loss"],
            "eval_loss_after": after["eval_loss"],
        }
    logged = _logged(run_dir / "ppo", "objective/kl")
    gold = next((name for name in GOLD_KEYS if any(name in entry for entry in logged)), None)
    steps = [
        {
            "step": entry["step"],
            "gold": entry.get(gold),
            **{key: entry.get(name) for key, name in PPO_KEYS.items()},
        }
        for entry in logged
    ]
    # not the whole file: the report is to be read
    wanted = ("in", "kept", "removed", "splits")
    written = _read(run_dir / "demonstrations" / "report.json")
    return {
        "data": {key: prompts[key] for key in wanted if key in prompts},
        "demonstrations": {key: written[key] for key in wanted if key in written},
        "sft": losses,
        "reward": _read(run_dir / "reward" / "metrics.json"),
        "ranked_by": _ranked_by(run_dir),
        "ppo": {"steps": steps, "gold_by": gold},
        "seconds": _seconds(run_dir / "seconds.tsv"),
    }


def plot_ppo(steps: list[dict], file: Path, gold_by: str | None = None) -> None:
    """PPO's curves, one small panel each, as PNG.

    Args:
        gold_by: what the gold curve is called in the trainer's log.
    """
    titles = PPO_TITLES | ({"gold": GOLD_KEYS[gold_by]} if gold_by else {})
    # imported here: slow, and only runs with PPO draw
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), layout="constrained")
    for axis, (key, title) in zip(axes.flat, titles.items(), strict=True):
        points = [(s["step"], s[key]) for s in steps if s.get(key) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), color="#1f77b4")
        else:
            axis.text(0.5, 0.5, "not logged", ha="center")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("optimiser step")
    # format by name: the name beside ends in .part, not in .png
    with atomic_file(file) as beside:
        figure.savefig(beside, dpi=120, format="png")
    # pyplot keeps every figure until it is told
    plt.close(figure)


################
# Writing it
################


def write_report(
    output_dir: Path,
    result: dict,
    answers: dict[str, list[dict]],
    run_dir: Path | None = None,
    base: str | None = None,
) -> None:
    """Writes `report.json`, `report.md`, `ppo.png` and `answers.jsonl`, and prints a summary.

    Args:
        result: what the evaluation found (`judges`, `models`, `win_rate`…, `seconds`).
        answers: {model: rows}.
        run_dir: the run whose steps are told as well.
        base: what is said of the base model at the top, see `base_of_run`.
    """
    # 1. What the steps left, under what the evaluation found
    run = collect_run(run_dir) if run_dir else {}
    report = {**run, **result, "seconds": {**run.get("seconds", {}), **result["seconds"]}}
    report["gold"] = {name: model["gold"]["mean"] for name, model in result["models"].items()}
    # 2. Files for machines and for people
    if report.get("ppo", {}).get("steps"):
        plot_ppo(report["ppo"]["steps"], output_dir / "ppo.png", report["ppo"].get("gold_by"))
    write_json(output_dir / "report.json", report)
    with atomic_file(output_dir / "report.md") as beside:
        beside.write_text(markdown(report, answers, base), encoding="utf-8")
    # what the cache notes for itself
    rows = [
        {k: v for k, v in r.items() if k not in NOTES} for found in answers.values() for r in found
    ]
    # last of all: demo.sh takes it for the sign that the rest is there
    write_rows(output_dir / "answers.jsonl", rows)
    # 3. The terminal
    print_summary(report, output_dir / "report.md")
