"""Whether more of the learned reward is still more of the gold one (Gao et al. 2022).

Three curves in the same axes, reward against the square root of KL from the reference: PPO, as
every rollout was logged; PPO's checkpoints that were kept, on held-out prompts, with
`--overoptimisation_checkpoints`; and best-of-n, of the outputs that were sampled for ranking anyway
(those whose prompts the reward model never learned from), or of `--best_of_n N` new ones for each
held-out prompt. The gold reward is the first judge's. Where PPO logged no such function, but
another scripted labeler, it is his: a curve of one and a point of the other say nothing together.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from instruct.checks.model_limits import check_prompts
from instruct.errors import UserError
from instruct.evaluation.answers import Model, all_answers
from instruct.evaluation.best_of_n import best_of_n_curve, ppo_curve
from instruct.evaluation.comparison import kl_from_reference
from instruct.evaluation.kept_scores import kept_scores, let_go
from instruct.evaluation.kept_steps import KeptSteps
from instruct.evaluation.llm_judge import is_llm
from instruct.evaluation.modes import Asked
from instruct.evaluation.panel import reward_judge
from instruct.evaluation.statistics import cluster_bootstrap
from instruct.evaluation.tables import prompts_asked, table_lines
from instruct.evaluation.tasks.drawn_outputs import drawn_for_ranking, learned_files, samples_of
from instruct.evaluation.tasks.ppo_log import gold_of, log_file, rollouts_of
from instruct.evaluation.tasks.reward_model import clusters_of, reward_path
from instruct.files import load_rows
from instruct.generation import generate_ids, own_random_state
from instruct.hashes import hash_of
from instruct.models import load_policy
from instruct.plain_text import markdown_text
from instruct.processes import is_main_process
from instruct.run.checkpoints import step_of, whole_checkpoints
from instruct.run.fingerprints import content_of, model_identity
from instruct.tokens import FOR_TEMPLATE, decode_completion, encode_prompt_of, ends_of

NAME = "overoptimisation"
STEP = "step "  # before a checkpoint's number, among the models that answer
SHOWN = 12  # points of a curve in a table
# Flags that decide what is drawn; a batch shares its random numbers.
DRAWN = ("best_of_n", "max_new_tokens", "batch_size", "seed", "dtype")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this task alone."""
    add = parser.add_argument_group(f"--tasks {NAME}").add_argument
    drawn = "outputs of the reference at temperature 1; default: samples.jsonl of --run_dir"
    add("--samples", metavar="FILE", help=drawn)
    more = "draw N new outputs of --reference for each prompt in place of those; 0: no best-of-n"
    add("--best_of_n", type=int, metavar="N", help=more)
    kept = "also measure the checkpoints that PPO kept, on the held-out prompts"
    add("--overoptimisation_checkpoints", action="store_true", help=kept)


def sources(args: argparse.Namespace) -> dict[str, list[str]]:
    """{flag: what it reads}, of `--run_dir` where that holds it."""
    samples = samples_of(args) if args.best_of_n is None else None
    log = log_file(args)
    return {
        "samples": [samples] if samples else [],
        "comparisons": learned_files(args) if samples else [],
        "ppo_log": [log] if log else [],
    }


def check(models: dict[str, Asked], args: argparse.Namespace) -> None:
    """What cannot work, told before anything is asked.

    Raises:
        UserError: no gold score, no reward model, neither a log nor outputs, or outputs that were
            not drawn from the reference.
    """
    if is_llm(args.judge[0]):
        raise UserError(
            f"--tasks {NAME} needs a gold score, and --judge {args.judge[0]} compares answers; "
            "give one that scores them first"
        )
    if args.best_of_n is not None and args.best_of_n < 0:
        raise UserError(f"--best_of_n {args.best_of_n}: must be 0 or more")
    path = reward_path(args, NAME)
    log, none = rollouts_of(args, path)
    if args.reward is None:
        reward_judge(path)
    gold_of(args, log)
    if args.best_of_n or args.overoptimisation_checkpoints:
        _reference(models, args)
    if args.overoptimisation_checkpoints and not _checkpoints(args):
        raise UserError(
            f"--overoptimisation_checkpoints: --run_dir {args.run_dir} holds no whole checkpoint "
            "in ppo/; train with --save_strategy steps, or leave it out"
        )
    if args.best_of_n is None and (source := samples_of(args)) is not None:
        drawn_for_ranking(source, models, args)
    elif not args.best_of_n and not log:
        raise UserError(
            f"--tasks {NAME} needs a --run_dir that holds ppo/trainer_state.json or samples.jsonl, "
            f"or --samples FILE, or --best_of_n N{f' ({none})' if none else ''}"
        )


def measure(models: dict[str, Asked], args: argparse.Namespace) -> dict:
    """The curves.

    Returns
        gold_by, reward_by: who says so.
        ppo: [{step, kl, sqrt_kl, reward, gold}], see `overoptimisation.ppo_curve`.
        checkpoints: the same on held-out prompts, with intervals; empty without the flag.
        best_of_n: see `overoptimisation.best_of_n_curve`; empty where there are no outputs.
        n_prompts, of, seed, n_outputs: what best-of-n rests on, and of how many prompts.

    Raises:
        UserError: names the task, the model and the row.
    """
    path = reward_path(args, NAME)
    log, none = rollouts_of(args, path)
    if none:
        print(none)
    gold, logged = gold_of(args, log)
    found = {
        "gold_by": gold.name,
        "reward_by": path,
        "ppo": ppo_curve(log, logged),
        "checkpoints": [],
        "best_of_n": [],
        "n_prompts": 0,
        "n_outputs": 0,
    }
    # who answers first, then who scores: one model is loaded at a time
    answers = _of_checkpoints(models, args) if args.overoptimisation_checkpoints else {}
    rows = _outputs(models, args)
    # at its first call: what was asked before is kept
    learned = reward_judge(path, load=False)
    sources = [*answers.values(), _texts(rows)]
    by = {}
    for key, judge in (("reward", learned), ("gold", gold)):
        by[key] = [kept_scores(judge, s, f"--tasks {NAME}, {judge.name}", args) for s in sources]
        let_go(judge)
    for i, (step, given) in enumerate(answers.items()):
        point = _point(given, by["reward"][i], by["gold"][i])
        found["checkpoints"].append({"step": step, **point})
    if rows:
        counts = len(rows[0]["completions"])
        grids = (_grid(by[key][-1], counts) for key in ("reward", "gold"))
        found["best_of_n"] = best_of_n_curve(*grids, clusters_of(rows))
        found |= {"n_prompts": len(rows), "n_outputs": counts, **_of_prompts(args)}
    return found


################
# What the run left
################


def _reference(models: dict[str, Asked], args: argparse.Namespace) -> Asked:
    asked = models.get(args.reference)
    if asked is None or not asked.is_chat:
        raise UserError(
            f"--tasks {NAME} draws from --reference {args.reference}, which is none of --models "
            "that are asked by their chat template; name it there"
        )
    return asked


################
# Best of n
################


def _outputs(models: dict[str, Asked], args: argparse.Namespace) -> list[dict]:
    """Rows with `completions`, as many each; none where best-of-n is not asked for."""
    if args.best_of_n:
        return _draw(_reference(models, args), args)
    source = samples_of(args) if args.best_of_n is None else None
    return drawn_for_ranking(source, models, args, announce=True) if source is not None else []


def _of_prompts(args: argparse.Namespace) -> dict:
    """How many prompts there are: held-out ones, or those whose outputs were ranked."""
    if args.best_of_n:
        return {key: args.asked[key] for key in ("of", "seed")}
    return {"of": len(load_rows(samples_of(args), columns=("prompt",)))}


def _draw(asked: Asked, args: argparse.Namespace) -> list[dict]:
    """The prompts of `args.prompts`, each with `--best_of_n` outputs of the reference."""
    rows = args.prompts
    key = {
        "model": content_of(model_identity(asked.path)),
        "prompts": [[row["prompt"], *map(row.get, FOR_TEMPLATE)] for row in rows],
        "ends": ends_of(asked.path),
        **{flag: getattr(args, flag) for flag in DRAWN},
    }
    file = args.output_dir / NAME / f"{args.reference}.jsonl"
    kept = KeptSteps(file, hash_of(key), args.overwrite_output_dir)
    steps = list(_steps(len(rows), args.best_of_n, args.batch_size))
    if any(name not in kept.done for name, _, _ in steps):
        _ask(asked, rows, steps, kept, args)
    outputs: list[list[str]] = [[] for _ in rows]
    for name, some, copies in steps:
        for place, i in enumerate(some):
            outputs[i] += kept.done[name][place * copies : (place + 1) * copies]
    return [{**row, "completions": found} for row, found in zip(rows, outputs, strict=True)]


def _steps(rows: int, samples: int, batch_size: int) -> Iterator[tuple[str, list[int], int]]:
    """(name, rows, copies) of what is drawn at once, at most `batch_size` outputs."""
    copies, at_once = min(samples, batch_size), max(1, batch_size // samples)
    for start in range(0, rows, at_once):
        some = list(range(start, min(start + at_once, rows)))
        for first in range(0, samples, copies):
            yield f"{start} {first}", some, min(copies, samples - first)


def _ask(
    asked: Asked,
    rows: list[dict],
    steps: list[tuple[str, list[int], int]],
    kept: KeptSteps,
    args: argparse.Namespace,
) -> None:
    try:
        model, tokenizer = load_policy(asked.path, args.dtype)
    except UserError as error:
        raise UserError(f"--tasks {NAME}, model {args.reference}: {error}") from error
    names = [f"--tasks {NAME}, model {args.reference}, prompt {row['prompt_id']}" for row in rows]
    ids = [encode_prompt_of(tokenizer, row, name) for row, name in zip(rows, names, strict=True)]
    check_prompts(model.config, zip(names, ids, strict=True), args.max_new_tokens)
    bar = tqdm(steps, desc=f"best of {args.best_of_n}", disable=not is_main_process())
    for number, (name, some, copies) in enumerate(bar):
        if name in kept.done:
            continue
        prompts = [ids[i] for i in some]
        with own_random_state(model.device):
            # a seed a step: what was drawn before does not matter
            torch.manual_seed(int(hash_of([args.seed, number])[:15], 16))
            # at temperature 1: of another distribution the KL would be another
            drawn = generate_ids(model, tokenizer, prompts, args.max_new_tokens, 1.0, copies)
        asked_for = [prompt for prompt in prompts for _ in range(copies)]
        pairs = zip(drawn, asked_for, strict=True)
        kept.add(name, [decode_completion(tokenizer, *pair) for pair in pairs])


def _texts(rows: list[dict]) -> list[dict]:
    return [{**row, "completion": text} for row in rows for text in row["completions"]]


def _grid(values: list[float], width: int) -> list[list[float]]:
    return [values[i : i + width] for i in range(0, len(values), width)]


################
# Checkpoints
################


def _checkpoints(args: argparse.Namespace) -> dict[int, Path]:
    """{optimiser step: folder} of PPO's checkpoints that are whole."""
    folder = args.run_dir / "ppo" if args.run_dir is not None else None
    found = whole_checkpoints(folder) if folder is not None and folder.is_dir() else []
    return {step_of(path): path for path in found}


def _of_checkpoints(models: dict[str, Asked], args: argparse.Namespace) -> dict[int, list[dict]]:
    """{step: answers to the held-out prompts}, at temperature 1, with both log-probabilities."""
    folders = _checkpoints(args)
    policies = [Model(f"{STEP}{step}", Asked(str(path))) for step, path in folders.items()]
    reference = Model(args.reference, _reference(models, args))
    own = {"output_dir": args.output_dir / NAME, "temperature": 1.0, "show_temperature": None}
    asked = argparse.Namespace(**{**vars(args), **own})
    found = all_answers([*policies, reference], args.prompts, [], asked)
    return {step: found[f"{STEP}{step}"] for step in folders}


def _point(answers: list[dict], learned: list[float], gold: list[float]) -> dict:
    kl, users = kl_from_reference(answers), [row["user_id"] for row in answers]
    # another template than the reference's: another prompt, and no KL
    point = {"kl": kl, "sqrt_kl": None if kl is None else max(kl, 0.0) ** 0.5}
    for name, values in (("reward", learned), ("gold", gold)):
        mean, low, high = cluster_bootstrap(values, users)
        point |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return point


################
# In words
################


def lines(found: dict) -> list[str]:
    """The section of report.md."""
    gold = markdown_text(found["gold_by"])
    out = [
        "## Over-optimisation",
        "",
        f"Learned and gold reward ({gold}) against √KL from the reference, in nats per answer. "
        "Where the learned one still rises and the gold one falls, more training only pleases the "
        "reward model. The two have each its own points.",
        "",
    ]
    if found["best_of_n"]:
        out += [
            f"Best of n, by the learned reward, of {found['n_outputs']} outputs of the reference "
            f"for each of {prompts_asked(found, 'n_prompts')} (KL = log n - (n - 1) / n):",
            *_table("n", found["best_of_n"]),
        ]
    for key, title in (("ppo", "PPO, as it was logged:"), ("checkpoints", "PPO's checkpoints:")):
        if found[key]:
            out += [title, *_table("step", found[key])]
    return out


def _table(first: str, points: list[dict]) -> list[str]:
    rows = [[first, "√KL", "learned reward", "gold reward"]]
    # some of many, the first and the last among them
    some = {round(i * (len(points) - 1) / (SHOWN - 1)) for i in range(SHOWN)}
    for i, point in enumerate(points):
        if len(points) <= SHOWN or i in some:
            sqrt_kl = "–" if point["sqrt_kl"] is None else f"{point['sqrt_kl']:.2f}"
            rewards = (_reward(point, name) for name in ("reward", "gold"))
            rows.append([str(point[first]), sqrt_kl, *rewards])
    return ["", *table_lines(rows), ""]


def _reward(point: dict, name: str) -> str:
    if point[name] is None:
        return "–"
    if f"{name}_low" not in point:
        return f"{point[name]:+.3f}"
    return f"{point[name]:+.3f} [{point[f'{name}_low']:+.3f}, {point[f'{name}_high']:+.3f}]"
