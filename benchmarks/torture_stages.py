"""torture.py's stages: every command of the recipe, on tiny inputs made here."""

import importlib
import random
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import conftest  # noqa: E402  (the tests' environment and tiny models)
from torture_runs import Stage  # noqa: E402

TRAINING = [
    "--learning_rate", 1e-3, "--per_device_train_batch_size", 2, "--lora_r", 4, "--seed", 3,
    "--dtype", "float32", "--report_to", "none", "--disable_tqdm", "True", "--use_cpu", "True",
    "--logging_steps", 1, "--save_strategy", "steps", "--save_steps", 2, "--save_total_limit", 2,
]  # fmt: skip
# two epochs, rows in groups of one length, evaluated, and dropout: all that a resume can get wrong
TWO_EPOCHS = [
    "--num_train_epochs", 2, "--train_sampling_strategy", "group_by_length", "--eval_strategy",
    "epoch", "--lora_dropout", 0.1,
]  # fmt: skip


def stages(source: Path) -> list[Stage]:
    model, reward = source / "model", source / "reward"
    trained = ["--model_name_or_path", model, *TRAINING]
    return [
        Stage("prompts", "data_prep.prompts", lambda out: [
            "--input", source / "log.jsonl", "--output_dir", out / "prompts", "--num_proc", 2,
        ]),
        Stage("demonstrations", "data_prep.demonstrations", lambda out: [
            "--input", source / "answers.jsonl", "--output_dir", out / "demonstrations",
        ]),
        Stage("sample", "data_prep.sample", lambda out: [
            "--model_name_or_path", model, "--input", source / "questions.jsonl", "--output",
            out / "samples.jsonl", "--num_outputs", 3, "--max_new_tokens", 8, "--batch_size", 4,
        ]),
        Stage("label", "data_prep.label", lambda out: [
            "--input", source / "samples.jsonl", "--labeler", "scripted", "--output",
            out / "rankings.jsonl",
        ]),
        Stage("comparisons", "data_prep.comparisons", lambda out: [
            "--input", source / "rankings.jsonl", "--output_dir", out / "comparisons",
        ]),
        Stage("sft", "recipes.sft", lambda out: [
            *trained, *TWO_EPOCHS, "--dataset_name", source / "demonstrations", "--output_dir",
            out / "sft",
        ], entry="cli", trains=True),
        Stage("reward", "recipes.reward", lambda out: [
            *trained, *TWO_EPOCHS, "--dataset_name", source / "comparisons", "--demonstrations",
            source / "demonstrations" / "validation.jsonl", "--output_dir", out / "reward",
            "--disable_dropout", "False",
        ], entry="cli", trains=True),
        Stage("ppo", "recipes.ppo", lambda out: [
            *trained, "--dataset_name", source / "prompts" / "train.jsonl", "--reward_model_path",
            reward, "--output_dir", out / "ppo", "--total_episodes", 32, "--rollout_batch_size", 8,
            "--response_length", 6, "--num_ppo_epochs", 1, "--num_mini_batches", 2,
            "--sample_every", 1, "--kl_target", 0.01, "--ema_decay", 0.9, "--eval_strategy",
            "steps", "--eval_steps", 2, "--load_best_model_at_end", "True", "--save_total_limit", 1,
        ], entry="cli", trains=True),
        Stage("evaluate", "recipes.evaluate", lambda out: [
            "--models", f"base={model}", f"sft={model}", "--input", source / "questions.jsonl",
            "--output_dir", out / "report", "--reward", reward, "--max_new_tokens", 6,
            "--limit", 8, "--batch_size", 4,
        ]),
    ]  # fmt: skip


def make_inputs(source: Path) -> None:
    """What the stages read, from fixed words."""
    from ppo_tools import make_reward

    draw = random.Random(1)
    words = "I love this great good hate awful bad tea rain music chess bread snow cats sea".split()

    def text(most: int = 12) -> str:
        return " ".join(draw.choices(words, k=draw.randint(2, most)))

    def write(name: str, rows: list[dict]) -> None:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        conftest.write_jsonl(source / name, rows)

    who = [{"prompt_id": f"r{i}", "user_id": f"u{i % 20}"} for i in range(200)]
    write(
        "log.jsonl",
        [
            {"id": row["prompt_id"], "user_id": row["user_id"], "timestamp": 1.7e9 + i}
            | {"prompt": text(30) + (f" mail me a{i}@b.com" if i % 9 == 0 else "?")}
            for i, row in enumerate(who)
        ],
    )
    write("answers.jsonl", [{"prompt": text(), "completion": text()} for _ in who])
    write("questions.jsonl", [row | {"prompt": text()} for row in who[:16]])
    drawn = [
        row | {"prompt": [{"role": "user", "content": text()}]}
        | {"completions": [text() for _ in range(3)]}
        for row in who[:60]
    ]  # fmt: skip
    write("samples.jsonl", drawn)
    ranked = [row | {"ranks": [1, 2, 3], "labeler": "torture"} for row in drawn]
    write("rankings.jsonl", ranked)
    for split, rows in (("train", ranked[:10]), ("validation", ranked[10:14])):
        write(f"comparisons/{split}.jsonl", rows)
        demonstrations = [{"prompt": text(), "completion": text()} for _ in rows]
        write(f"demonstrations/{split}.jsonl", demonstrations)
        write(f"prompts/{split}.jsonl", [{"prompt": text()} for _ in rows])
    model = conftest.save_model(source / "model", initializer_range=0.15)
    make_reward(source / "reward", model)


def import_everything(todo: list[Stage]) -> None:
    """Once, here: each fork then starts at once."""
    import trl

    trl.SFTTrainer  # noqa: B018  (loaded when it is asked for)
    for stage in todo:
        importlib.import_module(stage.module)
