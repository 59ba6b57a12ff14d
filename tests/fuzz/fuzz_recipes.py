"""What each recipe is given, and what has to hold of what it made.

Models are tiny and a run is one step long.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import fuzz_files as files
from conftest import write_jsonl
from fuzz_calls import BAD_VALUES, Ended, call, fresh_folder, rows_used
from fuzz_calls import flags as flags_of
from hypothesis import strategies as st

from instruct.arguments import ModelConfig
from instruct.files import load_rows, read_jsonl
from instruct.plain_text import plain
from instruct.runs import is_finished
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.ppo.trainer import SharedBasePPOTrainer
from instruct.trainers.ranked_reward import RankedRewardConfig, RankedRewardTrainer
from instruct.trainers.sft import ResumableSFTTrainer
from recipes import chat, evaluate, ppo, reward, sft

QUIET = ["--report_to", "none", "--disable_tqdm", "True", "--use_cpu", "True", "--max_steps", "1"]
# what a wrong value of would start processes, ask the network, compile, or write elsewhere
NOT_FUZZED = re.compile(
    r"output_dir|config|dataset_name|model_name_or_path|push|hub|fsdp|deepspeed|torch_compile|ddp|"
    r"local_rank|tpu|score|vllm|parallelism|accelerator|use_cpu|report_to|debug|resume"
)
# flag -> right values; of all the others a wrong one is tried
RIGHT = {
    "max_length": ("8", "64"),
    "max_prompt_length": ("8", "64"),
    "per_device_train_batch_size": ("1", "3"),
    "gradient_accumulation_steps": ("1", "2"),
    "learning_rate": ("0", "1e-3"),
    "lora_r": ("1", "4"),
    "lora_target_modules": ("all-linear", "q_proj", "nothing"),
    "use_peft": ("True", "False"),
    "dtype": ("float32", "bfloat16", "float99"),
    "eval_strategy": ("no", "steps", "epoch"),
    "save_strategy": ("no", "steps", "epoch"),
    "optim": ("adamw_torch", "sgd", "adam"),
    "lr_scheduler_type": ("linear", "cosine", "x"),
    "load_in_4bit": ("True", "False"),
    "attn_implementation": ("eager", "sdpa", "flash_attention_2", "x"),
    "bf16": ("True", "False"),
    "gradient_checkpointing": ("True", "False"),
    "eval_fraction": ("0", "0.5", "1"),
    "packing": ("True", "False"),
    "chat_template_path": ("/no/file.jinja",),
    "value_model": ("head", "adapter", "x"),
}


def all_flags(*classes: type) -> st.SearchStrategy:
    """None, one or two of all the flags of these dataclasses."""
    names = {f.name for c in classes for f in dataclasses.fields(c) if f.init}
    return flags_of({n: RIGHT.get(n, ()) for n in names if not NOT_FUZZED.search(n)})


@contextmanager
def seen(trainer_class: type) -> Iterator[list]:
    """The trainers that are made in the block."""
    made, original = [], trainer_class.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append(self)

    trainer_class.__init__ = init
    try:
        yield made
    finally:
        trainer_class.__init__ = original


def trained(cli: Callable, folder: Path, argv: list) -> Ended:
    """A run that ends in an error is not marked as finished; one that ends well is."""
    out = folder / "out"
    ended = call(cli, [*QUIET, "--output_dir", out, "--save_strategy", "no", *argv])
    assert is_finished(out) == (ended.code == 0)
    return ended


def left_out(pattern: str, ended: Ended) -> int:
    return sum(map(int, re.findall(pattern, ended.out + ended.err)))


def check_sft(source: files.Source, argv: list[str], model: str) -> None:
    with fresh_folder() as folder, seen(ResumableSFTTrainer) as made:
        given = source.write(folder)
        run = ["--model_name_or_path", model, "--dataset_name", given]
        ended = trained(sft.cli, folder, [*run, "--max_length", "64", *argv])
        if ended.code == 0 and source.rows is not None:
            trained_on = len(made[0].train_dataset) + left_out(r"(\d+) rows longer", ended)
            used = rows_used(ended, given, source.rows)
            assert used in (None, trained_on) or any("packing" in a for a in argv)


def check_reward(
    source: files.Source, demonstrations: files.Source | None, argv: list[str], model: str
) -> None:
    with fresh_folder() as folder, seen(RankedRewardTrainer) as made:
        given = source.write(folder)
        run = ["--model_name_or_path", model, "--dataset_name", given]
        if demonstrations:
            run += ["--demonstrations", demonstrations.write(folder)]
        ended = trained(reward.cli, folder, [*run, "--eval_fraction", "0", *argv])
        if ended.code == 0 and source.rows is not None:
            trained_on = len(made[0].train_dataset) + len(made[0].eval_dataset or ())
            trained_on += left_out(r"(\d+) of \d+ rankings of the", ended)
            assert rows_used(ended, given, source.rows) in (None, trained_on)


def check_score(source: files.Source, output: str, model: str, reward_model: str) -> None:
    """`--score` of recipes/reward.py."""
    with fresh_folder() as folder:
        given = source.write(folder)
        run = ["--output_dir", reward_model, "--score", given, "--use_cpu", "True"]
        ended = call(reward.cli, [*run, "--score_output", folder / output])
        assert (folder / output).exists() == (ended.code == 0)
        if ended.code == 0:
            scored = load_rows(folder / output, columns=["prompt", "completion", "score"])
            used = rows_used(ended, given, source.rows) if source.rows else None
            assert used in (None, len(scored))


SHORT = [
    *("--response_length", "3", "--total_episodes", "2", "--rollout_batch_size", "2"),
    *("--per_device_train_batch_size", "2", "--num_ppo_epochs", "1", "--eval_strategy", "no"),
]


def check_ppo(
    source: files.Source,
    ptx: files.Source | None,
    judged_by: str,
    argv: list[str],
    model: str,
    reward_model: str,
) -> None:
    with fresh_folder() as folder, seen(SharedBasePPOTrainer) as made:
        given = source.write(folder)
        run = [*SHORT, "--model_name_or_path", model, "--dataset_name", given]
        run += ["--reward_model_path", reward_model] if judged_by == "model" else []
        run += ["--reward_funcs", judged_by] if ":" in judged_by else []
        run += ["--ptx_dataset", ptx.write(folder), "--ptx_coef", "0.1"] if ptx else []
        ended = trained(ppo.cli, folder, [*run, *argv])
        if ended.code == 0 and source.rows is not None:
            asked = len(made[0].train_dataset) + left_out(r"(\d+) prompts longer", ended)
            assert rows_used(ended, given, source.rows) in (None, asked)


EVALUATE_FLAGS = {
    "limit": ("1", "100"),
    "max_new_tokens": ("1", "3"),
    "temperature": ("0", "1"),
    "batch_size": ("1", "3"),
    "tie": ("0", "0.3"),
    "seed": ("1",),
    "dtype": ("float32", "float99"),
    "judge": ("builtins:len", "builtins:print", "no:no", "data_prep.label:scripted_reward"),
    "judge_name": ("\x1b[2J", "people"),
    "reference": ("a", "b", "c"),
    "run_dir": ("/no/folder",),
    "reward": ("/no/folder",),
}
MODELS = st.lists(
    st.sampled_from(
        ["a=MODEL", "b=MODEL", "a=MODEL", "c=/no/folder", "MODEL", "=MODEL", "../a=MODEL"]
    )
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4).map(
        lambda name: f"{name}=MODEL"
    ),
    min_size=1,
    max_size=2,
)


def visible(folder: Path) -> set[str]:
    return {p.name for p in folder.glob("*") if not p.name.startswith(".")}


def check_evaluate(source: files.Source, models: list[str], argv: list[str], model: str) -> None:
    with fresh_folder() as folder:
        run = ["--models", *(m.replace("MODEL", model) for m in models), "--max_new_tokens", "2"]
        given = source.write(folder)
        run += ["--input", given, "--output_dir", folder / "out" / "in"]
        ended = call(evaluate.main, [*run, *argv])
        report = folder / "out" / "in" / "report.json"
        assert report.exists() == (ended.code == 0)
        # a model's name is no way out of the output folder
        assert visible(folder) <= {"out", source.name} and visible(folder / "out") <= {"in"}
        if ended.code == 0:
            json.loads(report.read_text(encoding="utf-8"))
            limited = any(a.startswith("--limit") for a in argv)
            used = rows_used(ended, given, source.rows) if source.rows else None
            for answers in (folder / "out" / "in" / "answers").iterdir():
                assert used is None or limited or len(read_jsonl(answers)) == used


CHAT_FLAGS = {
    "max_new_tokens": ("1", "3"),
    "temperature": ("0", "1"),
    "dtype": ("float32", "float99"),
    "seed": ("1",),
}


def check_chat(prompt: str | None, typed: str, models: list[str], argv: list[str], model: str):
    run = ["--models", *(m.replace("MODEL", model) for m in models), "--max_new_tokens", "2"]
    run += [] if prompt is None else [f"--prompt={prompt}"]
    stdin, sys.stdin = sys.stdin, StringIO(typed)
    try:
        ended = call(chat.main, [*run, *argv])
    finally:
        sys.stdin = stdin
    # what models write, and what they are called, acts on no terminal
    assert plain(ended.out) == ended.out, ascii(ended.out)


def make_reward(folder: Path, model: str) -> str:
    """A trained reward model on the tiny model."""
    rows = [
        {"prompt": "What of tea?", "completions": ["I love it!", "It is bad."], "ranks": [1, 2]}
    ]
    run = ["--model_name_or_path", model, "--dataset_name", write_jsonl(folder / "r.jsonl", rows)]
    out = folder / "reward"
    made = call(reward.cli, [*QUIET, *run, "--output_dir", out, "--eval_fraction", "0"])
    assert made.code == 0, made.err
    return str(out)


TEXTS = st.fixed_dictionaries({"text": files.WORDS})
RECIPES = {
    "sft": (
        check_sft,
        {
            "source": files.sources(files.DEMONSTRATED | files.CHAT),
            "argv": all_flags(sft.ScriptArguments, sft.SFTConfig, ModelConfig),
        },
    ),
    "reward": (
        check_reward,
        {
            "source": files.sources(files.RANKED | files.PAIRS),
            "demonstrations": st.none() | files.sources(files.DEMONSTRATED, "demonstrations"),
            "argv": all_flags(reward.ScriptArguments, RankedRewardConfig, ModelConfig),
        },
    ),
    "score": (
        check_score,
        {
            "source": files.sources(files.DEMONSTRATED | files.CHAT),
            "output": st.sampled_from(["out.jsonl", "out.jsonl.gz", "out.parquet", "out.csv"]),
        },
    ),
    "ppo": (
        check_ppo,
        {
            "source": files.sources(files.ASKED),
            "ptx": st.none() | st.none() | files.sources(TEXTS, "ptx"),
            "judged_by": st.sampled_from(
                ["model", "model", "data_prep.label:scripted_reward", "builtins:len", "x", "no:no"]
            ),
            "argv": all_flags(ppo.ScriptArguments, SharedBasePPOConfig, ModelConfig),
        },
    ),
    "evaluate": (
        check_evaluate,
        {
            "source": files.sources(files.ASKED),
            "models": MODELS,
            "argv": flags_of(EVALUATE_FLAGS),
        },
    ),
    "chat": (
        check_chat,
        {
            "prompt": st.none() | files.WORDS | st.sampled_from(["", " ", "\x1b", *BAD_VALUES]),
            "typed": st.sampled_from(["", "Hi\n", "\n\n \nHi\n", "\x00\n", "no newline"]),
            "models": MODELS,
            "argv": flags_of(CHAT_FLAGS),
        },
    ),
}
