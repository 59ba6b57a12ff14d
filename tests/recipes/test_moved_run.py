"""A run that is moved, renamed or pushed to the Hub loads, and gives what it gave where it was."""

import json
import shutil
from pathlib import Path

import pytest
from command_tools import stops
from conftest import TOPICS, save_model, write_jsonl
from safetensors.torch import load_file

from data_prep import sample
from instruct import bases
from instruct.errors import UserError
from instruct.models import load_policy, load_reward
from instruct.run.fingerprints import is_same, model_identity
from recipes import chat, evaluate, ppo, reward, sft

QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "True", "--logging_steps", "1"]
LORA = ["--lora_r", "2", "--learning_rate", "1e-2"]


@pytest.fixture(autouse=True)
def no_base_given():
    """What a command took as its `--base_model` ends with its test."""
    yield
    bases.use_base(None)


def ppo_flags(root: Path) -> list[str]:
    return [
        "--model_name_or_path", f"{root}/sft/merged", "--reward_model_path", f"{root}/reward",
        "--dataset_name", f"{root}/prompts.jsonl", "--output_dir", f"{root}/ppo",
        "--total_episodes", "12", "--per_device_train_batch_size", "4", "--num_ppo_epochs", "1",
        "--response_length", "6", "--eval_strategy", "no", "--dtype", "float32",
        "--reward_funcs", f"reward:{root}/reward", "--reward_weights", "1", "0",
        "--save_strategy", "steps", "--save_steps", "1", *LORA, *QUIET,
    ]  # fmt: skip


def evaluated(root: Path, out: Path) -> tuple[list[str], dict]:
    """What every model of a run answers, and the scores of these answers."""
    evaluate.main([
        "--models", f"sft={root}/sft", f"ppo={root}/ppo", "--input", f"{root}/prompts.jsonl",
        "--reward", f"{root}/reward", "--output_dir", str(out), "--max_new_tokens", "6",
    ])  # fmt: skip
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    report = json.loads((out / "report.json").read_text())
    return rows, {name: report[name] for name in ("gold", "win_rate")}


def said(root: Path, capsys) -> str:
    """What chat prints of a run's models."""
    capsys.readouterr()
    models = ["--models", f"sft={root}/sft", f"ppo={root}/ppo", f"step={root}/ppo/checkpoint-2"]
    chat.main([*models, "--prompt", "What of tea?", "--max_new_tokens", "6"])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """base/ sft/ reward/ ppo/ of one run, started from the folder around it, as a user does."""
    folder = tmp_path_factory.mktemp("here")
    root = folder / "outputs/demo"
    root.mkdir(parents=True)
    rows = [{"prompt": f"What of {t}?", "completion": f"I like {t}."} for t in TOPICS[:8]]
    ranked = [
        {"prompt": row["prompt"], "completions": ["great!", "bad."], "ranks": [1, 2]}
        for row in rows
    ]
    write_jsonl(root / "rows.jsonl", rows)
    users = [{**row, "user_id": f"u{n}", "id": str(n)} for n, row in enumerate(rows)]
    write_jsonl(root / "prompts.jsonl", users)
    write_jsonl(root / "rankings.jsonl", ranked)
    save_model(root / "base", initializer_range=0.15)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short = Path("outputs/demo")
        sft.cli([
            "--model_name_or_path", f"{short}/base", "--dataset_name", f"{short}/rows.jsonl",
            "--output_dir", f"{short}/sft", "--max_steps", "2", "--eval_strategy", "no",
            "--save_strategy", "steps", "--save_steps", "1", *LORA, *QUIET,
        ])  # fmt: skip
        reward.cli([
            "--model_name_or_path", f"{short}/sft/merged", "--dataset_name",
            f"{short}/rankings.jsonl", "--output_dir", f"{short}/reward", "--max_steps", "1",
            "--eval_fraction", "0", "--demonstrations", f"{short}/rows.jsonl", *LORA, *QUIET,
        ])  # fmt: skip
        ppo.cli(ppo_flags(short))
    return root


def moved_to(target: Path, chain: Path, monkeypatch) -> Path:
    """The run under another name, its first place gone from sight."""
    shutil.copytree(chain, target)
    monkeypatch.chdir(target.parent)
    return target


def test_a_moved_run_evaluates_talks_and_resumes_as_before(chain, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as here:
        here.chdir(chain.parent.parent)
        wanted = evaluated(chain, tmp_path / "report"), said(Path("outputs/demo"), capsys)
    trained = load_file(chain / "ppo/adapter_model.safetensors")
    root = moved_to(tmp_path / "elsewhere/renamed", chain, monkeypatch)
    assert (evaluated(root, tmp_path / "moved"), said(Path("renamed"), capsys)) == wanted
    # killed after two of its three rollouts
    for name in ("finished.json", "adapter_model.safetensors", "checkpoint-3"):
        gone = root / "ppo" / name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    ppo.cli(ppo_flags(root))
    printed = capsys.readouterr().out
    assert "checkpoint-2" in printed and "loaded beside" not in printed
    again = load_file(root / "ppo/adapter_model.safetensors")
    assert all(again[name].equal(trained[name]) for name in trained)
    # and finished, by another path to it
    ppo.cli(ppo_flags(Path("renamed")))
    assert "holds a finished run" in capsys.readouterr().out


def test_a_moved_run_samples_and_scores(chain, tmp_path, monkeypatch, capsys):
    root = moved_to(tmp_path / "elsewhere/renamed", chain, monkeypatch)
    sample.main([
        "--model_name_or_path", str(root / "ppo"), "--input", str(root / "prompts.jsonl"),
        "--num_outputs", "1", "--max_new_tokens", "4", "--output", str(tmp_path / "s.jsonl"),
    ])  # fmt: skip
    assert (tmp_path / "s.jsonl").is_file()
    scored = [str(tmp_path / name) for name in ("here.jsonl", "there.jsonl")]
    for place, out in ((chain, scored[0]), (root, scored[1])):
        monkeypatch.chdir(place.parent.parent)
        asked = ["--score", str(place / "rows.jsonl"), "--score_output", out]
        reward.cli(["--output_dir", str(place / "reward"), *asked, *QUIET])
    assert Path(scored[0]).read_text() == Path(scored[1]).read_text()
    for name in ("sft", "reward", "ppo", "ppo/checkpoint-1", "ppo/checkpoint-1/value"):
        monkeypatch.chdir(chain.parent.parent)
        was = model_identity(str(Path("outputs/demo") / name))
        monkeypatch.chdir(root)
        assert is_same(was, model_identity(name)), name


def test_a_base_of_another_run_is_not_taken(chain, tmp_path, monkeypatch):
    """An adapter alone, copied beside another run's base: the base it was trained on is taken."""
    other = tmp_path / "other"
    shutil.copytree(chain / "ppo", other / "ppo")
    save_model(other / "sft/merged", seed=5)
    monkeypatch.chdir(chain.parent.parent)
    wanted = load_policy(str(chain / "ppo"))[0].state_dict()
    found = load_policy(str(other / "ppo"))[0].state_dict()
    assert all(found[name].equal(wanted[name]) for name in wanted)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds other files than the adapter was trained on"):
        load_policy(str(other / "ppo"))


def test_a_base_that_was_trained_again_or_is_another_is_not_taken(chain, tmp_path, monkeypatch):
    """Weights of the same shape load, and answer something else: numbers that nobody could tell."""
    moved_to(tmp_path / "run", chain, monkeypatch)
    adapter, base = str(tmp_path / "run/ppo"), tmp_path / "run/sft/merged"
    config = tmp_path / "run/ppo/adapter_config.json"
    named = {**json.loads(config.read_text()), "base_model_name_or_path": str(base)}
    config.write_text(json.dumps(named))
    load_policy(adapter)
    save_model(base, seed=5)
    with pytest.raises(UserError, match="not where it was at .* holds other files than"):
        load_policy(adapter)
    other = save_model(tmp_path / "other", seed=6)
    bases.use_base(other)
    with pytest.raises(UserError, match=r"not by --base_model .*other \(it holds other files than"):
        load_policy(adapter)
    bases.use_base(str(chain / "sft/merged"))
    load_policy(adapter)


def test_a_base_that_is_nowhere(chain, tmp_path, monkeypatch, capsys):
    for name in ("ppo", "reward"):
        shutil.copytree(chain / name, tmp_path / "alone" / name)
    monkeypatch.chdir(tmp_path)
    merged = str(chain / "sft/merged")
    rows = ["--score", str(chain / "rows.jsonl"), "--score_output", "scored.jsonl"]
    sampled = ["--input", str(chain / "prompts.jsonl"), "--output", "s.jsonl"]
    sampled += ["--num_outputs", "1", "--max_new_tokens", "4"]
    ways = {
        "alone/ppo": [
            (chat.main, ["--models", "ppo=alone/ppo", "--prompt", "Hi?"]),
            (sample.main, ["--model_name_or_path", "alone/ppo", *sampled]),
        ],
        "alone/reward": [(reward.cli, ["--output_dir", "alone/reward", *rows, *QUIET])],
    }
    for adapter, commands in ways.items():
        for main, argv in commands:
            told = stops(main, argv, capsys)
            for part in (adapter, "alone/sft/merged", "outputs/demo/sft/merged", "--base_model"):
                assert part in told, (adapter, part)
            main([*argv, "--base_model", merged])


def as_hub(cache: Path, **repositories: Path) -> None:
    """A Hub's cache, with what pushes upload of these folders: `me/NAME` each."""
    for name, folder in repositories.items():
        repo, commit = cache / f"models--me--{name}", name[0].encode().hex() * 20
        private = shutil.ignore_patterns("run.json", "*.jsonl", "checkpoint-*")
        shutil.copytree(folder, repo / "snapshots" / commit, ignore=private)
        (repo / "refs").mkdir()
        (repo / "refs/main").write_text(commit)


def test_adapters_and_a_merged_model_on_the_hub(chain, tmp_path, monkeypatch, capsys):
    names = {name: chain / name for name in ("sft", "reward", "ppo")}
    as_hub(tmp_path / "hub", **names, whole=chain / "sft/merged")
    for place in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{place}.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = ["--prompt", "What of tea?", "--max_new_tokens", "6"]
    with monkeypatch.context() as here:
        here.chdir(chain.parent.parent)
        local = {name: load_policy(f"outputs/demo/{name}")[0].state_dict() for name in ("ppo",)}
        wanted = load_reward("outputs/demo/reward").score(["What of tea?"], ["great!"])
    monkeypatch.chdir(tmp_path)
    told = stops(chat.main, ["--models", "ppo=me/ppo", *asked], capsys)
    assert "me/ppo" in told and "outputs/demo/sft/merged" in told and "--base_model" in told
    for base in ("me/whole", "me/sft/merged"):
        bases.use_base(base)
        found = load_policy("me/ppo")[0].state_dict()
        assert all(found[name].equal(local["ppo"][name]) for name in found), base
        assert load_reward("me/reward").score(["What of tea?"], ["great!"]) == wanted
        chat.main(["--models", "ppo=me/ppo", *asked, "--base_model", base])
    # a new PPO on both
    flags = ppo_flags(chain)
    flags[1], flags[3], flags[7] = "me/sft/merged", "me/reward", str(tmp_path / "ppo")
    flags[flags.index("--reward_funcs") + 1] = "reward:me/reward"
    ppo.cli([*flags, "--base_model", "me/sft/merged"])
    assert "loaded beside" not in capsys.readouterr().out
    assert (tmp_path / "ppo/adapter_model.safetensors").is_file()


MEANT = [
    # (command, what was given below outputs/demo, what is meant)
    ("train", "sft", ["sft/merged"]),
    ("train", "sft/checkpoint-2", ["sft/merged"]),
    ("train", ".", ["sft/merged"]),
    ("chat", ".", ["ppo", "sft/merged"]),
    ("sample", ".", ["ppo", "sft/merged"]),
    ("evaluate", ".", ["ppo", "sft/merged"]),
    ("score", ".", ["reward"]),
    ("reward", ".", ["reward"]),
]


@pytest.mark.parametrize("command,given,meant", MEANT)
def test_did_you_mean(command, given, meant, chain, tmp_path, monkeypatch, capsys):
    path = str(chain / given)
    data = ["--dataset_name", str(chain / "rows.jsonl"), "--output_dir", str(tmp_path / "out")]
    held_out = ["--input", str(chain / "prompts.jsonl")]
    rest = ["--reward_model_path", path, "--model_name_or_path", str(chain / "sft/merged")]
    rows = ["--score", str(chain / "rows.jsonl")]
    ways = {
        "train": [
            (main, ["--model_name_or_path", path, *data, *more, *QUIET])
            for main, more in ((sft.cli, []), (reward.cli, []), (ppo.cli, rest[:2]))
        ],
        "chat": [(chat.main, ["--models", f"it={path}", "--prompt", "Hi?"])],
        "sample": [(sample.main, ["--model_name_or_path", path, *held_out, "--output", "s.jsonl"])],
        "evaluate": [(evaluate.main, ["--models", f"it={path}", *held_out, *data[2:]])],
        "score": [(reward.cli, ["--output_dir", path, *rows, *QUIET])],
        "reward": [(ppo.cli, [*data, *rest, *QUIET])],
    }
    monkeypatch.chdir(tmp_path)
    for main, argv in ways[command]:
        told = stops(main, argv, capsys)
        assert "did you mean" in told and len(told.strip().splitlines()) == 1
        for name in meant:
            assert str(chain / name) in told.partition("did you mean")[2]
    assert not (tmp_path / "out").exists()


def test_a_step_that_was_left_out_is_told_before_the_hub_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ["--dataset_name", "rows.jsonl", "--output_dir", "out", *QUIET]
    for main, argv in [
        (reward.cli, ["--model_name_or_path", "outputs/yours/sft/merged", *data]),
        (chat.main, ["--models", "it=./sft/merged", "--prompt", "Hi?"]),
        (evaluate.main, ["--models", "it=a/b/c", "--input", "rows.jsonl", "--output_dir", "out"]),
    ]:
        assert "no such folder; has the step that writes it been run?" in stops(main, argv, capsys)


def test_a_run_that_has_not_finished_is_told(chain, tmp_path):
    for name in ("checkpoint-10", "checkpoint-9"):
        shutil.copytree(chain / "sft/checkpoint-2", tmp_path / "reward" / name)
    with pytest.raises(UserError, match=r"has not finished \(checkpoint-10\)"):
        load_reward(str(tmp_path / "reward"))
