"""An evaluation in the trackers of `--report_to`: headline figures, and answers side by side."""

from importlib.util import find_spec
from pathlib import Path

from instruct.errors import UserError
from instruct.evaluation.report_text import SHOWN_ANSWERS
from instruct.evaluation.tables import table_lines
from instruct.plain_text import markdown_text

TRACKERS = ("tensorboard", "trackio", "wandb")
TABLE = "answers"


def check_trackers(names: list[str]) -> None:
    """That every tracker of `--report_to` is one, and installed.

    Raises:
        UserError: names it.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--report_to {name}: no such tracker; there are {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise UserError(f"--report_to {name} needs its package: pip install {name}")


def headline_figures(report: dict) -> dict[str, float]:
    """{name: number} of what a report says first, and of each task."""
    found = {}
    for pair, entry in report.get("win_rate", {}).items():
        found |= {f"win_rate/{pair}/{key}": entry[key] for key in ("rate", "low", "high")}
    for name, model in report["models"].items():
        for key in ("gold", "reward", "tokens", "ended", "fit"):
            if key in model:
                found[f"{key}/{name}"] = model[key]["mean"]
    for key in ("kl", "distinct2_ratio", "fit_ratio", "strict_share"):
        if (value := (report.get("collapse") or {}).get(key)) is not None:
            found[f"collapse/{key}"] = value
    for name, model in report.get("harmless", {}).get("models", {}).items():
        for told, entry in model.items():
            # none where nothing was said
            if entry.get("mean") is not None:
                found[f"toxicity/{name}/{told}"] = entry["mean"]["mean"]
    for task in ("truthful", "tax"):
        for file, one in report.get(task, {}).get("files", {}).items():
            for name, model in one["models"].items():
                for key, value in model.items():
                    if isinstance(value, dict) and "mean" in value:
                        found[f"{task}/{file}/{key}/{name}"] = value["mean"]
    if "accuracy" in report.get("reward", {}):
        found["reward_model/accuracy"] = report["reward"]["accuracy"]
    return found


def answers_table(report: dict, answers: dict[str, list[dict]]) -> list[list[str]]:
    """The answers that the report shows, header first: a prompt, and what each model says."""
    if not answers:
        return []
    rows = next(iter(answers.values()))
    chosen = report.get("shown", {}).get("rows", range(min(SHOWN_ANSWERS, len(rows))))
    told = [
        [rows[i]["prompt"][-1]["content"], *(of[i]["completion"] for of in answers.values())]
        for i in chosen
    ]
    return [["prompt", *answers], *told]


def markdown_table(table: list[list]) -> str:
    """A table, header first, for what has no tables and renders Markdown; cells are text there."""
    return "\n".join(table_lines([[markdown_text(_cell(c)) for c in row] for row in table]))


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trackio_table(table: list[list]):
    """A table, header first, as trackio's own."""
    import pandas
    import trackio

    return trackio.Table(dataframe=pandas.DataFrame(table[1:], columns=table[0]))


def track(
    report: dict, answers: dict[str, list[dict]], names: list[str], output_dir: Path, project: str
) -> None:
    """Logs a report to each tracker, as one run of `project`."""
    figures, table = headline_figures(report), answers_table(report, answers)
    for name in names:
        {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}[name](
            figures, table, output_dir, project
        )


def _tensorboard(figures: dict, table: list[list[str]], output_dir: Path, project: str) -> None:
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("runs", output_dir)
    tracker.start()
    tracker.log(figures, step=0)
    if table:
        tracker.log({TABLE: markdown_table(table)}, step=0)
    tracker.finish()


def _trackio(figures: dict, table: list[list[str]], output_dir: Path, project: str) -> None:
    from accelerate.tracking import TrackioTracker

    tracker = TrackioTracker(project)
    tracker.start()
    if table:
        figures = {**figures, TABLE: trackio_table(table)}
    tracker.log(figures)
    tracker.finish()


def _wandb(figures: dict, table: list[list[str]], output_dir: Path, project: str) -> None:
    from accelerate.tracking import WandBTracker

    tracker = WandBTracker(project, dir=str(output_dir))
    tracker.start()
    tracker.log(figures)
    if table:
        tracker.log_table(TABLE, columns=table[0], data=table[1:])
    tracker.finish()
