"""Whole demos with other seeds: does the result hold on every one of them?

    python benchmarks/chains.py [--seeds 0 1 2 3 4 5 6 7] [--jobs 2]

A chain is `recipes/demo.sh`, from log to report, with its own seed for SFT, sampling, reward model,
PPO and evaluation. Each lies in a folder of its commit and seed under `outputs/chains/`: cut off
and run again, what is done is not done anew. `--jobs` chains run at once, one thread each.

Prints a line per bar with the chains that miss it, one table of all chains, and last one JSON
object: `chains` (a row each, see `row_of`), `mean` over chains, and `missed`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
from instruct.evaluation.comparison import rate_against  # noqa: E402
from instruct.evaluation.verdict import percent  # noqa: E402

CONFIGS = REPO / "recipes" / "configs" / "demo"
STEPS = ("sft", "reward", "ppo")
# of the issue: what has to hold in every chain, and on average
EVERY = {
    "ppo:sft": ("low", 0.5),
    "ppo:sft by reward": ("low", 0.5),
    "reward accuracy": ("rate", 0.72),
    "rankings": ("rate", 80),
    "ended": ("rate", 0.8),
    "believed": ("rate", 1),
}
MEAN = {
    "ppo:sft": 0.65,
    "prompted:gpt": 0.5,
    "sft:prompted": 0.55,
    "ppo:prompted": 0.7,
    "ppo:instruct": 0.55,
    "reward accuracy": 0.75,
}
MODELS = ("gpt", "prompted", "instruct", "sft", "ppo")
PAIRS = ("ppo:sft", "sft:prompted", "ppo:prompted", "prompted:gpt", "ppo:instruct")


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout.strip()


################
# Running them
################


def write_configs(folder: Path, seed: int) -> Path:
    """The demo's YAML files with the folder and seed of a chain."""
    configs = folder / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        text = (CONFIGS / f"{step}.yaml").read_text()
        own = text.replace("outputs/demo/", f"{folder}/").replace(
            "\nseed: 0\n", f"\nseed: {seed}\n"
        )
        if f"seed: {seed}\n" not in own or str(folder) not in own:
            raise SystemExit(
                f"{CONFIGS / step}.yaml: no outputs/demo/ or no seed to put another in"
            )
        (configs / f"{step}.yaml").write_text(own)
    return configs


def give_input(folder: Path, source: Path) -> None:
    """The embedded model and log, as links: no chain downloads them anew."""
    if not (folder / "embedded").exists():
        beside = folder / "embedded.part"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(source, beside, copy_function=os.link)
        beside.rename(folder / "embedded")


def run_chain(folder: Path, seed: int, env: dict[str, str]) -> bool:
    """`recipes/demo.sh` of one chain, its output in `chain.log`; whether it went through."""
    configs = write_configs(folder, seed)
    own = {"D": str(folder), "C": str(configs), "SEED": str(seed)}
    with open(folder / "chain.log", "ab") as log:
        done = subprocess.run(
            ["bash", "recipes/demo.sh"], cwd=REPO, env=env | own, stdout=log, stderr=log
        )
    said = "done" if done.returncode == 0 else f"exit {done.returncode}, see {folder}/chain.log"
    print(f"seed {seed}: {said}", file=sys.stderr, flush=True)
    return done.returncode == 0


def run_all(root: Path, seeds: list[int], jobs: int) -> bool:
    """Runs those chains that are not done, `jobs` at once; whether all went through."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    source = root / "embedded"
    # once done, this does nothing
    command = [sys.executable, "-m", "data_prep.embedded", "--output_dir", str(source)]
    subprocess.run(command, cwd=REPO, env=env, check=True)

    def one(seed: int) -> bool:
        folder = root / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        give_input(folder, source)
        return run_chain(folder, seed, env)

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(one, seeds)))


################
# What they say
################


def row_of(folder: Path, seed: int) -> dict:
    """One chain: `seed`, `rates` {pair: win rate}, `gold` {model: mean} and the other measures."""
    report = json.loads((folder / "report" / "report.json").read_text())
    models, collapse, reward = report["models"], report["collapse"], report["reward"]
    (free,) = [judge for judge in report["judges"].values() if judge["independent"]]

    def rate(rates: dict, pair: str) -> dict:
        return rate_against(rates, *pair.split(":"))

    return {
        "seed": seed,
        "rates": {
            **{pair: rate(report["win_rate"], pair) for pair in PAIRS},
            "ppo:sft by reward": rate(report["win_rate_by_reward_model"], "ppo:sft"),
            "ppo:sft by likelihood": rate(free["win_rate"], "ppo:sft"),
        },
        "gold": {name: models[name]["gold"]["mean"] for name in MODELS},
        "reward accuracy": reward["accuracy"],
        "rankings": reward["n_rankings"],
        "kl": collapse["kl"],
        "distinct2_ratio": collapse["distinct2_ratio"],
        "fit_ratio": collapse["fit_ratio"],
        "strict_share": collapse["strict_share"],
        "tie": collapse["tie"],
        # all four measured, and none broken
        "believed": int(all(held is True for held in collapse["holds"].values())),
        "ended": models["ppo"]["ended"]["mean"],
        "tokens": {name: models[name]["tokens"]["mean"] for name in ("sft", "ppo")},
        "seconds": round(sum(report["seconds"].values())),
    }


def value_of(row: dict, key: str, part: str = "rate") -> float:
    """A measure of a chain, or the rate or one end of the interval of a win."""
    return row["rates"][key][part] if key in row["rates"] else row[key]


def missed_bars(rows: list[dict]) -> list[str]:
    """A sentence for each bar that is not met."""
    missed = []
    for key, (part, bar) in EVERY.items():
        for row in rows:
            value = value_of(row, key, part)
            # an interval lies above its bar, a number may stand on it
            if not (value > bar if part == "low" else value >= bar):
                missed.append(f"seed {row['seed']}: {key} is {value:.3f}, bar {bar:g}")
    for key, bar in MEAN.items():
        mean = statistics.mean(value_of(row, key) for row in rows)
        if mean < bar or (key == "prompted:gpt" and mean == bar):
            missed.append(f"mean over {len(rows)} chains: {key} is {mean:.3f}, bar {bar:g}")
    return missed


def means(rows: list[dict]) -> dict[str, float]:
    """Each number's mean over the chains."""
    keys = [*rows[0]["rates"], *(k for k, v in rows[0].items() if not isinstance(v, dict))]
    return {
        key: round(statistics.mean(value_of(row, key) for row in rows), 4)
        for key in keys
        if key != "seed" and value_of(rows[0], key) is not None
    }


def markdown_table(rows: list[dict]) -> str:
    """A line per chain."""
    shown = ("kl", "distinct2_ratio", "fit_ratio", "strict_share", "ended", "reward accuracy")
    heads = ["seed", *rows[0]["rates"], "gold " + " / ".join(MODELS), *shown, "tokens", "seconds"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        gold = " / ".join(f"{row['gold'][name]:.2f}" for name in MODELS)
        numbers = [f"{row[key]:.3g}" for key in shown]
        tokens = f"{row['tokens']['sft']:.1f} → {row['tokens']['ppo']:.1f}"
        rates = [percent(entry) for entry in row["rates"].values()]
        lines.append([str(row["seed"]), *rates, gold, *numbers, tokens, str(row["seconds"])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=list(range(8)))
    add("--jobs", type=int, default=2, help="chains at once, a thread each")
    add("--output_dir", type=Path, default=Path("outputs/chains"))
    args = parser.parse_args()
    if git("status", "--porcelain", "--untracked-files=no"):
        raise SystemExit("chains are kept by commit: commit or stash what was changed first")
    commit = git("rev-parse", "--short=7", "HEAD")
    root = args.output_dir.resolve() / commit  # stages run in the repository
    went_through = run_all(root, args.seeds, args.jobs)
    done = [s for s in args.seeds if (root / str(s) / "report" / "answers.jsonl").is_file()]
    rows = [row_of(root / str(seed), seed) for seed in done]
    if not rows:
        raise SystemExit("no chain has a report")
    missed = missed_bars(rows)
    print(*(missed or ["every bar holds"]), sep="\n")
    print(f"\n{markdown_table(rows)}\n")
    print(json.dumps({"commit": commit, "mean": means(rows), "missed": missed, "chains": rows}))
    sys.exit(0 if went_through else 1)


if __name__ == "__main__":
    main()
