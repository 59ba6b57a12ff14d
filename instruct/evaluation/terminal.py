"""The end of an evaluation in the terminal: the numbers, the table, and what to type next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from instruct.evaluation.verdict import checks, figure_one, headline, independent, percent
from instruct.plain_text import one_line


def print_summary(report: dict, file: Path) -> None:
    """The numbers that matter, the table of figure 1, whether it holds, and where to go on."""
    for name, found in _numbers(report):
        print(f"{name:<24} {one_line(found)}")
    if table := figure_one(report):
        print(f"\nAnswers preferred by {one_line(report['judge'])}, 95 % intervals over users:\n")
        _print_table(table)
    if line := headline(report):
        print(f"\n{one_line(line)}")
        for check in checks(report):
            print(f"  {one_line(check.sentence())}")
        print(f"  {one_line(independent(report))}")
    print(f"\nreport: {file}")
    if command := next_command(report):
        print(f"talk to it: {command}")


def _numbers(report: dict) -> list[tuple[str, str]]:
    lines = []
    if sft := report.get("sft"):
        change = f"{sft['eval_loss_before']:.3f} -> {sft['eval_loss_after']:.3f}"
        lines.append(("SFT evaluation loss", change))
    if "accuracy" in (reward := report.get("reward") or {}):
        of = reward.get("rankings", "held-out rankings")
        found = f"{reward['accuracy']:.3f} ({of}, {reward['n_pairs']} pairs)"
        lines.append(("reward accuracy", found))
    if steps := report.get("ppo", {}).get("steps"):
        lines.append(
            ("PPO KL from SFT", f"{steps[-1]['kl']:.2f} nats per response, while training")
        )
    if report["gold"]:
        gold = ", ".join(f"{name} {value:.3f}" for name, value in report["gold"].items())
        lines.append(("gold score", gold))
    if report.get("diagnosis"):
        lines.append(("which step failed", report["diagnosis"][0]["found"]))
    for key, entry in report.get("judgements", {}).get("win_rate", {}).items():
        found = f"{key.replace('_vs_', ' against ')} {percent(entry)}, n = {entry['n']}"
        lines.append(("judged by people", found))
    return lines


def _print_table(table: list[list[str]]) -> None:
    rows = [[one_line(cell) for cell in row] for row in table]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def next_command(report: dict) -> str | None:
    """How to talk to the policy and its reference, or to the models asked by their templates."""
    paths = {name: m["path"] for name, m in report["models"].items() if m["mode"] == "chat"}
    collapse = report.get("collapse") or {}
    both = [name for name in (collapse.get("reference"), collapse.get("policy")) if name in paths]
    names = both or list(paths)[-2:]
    if not names:
        return None
    chat = from_here(Path(__file__).resolve().parents[2] / "recipes" / "chat.py")
    words = [python_here(), chat, "--models", *(f"{name}={paths[name]}" for name in names)]
    return shlex.join(words)


def python_here() -> str:
    """What the user has to type for this Python: `python` where he activated its environment.

    PATH does not tell: `make demo` puts .venv first on its own, which is not that of the user's
    shell.
    """
    if sys.prefix == sys.base_prefix:
        # no venv: conda, Colab, a container
        asked = shutil.which("python")
        named = asked is not None and Path(asked).resolve() == Path(sys.executable).resolve()
    else:
        named = os.environ.get("VIRTUAL_ENV", "") == sys.prefix
    return "python" if named else from_here(Path(sys.executable))


def from_here(path: Path) -> str:
    """A path as it is typed in the working directory: relative where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
