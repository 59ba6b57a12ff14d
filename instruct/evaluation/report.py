"""The report: `report.html` for a person, `report.md` for terminals and cards, `report.json`."""

from pathlib import Path

from instruct.evaluation.answers import NOTES
from instruct.evaluation.diagnosis.diagnose import examine
from instruct.evaluation.html.page import html
from instruct.evaluation.report_text import markdown
from instruct.evaluation.run_files import (
    GOLD_KEYS,
    PPO_TITLES,
    STEPS,
    Base,
    base_of_run,
    collect_run,
    evaluated_steps,
    spoken_names,
)
from instruct.evaluation.terminal import print_summary
from instruct.files import atomic_file, write_json, write_rows
from instruct.run.folders import report_in


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
    reward: str | None = None,
) -> dict:
    """Writes `report.json`, `report.md`, `report.html`, `ppo.png` and `answers.jsonl`, and prints a
    summary; returns the report.

    Args:
        result: what the evaluation found (`judges`, `models`, `win_rate`…, `seconds`).
        answers: {model: rows}.
        run_dir: the run whose steps are told as well, as far as they made these models.
        reward: path of the reward model that was asked.
    """
    asked_for = result.get("tasks", [])
    if left := [t for t in report_in(output_dir).get("tasks", []) if t not in asked_for]:
        print(
            f"{output_dir}: its report of {', '.join(left)} gives way to one of "
            f"{', '.join(asked_for)}; name all of them to have them in one, nothing is asked "
            "again"
        )
    # 1. What the steps left, under what the evaluation found
    run, base, steps = {}, None, None
    if run_dir:
        paths = [model["path"] for model in result["models"].values()]
        steps = evaluated_steps(run_dir, paths, reward)
        run = collect_run(run_dir, steps)
        for step in STEPS:
            if step not in steps and (run_dir / step).is_dir():
                print(f"{run_dir / step}: made none of --models, so the report leaves it out")
        base = base_of_run(run_dir)
    report = {**run, **result, "seconds": {**run.get("seconds", {}), **result["seconds"]}}
    # what the step measured of itself, under what was asked of it now
    own, asked = run.get("reward", {}), result.get("reward", {})
    report["reward"] = asked if "rankings" in asked else {**own, **asked}
    if "rankings" in asked:
        report["ranked_by"] = spoken_names(asked["by_labeler"])
    report["gold"] = {n: m["gold"]["mean"] for n, m in result["models"].items() if "gold" in m}
    # of the run: what another file says of its reward model is no evidence of its steps
    report |= examine(run_dir, {**report, "reward": own} if "rankings" in asked else report, steps)
    # 2. Files for machines and for people
    _write_files(output_dir, report, answers, base)
    # 3. The terminal
    print_summary(report, output_dir / "report.html")
    return report


def _write_files(
    output_dir: Path, report: dict, answers: dict[str, list[dict]], base: Base | None
) -> None:
    # those of an earlier call may be of other models
    (output_dir / "ppo.png").unlink(missing_ok=True)
    if report.get("ppo", {}).get("steps"):
        plot_ppo(report["ppo"]["steps"], output_dir / "ppo.png", report["ppo"].get("gold_by"))
    write_json(output_dir / "report.json", report)
    texts = {
        "report.md": markdown(report, answers, base and base.markdown()),
        "report.html": html(report, answers, base and base.sentence()),
    }
    for name, text in texts.items():
        with atomic_file(output_dir / name) as beside:
            # half a character of a model's output is no text to a browser
            beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    # what the cache notes for itself
    rows = [
        {k: v for k, v in r.items() if k not in NOTES} for found in answers.values() for r in found
    ]
    # last of all: demo.sh takes it for the sign that the rest is there
    if answers:
        write_rows(output_dir / "answers.jsonl", rows)
    else:
        (output_dir / "answers.jsonl").unlink(missing_ok=True)
