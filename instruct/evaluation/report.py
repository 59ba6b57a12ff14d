"""The report a person opens: `report.json`, `report.md` and curves of one run, from the files the steps wrote."""

import html
import json
from pathlib import Path

from instruct.files import atomic_file, write_json, write_rows

PPO_KEYS = {
    "gold": "rewards/scripted_reward", "reward": "objective/scores", "kl": "objective/kl", "entropy": "objective/entropy",
    "length": "objective/length", "eos_rate": "objective/eos_rate",
}  # fmt: skip


def _read(path: Path):
    return json.loads(path.read_text()) if path.is_file() else {}


def collect_run(run_dir: Path) -> dict:
    """`data`, `sft`, `reward`, `ppo` and `seconds` of a run folder; a step that was not run is an empty entry."""
    prompts = _read(run_dir / "prompts" / "report.json")
    sft = [
        e
        for e in _read(run_dir / "sft" / "trainer_state.json").get("log_history", [])
        if "eval_loss" in e
    ]
    ppo = [
        e
        for e in _read(run_dir / "ppo" / "trainer_state.json").get("log_history", [])
        if "objective/kl" in e
    ]
    seconds = {}
    if (run_dir / "seconds.tsv").is_file():
        seconds = {
            name: float(s)
            for name, s in (
                line.split("\t") for line in (run_dir / "seconds.tsv").read_text().splitlines()
            )
        }
    return {
        "data": {
            key: prompts.get(key) for key in ("in", "kept", "removed", "splits") if key in prompts
        },
        "sft": {"eval_loss_before": sft[0]["eval_loss"], "eval_loss_after": sft[-1]["eval_loss"]}
        if sft
        else {},
        "reward": _read(run_dir / "reward" / "metrics.json"),
        "ppo": {
            "steps": [
                {"step": e["step"], **{k: e.get(name) for k, name in PPO_KEYS.items()}} for e in ppo
            ]
        },
        "seconds": seconds,
    }


def plot_ppo(steps: list[dict], file: Path) -> None:
    """PPO's curves, one small panel each, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    titles = {
        "gold": "gold score (scripted labeler)", "reward": "learned reward", "kl": "KL from SFT (nats per response)",
        "entropy": "entropy (nats per response)", "length": "response tokens", "eos_rate": "share of responses that end",
    }  # fmt: skip
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), layout="constrained")
    for axis, (key, title) in zip(axes.flat, titles.items(), strict=True):
        points = [(s["step"], s[key]) for s in steps if s.get(key) is not None]
        axis.plot(*zip(*points, strict=True), color="#1f77b4") if points else axis.text(
            0.5, 0.5, "not logged", ha="center"
        )
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("optimiser step")
    with atomic_file(file) as beside:
        figure.savefig(beside, dpi=120, format="png")
    plt.close(figure)


def _percent(entry: dict) -> str:
    return f"{100 * entry['rate']:.1f} % [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def _interval(entry: dict | None) -> str:
    return f"{entry['mean']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" if entry else "–"


def _cell(text: str) -> str:
    """Model text inside a Markdown table: no markup of its own, one line."""
    text = html.escape(text, quote=False)
    for character in "\\`*_{}[]|#!":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def markdown(report: dict, answers: dict[str, list[dict]], base: str | None) -> str:
    """The report as Markdown; what models and users wrote is escaped."""
    judge, lines = report["judge"], ["# From prompt log to PPO: what this run did", ""]
    if base:
        lines += [f"Base model: **{base}**, so already instruction-tuned before step 1.", ""]
    if data := report.get("data"):
        removed = ", ".join(f"{n} {reason}" for reason, n in data["removed"].items()) or "none"
        lines += [
            "## Prompts",
            "",
            f"{data['in']} in = {data['kept']} kept + {sum(data['removed'].values())} removed ({removed}).",
            "",
        ]
    if sft := report.get("sft"):
        lines += [
            "## Step 1: SFT",
            "",
            f"Evaluation loss {sft['eval_loss_before']:.3f} → {sft['eval_loss_after']:.3f} (held-out demonstrations).",
            "",
        ]
    if reward := report.get("reward"):
        lines += [
            "## Step 2: reward model", "",
            f"Held-out accuracy {100 * reward['accuracy']:.1f} % [{100 * reward['accuracy_low']:.1f}, "
            f"{100 * reward['accuracy_high']:.1f}] on {reward['n_pairs']} pairs ranked by {judge}.", "",
        ]  # fmt: skip
    if steps := report.get("ppo", {}).get("steps"):
        lines += [
            "## Step 3: PPO",
            "",
            "![PPO curves](ppo.png)",
            "",
            f"Last step: KL {steps[-1]['kl']:.2f} nats per response.",
            "",
        ]
    lines += [
        "## Comparison on users never seen in training", "",
        f"Gold: {judge}. Intervals are 95 % bootstrap over users; a tie counts half.", "",
        "| model | gold score | reward model | tokens | ended | KL from reference |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, m in report["models"].items():
        kl = next((v for k, v in m.items() if k.startswith("kl_from_")), None)
        lines.append(
            f"| {name} | {' | '.join(_interval(m.get(key)) for key in ('gold', 'reward', 'tokens', 'ended'))} "
            f"| {'–' if kl is None else f'{kl:.2f}'} |"
        )
    lines += [
        "",
        f"| win rate | by {judge} | by the reward model | by length alone (shorter wins) | n |",
        "|---|---|---|---|---|",
    ]
    for key, entry in report["win_rate"].items():
        second, third = report["win_rate_by_reward_model"].get(key), report["win_rate_shorter"][key]
        lines.append(
            f"| {key.replace('_vs_', ' against ')} | {_percent(entry)} | {_percent(second) if second else '–'} | {_percent(third)} | {entry['n']} |"
        )
    lines += ["", "## Side by side", ""]
    names = list(answers)
    lines += ["| prompt | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for rows in list(zip(*answers.values(), strict=True))[:12]:
        cells = [f"{_cell(r['completion'])} ({r['gold']:+.2f})" for r in rows]
        lines.append(f"| {_cell(rows[0]['prompt'][-1]['content'])} | " + " | ".join(cells) + " |")
    if report.get("seconds"):
        lines += ["", "## Time", "", "| stage | seconds |", "|---|---|"]
        lines += [f"| {name} | {s:.0f} |" for name, s in report["seconds"].items()]
        lines.append(f"| all | {sum(report['seconds'].values()):.0f} |")
    return "\n".join(lines) + "\n"


def write_report(
    output_dir: Path, result: dict, answers: dict[str, list[dict]], run_dir: Path | None
) -> None:
    """Writes `report.json`, `report.md`, `ppo.png` and `answers.jsonl`, and prints the numbers that matter."""
    run = collect_run(run_dir) if run_dir else {}
    report = {**run, **result, "seconds": {**run.get("seconds", {}), **result["seconds"]}}
    report["gold"] = {name: m["gold"]["mean"] for name, m in result["models"].items()}
    base = None
    if run_dir and (run_dir / "embedded").is_dir():
        from data_prep.embedded import MODEL_NAME as base
    if report.get("ppo", {}).get("steps"):
        plot_ppo(report["ppo"]["steps"], output_dir / "ppo.png")
    write_rows(
        output_dir / "answers.jsonl",
        [{k: v for k, v in r.items() if k != "asked"} for rows in answers.values() for r in rows],
    )
    write_json(output_dir / "report.json", report)
    with atomic_file(output_dir / "report.md") as beside:
        beside.write_text(markdown(report, answers, base), encoding="utf-8")
    if report.get("sft"):
        print(
            f"SFT evaluation loss      {report['sft']['eval_loss_before']:.3f} -> {report['sft']['eval_loss_after']:.3f}"
        )
    if report.get("reward"):
        print(
            f"reward accuracy          {report['reward']['accuracy']:.3f} (held-out rankings, {report['reward']['n_pairs']} pairs)"
        )
    if report.get("ppo", {}).get("steps"):
        print(f"PPO KL from SFT          {report['ppo']['steps'][-1]['kl']:.2f} nats per response")
    print(
        "gold score               "
        + ", ".join(f"{name} {value:.3f}" for name, value in report["gold"].items())
    )
    for key, entry in report["win_rate"].items():
        print(f"win rate {key:<15} {_percent(entry)} by {report['judge']}, n = {entry['n']}")
    print(f"report: {output_dir / 'report.md'}")
