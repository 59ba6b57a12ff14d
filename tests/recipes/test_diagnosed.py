"""Which step failed: runs of tiny models, broken on purpose in one step each, and a healthy one."""

import json
import random
import shutil
from pathlib import Path

import pytest
from conftest import TOPICS, save_model, write_jsonl
from ppo_tools import flags, make_setup, make_trainer
from transformers import AutoModelForCausalLM

from data_prep import comparisons, label, sample
from instruct.evaluation.diagnosis.diagnose import RULES, diagnose, examine, lines
from instruct.evaluation.run_files import collect_run
from instruct.ranking import dense_ranks
from instruct.trainers.ppo.rollout import Sampled
from recipes import evaluate, ppo, reward, sft

QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "True", "--logging_steps", "1",
         "--save_strategy", "no", "--dtype", "float32"]  # fmt: skip
SAYINGS = (
    "I love {}, it is great!",
    "I like {}.",
    "{} is fine.",
    "I dislike {}.",
    "I hate {}, it is awful.",
)


def prompt_of(topic: str) -> list[dict]:
    return [{"role": "user", "content": f"Tell me about {topic}, please."}]


def rules_broken(folder: Path, report: dict | None = None) -> list[str]:
    return [entry["rule"] for entry in diagnose(folder, report or {})]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report" / "report.json").read_text())


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def reversed_ranks(row: dict) -> list[int]:
    return [1 + max(row["ranks"]) - rank for rank in row["ranks"]]


################
# Runs, a step each
################


def run_sft(folder: Path, model: str, *more: str, shuffled: bool = False) -> None:
    """SFT of all weights; `shuffled`: on answers to other prompts."""
    about = [*TOPICS[1:], TOPICS[0]] if shuffled else TOPICS
    rows = [
        {"prompt": prompt_of(t), "completion": [{"role": "assistant", "content": s.format(other)}]}
        for s in SAYINGS
        for t, other in zip(TOPICS, about, strict=True)
    ]
    data = folder / "demonstrations"
    data.mkdir(parents=True, exist_ok=True)
    random.Random(0).shuffle(rows)
    write_jsonl(data / "train.jsonl", rows[12:])
    write_jsonl(data / "validation.jsonl", rows[:12])
    sft.cli([
        "--model_name_or_path", model, "--dataset_name", str(data),
        "--output_dir", str(folder / "sft"), "--per_device_train_batch_size", "12",
        "--num_train_epochs", "40", "--learning_rate", "1e-2", "--eval_strategy", "epoch",
        "--use_peft", "False",
        *QUIET, *more,
    ])  # fmt: skip


def run_samples(folder: Path, model: str, limit: str = "16") -> None:
    rows = [{"id": f"{t} {u}", "user_id": f"{t} {u}", "prompt": prompt_of(t)}
            for u in range(4) for t in TOPICS]  # fmt: skip
    sample.main([
        "--model_name_or_path", model, "--input", write_jsonl(folder / "prompts.jsonl", rows),
        "--num_outputs", "4", "--max_new_tokens", limit, "--output", str(folder / "samples.jsonl"),
    ])  # fmt: skip


def run_labeler(folder: Path, *more: str) -> None:
    # no tie but between equals: how often a tiny model says nearly the same is the machine's own
    label.main([
        "--input", str(folder / "samples.jsonl"), "--labeler", "scripted", "--tie", "0",
        "--output", str(folder / "rankings.jsonl"), *more,
    ])  # fmt: skip


def run_comparisons(folder: Path) -> None:
    comparisons.main([
        "--input", str(folder / "rankings.jsonl"), "--output_dir", str(folder / "comparisons"),
        "--validation", "0.3",
    ])  # fmt: skip


def run_reward(folder: Path, model: str, *more: str) -> None:
    reward.cli([
        "--model_name_or_path", model, "--dataset_name", str(folder / "comparisons"),
        "--output_dir", str(folder / "reward"), "--per_device_train_batch_size", "4",
        "--num_train_epochs", "6", "--learning_rate", "1e-2", *QUIET, *more,
    ])  # fmt: skip


def run_ppo(folder: Path, model: str, **settings) -> None:
    setup = {
        "model": model,
        "reward": str(folder / "reward"),
        "prompts": str(folder / "prompts.jsonl"),
    }
    usual = {
        "rollout_batch_size": 48,
        "per_device_train_batch_size": 48,
        "gradient_accumulation_steps": 1,
        "num_ppo_epochs": 1,
        "total_episodes": 1152,
        "learning_rate": 3e-3,
        "response_length": 16,
        "kl_coef": 0.4,
        "eval_strategy": "no",
        "reward_funcs": ["data_prep.label:scripted_reward"],
        # what counts, too: so few rankings teach a reward model little
        "reward_weights": [1, 2],
    }
    ppo.cli(flags(setup, folder / "ppo", **{**usual, **settings}))


def run_evaluate(folder: Path, policy: Path) -> None:
    merged = str(folder / "sft" / "merged")
    evaluate.main([
        "--models", f"sft={merged}", f"ppo={policy}", "--reward", str(folder / "reward"),
        "--input", str(folder / "prompts.jsonl"), "--run_dir", str(folder), "--max_new_tokens",
        "16", "--output_dir", str(folder / "report"), "--show_temperature", "off",
        "--fit_model", merged,
    ])  # fmt: skip


def rank_again(folder: Path, careless: float) -> None:
    """A second labeler ranks the same outputs; this share of his ranks at random."""
    draw, file = random.Random(0), folder / "rankings.jsonl"
    rows = rows_of(file)
    for row in list(rows):
        ranks = list(row["ranks"])
        if draw.random() < careless:
            draw.shuffle(ranks)
        rows.append({**row, "ranks": ranks, "labeler": "Bob"})
    write_jsonl(file, rows)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    """From demonstrations to report, by the commands a user types."""
    folder = tmp_path_factory.mktemp("healthy")
    run_sft(folder, save_model(folder / "base"))
    merged = str(folder / "sft" / "merged")
    run_samples(folder, merged)
    run_labeler(folder)
    rank_again(folder, careless=0.1)
    run_comparisons(folder)
    run_reward(folder, merged)
    run_ppo(folder, merged)
    run_evaluate(folder, folder / "ppo")
    return folder


def test_a_healthy_run_breaks_no_rule(healthy):
    found = examine(healthy, report_of(healthy))
    # how well the answers of a model this small fit their prompts is the machine's own
    wrong = [one for one in found["diagnosis"] if one["rule"] != "answers_do_not_fit"]
    assert wrong == [] and found["diagnosis_rules"]["not_checked"] == {}
    assert found["diagnosis_rules"]["checked"] == [rule.__name__ for rule in RULES]
    (_, _, line, _) = lines([], found["diagnosis_rules"])
    assert line.startswith("Nothing wrong was found") and "not checked" not in line


################
# Runs that are broken in one step
################


@pytest.fixture()
def broken(healthy, tmp_path) -> Path:
    """The healthy run without its results after SFT, to be broken."""
    for name in ("sft", "base"):
        (tmp_path / name).symlink_to(healthy / name)
    for name in ("prompts.jsonl", "samples.jsonl", "samples.jsonl.run", "rankings.jsonl"):
        shutil.copy(healthy / name, tmp_path / name)
    return tmp_path


@pytest.fixture()
def trained(healthy, broken) -> Path:
    """The same with its reward model, for another PPO."""
    for name in ("reward", "comparisons"):
        (broken / name).symlink_to(healthy / name)
    return broken


def assert_broken(
    folder: Path, rule: str, step: str, *also: str, first: str | None = None, report=None, maybe=()
) -> dict:
    """That this rule finds this step, and nothing is found but it, `also`, and what `maybe` comes
    with it; `first`: the first broken step, default this one.
    """
    found = diagnose(folder, report or {})
    assert {entry["rule"] for entry in found} - set(maybe) == {rule, *also}
    entry = next(entry for entry in found if entry["rule"] == rule)
    assert entry["step"] == step and found[0]["step"] == (first or step)
    assert set(entry) == {"rule", "step", "found", "evidence", "remedy"}
    json.dumps(entry, allow_nan=False)
    return entry


def test_sft_that_did_not_learn(tmp_path):
    model = save_model(tmp_path / "base")
    run_sft(tmp_path, model, "--learning_rate", "1e-9", "--num_train_epochs", "1")
    found = assert_broken(tmp_path, "sft_did_not_learn", "sft")
    assert found["evidence"]["eval_loss_best"] == pytest.approx(
        found["evidence"]["eval_loss_before"], rel=1e-3
    )


def test_sft_that_was_skipped(broken):
    run_comparisons(broken)
    run_reward(broken, str(broken / "base"))
    found = assert_broken(broken, "sft_skipped", "sft")
    assert "the reward model starts from" in found["found"] and "/base" in found["found"]


def test_outputs_that_are_cut_off(tmp_path):
    run_samples(tmp_path, save_model(tmp_path / "base"), limit="4")
    found = assert_broken(tmp_path, "samples_truncated", "samples")
    assert found["evidence"]["truncated"] > 0.9 and found["evidence"]["outputs"] == 192


def test_a_labeler_to_whom_all_is_a_tie(broken):
    (broken / "rankings.jsonl").unlink()
    run_labeler(broken, "--tie", "1.1")
    run_comparisons(broken)
    assert_broken(broken, "few_preferences", "rankings")


def test_labelers_who_contradict_each_other(broken):
    (broken / "rankings.jsonl").unlink()
    run_labeler(broken)
    rows = rows_of(broken / "rankings.jsonl")
    # of every second prompt the other way round: as often alike as not
    against = [
        {**row, "labeler": "Bob", "ranks": reversed_ranks(row)}
        if i % 2
        else {**row, "labeler": "Bob"}
        for i, row in enumerate(rows)
    ]
    write_jsonl(broken / "rankings.jsonl", [*rows, *against])
    run_comparisons(broken)
    found = assert_broken(broken, "labels_contradict", "rankings")
    assert 0.4 < found["evidence"]["agreement"] < 0.6


def test_a_reward_model_that_learned_the_opposite(broken):
    """One that learned nothing may be lucky with the head that it is given; this one is not."""
    run_comparisons(broken)
    train = broken / "comparisons" / "train.jsonl"
    rows = rows_of(train)
    write_jsonl(train, [{**row, "ranks": reversed_ranks(row)} for row in rows])
    run_reward(broken, str(broken / "sft" / "merged"))
    # the shorter ones are then the better ones, where the labeler likes long ones
    maybe = ["reward_no_better_than_length"]
    found = assert_broken(broken, "reward_at_chance", "reward", maybe=maybe)
    assert found["evidence"]["high"] < 0.5


def test_a_reward_model_at_chance(broken):
    """What is held out prefers both ways alike, so nobody knows better."""
    run_comparisons(broken)
    held_out = broken / "comparisons" / "validation.jsonl"
    rows = rows_of(held_out)
    write_jsonl(held_out, [*rows, *({**row, "ranks": reversed_ranks(row)} for row in rows)])
    run_reward(broken, str(broken / "sft" / "merged"))
    found = assert_broken(broken, "reward_at_chance", "reward")
    assert found["evidence"]["accuracy"] == 0.5


def test_a_reward_model_that_knows_length_alone(broken):
    rows = rows_of(broken / "rankings.jsonl")
    for row in rows:
        row["ranks"] = dense_ranks([-len(text) for text in row["completions"]])
    write_jsonl(broken / "rankings.jsonl", rows)
    run_comparisons(broken)
    run_reward(broken, str(broken / "sft" / "merged"))
    found = assert_broken(broken, "reward_no_better_than_length", "reward")
    assert found["evidence"]["longer_is_better"] and found["evidence"]["by_length"] == 1.0


################
# PPO
################


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> dict[str, str]:
    return make_setup(tmp_path_factory.mktemp("ppo"))


def train(setup: dict, folder: Path, sample=None, **settings) -> None:
    """PPO with a random reward model, nobody watching; perhaps with responses as given."""
    trainer = make_trainer(setup, folder / "ppo", watchdog=False, **settings)
    if sample is not None:
        trainer.worker.sample = lambda prompts: Sampled(sample(trainer, prompts))
    trainer.train()
    trainer.save_state()


ENDING = [300, 301, 302, 2]  # three tokens and the end


def ending(trainer, prompts):
    """Answers that differ, and end."""
    draw = random.Random(trainer.state.global_step)
    return [[draw.randrange(60, 500) for _ in range(3)] + [2] for _ in prompts]


def test_a_policy_that_never_moved(setup, tmp_path):
    ppo.cli(flags(setup, tmp_path / "ppo", learning_rate=1e-9, total_episodes=48))
    # random weights do not end, either
    found = assert_broken(tmp_path, "answers_never_end", "sft", "policy_never_moved")
    assert found["evidence"]["ended_sft"] < 0.2
    (moved,) = [e for e in diagnose(tmp_path, {}) if e["rule"] == "policy_never_moved"]
    assert moved["evidence"]["learning_rate"] == 1e-9 and moved["evidence"]["kl_coef"] == 0.02


def longer(prompts, completions, **_) -> list[float]:
    """A score that an answer can always have more of."""
    return [float(len(text)) for text in completions]


def test_a_policy_that_ran_away(trained):
    run_ppo(
        trained, str(trained / "sft" / "merged"), kl_coef=0.0, learning_rate=3e-2, watchdog=False,
        # where to is no luck: in answers that end at once there is no room for many nats
        reward_funcs=[f"{__name__}:longer"], reward_weights=[0, 1],
    )  # fmt: skip
    # with it goes what else there is to lose
    lost = ["entropy_gone", "one_phrase", "answers_never_end", "over_optimised"]
    assert_broken(trained, "kl_ran_away", "ppo", maybe=lost)


def test_answers_that_become_one(setup, tmp_path):
    """Varied answers for three rollouts, then one to everybody."""

    def sample(trainer, prompts):
        given = ending(trainer, prompts)
        return given if trainer.state.global_step < 6 else [ENDING for _ in prompts]

    train(setup, tmp_path, sample=sample, total_episodes=48, learning_rate=1e-3)
    assert_broken(tmp_path, "one_phrase", "ppo")


def test_a_policy_without_entropy(tmp_path):
    """A model that is sure of every token, and so says one thing over and over."""
    setup = make_setup(tmp_path / "sure")
    model = AutoModelForCausalLM.from_pretrained(setup["model"])
    model.lm_head.weight.data *= 1000
    model.save_pretrained(setup["model"])
    train(setup, tmp_path, total_episodes=24)
    # the tools' adapter is no zero to begin with
    also = {"maybe": ["kl_ran_away"], "first": "sft"}
    assert_broken(tmp_path, "entropy_gone", "ppo", "answers_never_end", **also)


def test_answers_that_no_longer_fit(trained):
    """Answers by a model that was taught to answer anything."""
    other = trained / "other"
    other.mkdir()
    run_sft(other, str(trained / "base"), shuffled=True)
    run_evaluate(trained, other / "sft" / "merged")
    report = report_of(trained)
    assert_broken(trained, "answers_do_not_fit", "ppo", report=report, maybe=["kl_ran_away"])


def liked(prompts, completions, **columns):
    """What the policy learns from: many letters e."""
    return [float(text.count("e")) for text in completions]


def scripted_reward(prompts, completions, **columns):
    """What counts, under a name that the report knows: few of them."""
    return [-float(text.count("e")) for text in completions]


def test_a_reward_that_rises_while_gold_falls(trained):
    functions = [f"test_diagnosed:{one.__name__}" for one in (liked, scripted_reward)]
    run_ppo(
        trained, str(trained / "sft" / "merged"), reward_funcs=functions, reward_weights=[0, 1, 0],
        kl_coef=0.0, learning_rate=6e-3, watchdog=False,
    )  # fmt: skip
    report = collect_run(trained)
    lost = ["kl_ran_away", "answers_never_end", "one_phrase", "entropy_gone"]
    assert_broken(trained, "over_optimised", "ppo", report=report, maybe=lost)


def test_answers_that_are_nothing(setup, tmp_path):
    train(setup, tmp_path, sample=lambda _, prompts: [[2] for _ in prompts])
    assert_broken(tmp_path, "answers_end_at_once", "sft")
