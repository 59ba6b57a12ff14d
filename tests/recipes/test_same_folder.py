"""A command run again in the same folder: it continues, is refused, starts over, or only pushes."""

import json
import shutil
from types import SimpleNamespace

import pytest
from command_tools import stops
from conftest import save_model, write_jsonl
from huggingface_hub.utils import filter_repo_objects
from ppo_tools import flags, make_setup
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer

from instruct.arguments import ModelConfig
from instruct.evaluation import answers as answers_module
from instruct.models import load_causal_lm, load_policy, load_reward
from instruct.trainers.adapter_files import shares_base
from recipes import evaluate, ppo, reward, sft

QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "True", "--logging_steps", "1"]


@pytest.fixture()
def arguments(tiny_model, demonstrations, tmp_path):
    return [
        "--model_name_or_path", tiny_model, "--output_dir", str(tmp_path / "sft"),
        "--dataset_name", write_jsonl(tmp_path / "d.jsonl", demonstrations), "--max_steps", "4",
        "--per_device_train_batch_size", "4", "--save_strategy", "steps", "--save_steps", "2",
        "--lora_r", "2", *QUIET,
    ]  # fmt: skip


def unfinish(out) -> None:
    """As if it had been killed after its first checkpoint."""
    (out / "finished.json").unlink()
    shutil.rmtree(out / "checkpoint-4")


@pytest.fixture()
def steps(monkeypatch) -> list:
    """Grows by one with every training step."""
    taken, original = [], Trainer.training_step

    def count(self, *args, **kwargs):
        taken.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", count)
    return taken


def test_the_record_says_what_the_run_is(arguments, tmp_path, tiny_model):
    sft.cli(arguments)
    found = json.loads((tmp_path / "sft" / "run.json").read_text())
    assert found["step"] == "sft" and found["base"]["name"] == tiny_model
    assert len(found["base"]["sha256"]) == len(found["data"]["dataset_name"]["sha256"]) == 64
    assert found["world_size"] == 1 and found["flags"]["lora_r"] == 2 and "seed" in found
    assert set(found["versions"]) >= {"python", "torch", "transformers", "trl"}
    assert not {"logging_steps", "output_dir", "hub_token", "push_to_hub"} & set(found["flags"])


@pytest.mark.parametrize("finished", [True, False])
def test_another_run_in_the_same_folder_is_refused(
    arguments, tmp_path, demonstrations, capsys, steps, finished
):
    sft.cli(arguments)
    if not finished:
        unfinish(tmp_path / "sft")
    steps.clear()
    fewer = write_jsonl(tmp_path / "fewer.jsonl", demonstrations[:8])
    other = save_model(tmp_path / "qwen", "qwen2")
    changes = {
        "--learning_rate": ("3e-4", "is 3e-4"),
        "--lora_r": ("4", "was 2, is 4"),
        "--per_device_train_batch_size": ("2", "was 4, is 2"),
        "--max_steps": ("6", "was 4, is 6"),
        "--dataset_name": (fewer, f"is {fewer}"),
        "--model_name_or_path": (other, f"is {other}"),
    }
    for flag, (value, sentence) in changes.items():
        error = stops(sft.cli, [*arguments, flag, value], capsys)
        assert flag in error and sentence in error and "--overwrite_output_dir True" in error
    # the same path, other rows
    write_jsonl(tmp_path / "d.jsonl", demonstrations[:8])
    assert "holds other files than it did" in stops(sft.cli, arguments, capsys)
    assert not steps


def test_other_logging_and_saving_is_the_same_run(arguments, tmp_path, steps, capsys):
    sft.cli(arguments)
    unfinish(tmp_path / "sft")
    steps.clear()
    sft.cli([*arguments, "--logging_steps", "2", "--save_total_limit", "3"])
    assert len(steps) == 2 and "continuing from checkpoint-2" in capsys.readouterr().out


def test_starting_over_keeps_what_is_not_ours(arguments, tmp_path, steps):
    sft.cli(arguments)
    out = tmp_path / "sft"
    (out / "notes.txt").write_text("mine")
    steps.clear()
    sft.cli([*arguments, "--max_steps", "3", "--overwrite_output_dir", "True"])
    assert len(steps) == 3 and (out / "notes.txt").read_text() == "mine"
    assert not (out / "checkpoint-4").exists()


def test_folders_without_a_record(arguments, tmp_path, capsys, steps, tiny_model):
    sft.cli(arguments)
    out = tmp_path / "sft"
    unfinish(out)
    (out / "run.json").unlink()
    assert "nothing is removed" in stops(
        sft.cli, [*arguments, "--overwrite_output_dir", "True"], capsys
    )
    # weights of another base of the same shape would be loaded without a word
    other = save_model(tmp_path / "other", seed=5)
    error = stops(sft.cli, [*arguments, "--model_name_or_path", other], capsys)
    assert f"holds a run on {tiny_model} (adapter_config.json)" in error
    steps.clear()
    sft.cli(arguments)  # of an earlier version: continued
    assert len(steps) == 2 and "nothing is recorded" in capsys.readouterr().out
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "README.md").write_text("mine")
    error = stops(sft.cli, [*arguments, "--output_dir", str(foreign)], capsys)
    assert "holds README.md, which no run of this repo wrote" in error
    error = stops(sft.cli, [*arguments, "--output_dir", tiny_model], capsys)
    assert "is the base model" in error


def test_a_checkpoint_of_another_base_is_refused(arguments, tmp_path, capsys):
    sft.cli(arguments)
    other = save_model(tmp_path / "other", seed=5)
    error = stops(sft.cli, [
        *arguments, "--output_dir", str(tmp_path / "new"), "--model_name_or_path", other,
        "--resume_from_checkpoint", str(tmp_path / "sft" / "checkpoint-2"),
    ], capsys)  # fmt: skip
    assert "is of another base model" in error


def test_ppo_with_another_batch_is_refused(tmp_path, capsys):
    setup = make_setup(tmp_path / "setup")
    out = tmp_path / "ppo"
    saved = {"save_strategy": "steps", "save_steps": 2, "rollout_batch_size": 8}
    ppo.cli(flags(setup, out, **saved))
    unfinish(out)
    for change in ({"rollout_batch_size": 16}, {"num_ppo_epochs": 3}, {"total_episodes": 32}):
        ((flag, value),) = change.items()
        error = stops(ppo.cli, flags(setup, out, **saved | change), capsys)
        assert f"--{flag} was" in error and f"is {value}" in error
    # the watchdog's bounds stop a run, they do not change it
    ppo.cli(flags(setup, out, **saved, max_kl=99.0))
    # asked for later
    ppo.cli(flags(setup, out, **saved, save_merged=True))
    assert (out / "merged" / "model.safetensors").is_file()


def test_a_change_to_a_finished_run_is_pushed_again(tmp_path):
    setup, out = make_setup(tmp_path / "setup"), tmp_path / "ppo"
    ppo.cli(flags(setup, out))
    (out / "pushed.json").write_text('{"hub_model_id": "you/name"}')
    ppo.cli(flags(setup, out))
    assert (out / "pushed.json").is_file()
    ppo.cli(flags(setup, out, save_merged=True))
    assert not (out / "pushed.json").exists()  # merged/ is not there yet


def test_changed_reward_code_is_told_and_goes_on(tmp_path, monkeypatch, capsys):
    """It was corrected after it had raised, say: refused, hours of training would be lost."""
    setup, out = make_setup(tmp_path / "setup"), tmp_path / "ppo"
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "my_rewards.py"
    code.write_text(
        "def short(prompts, completions, **columns):\n    return [0.0] * len(prompts)\n"
    )
    run = flags(setup, out, save_strategy="steps", save_steps=2, reward_funcs="my_rewards:short")
    ppo.cli(run)
    unfinish(out)
    capsys.readouterr()
    ppo.cli(run)
    assert "other versions" not in capsys.readouterr().out
    unfinish(out)
    code.write_text(code.read_text() + "# another line\n")
    ppo.cli(run)
    assert "begun with other versions: my_rewards:short was" in capsys.readouterr().out


def test_somebodys_file_in_merged_is_told_before_training(arguments, tmp_path, capsys, steps):
    merged = tmp_path / "sft" / "merged"
    merged.mkdir(parents=True)
    (merged / "policy.gguf").write_text("mine")
    (tmp_path / "sft" / "adapter_config.json").write_text("{}")  # one of our folders
    assert "policy.gguf" in stops(sft.cli, arguments, capsys) and not steps
    assert (merged / "policy.gguf").read_text() == "mine"


def test_held_out_rankings_are_known_by_their_content(
    comparisons, tmp_path, tiny_model, monkeypatch, steps
):
    rankings = write_jsonl(tmp_path / "r.jsonl", comparisons)
    held_out = write_jsonl(tmp_path / "held.jsonl", comparisons[:2])
    run = [
        "--model_name_or_path", tiny_model, "--dataset_name", rankings, "--max_steps", "1",
        "--output_dir", str(tmp_path / "reward"), "--dataset_test_split", *[held_out], *QUIET,
    ]  # fmt: skip
    reward.cli(run)
    monkeypatch.chdir(tmp_path)
    steps.clear()
    reward.cli([word.replace(held_out, "held.jsonl") for word in run])  # the same, relative
    assert not steps


def test_a_push_that_fails_is_all_that_is_left_to_do(
    arguments, tmp_path, monkeypatch, steps, capsys
):
    pushed = []
    monkeypatch.setattr(
        Trainer, "init_hf_repo", lambda self, *a, **k: setattr(self, "hub_model_id", "you/name")
    )

    def away(self, *args, **kwargs):
        raise ConnectionError("the Hub is away")

    def there(self, folder_path, ignore_patterns, **kwargs):
        files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
        pushed.append(set(filter_repo_objects(files, ignore_patterns=ignore_patterns)))

    repo = SimpleNamespace(repo_id="you/name")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, *a, **k: repo)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", there)
    out = tmp_path / "sft"
    command = [*arguments, "--push_to_hub", "True", "--hub_model_id", "you/name"]
    # a Trainer asks for data where it evaluates; only to push there are none
    command += ["--hub_strategy", "end", "--eval_strategy", "epoch"]
    command += ["--dataset_test_split", arguments[arguments.index("--dataset_name") + 1]]
    monkeypatch.setattr(Trainer, "push_to_hub", away)
    error = stops(sft.cli, command, capsys)
    assert "finished and complete, but could not be pushed to the Hub (the Hub is away)" in error
    assert {"finished.json", "merged", "adapter_model.safetensors"} <= {
        path.name for path in out.iterdir()
    }
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    steps.clear()
    sft.cli(command)
    sft.cli(command)  # nothing is owed any more
    (files,) = pushed
    assert {"README.md", "adapter_model.safetensors", "merged/model.safetensors"} <= files
    assert not [name for name in files if name == "run.json" or name.startswith("checkpoint-")]
    assert not steps
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert after.pop("pushed.json") and after == before


def test_full_fine_tuning_through_all_steps(arguments, comparisons, tmp_path, monkeypatch):
    full = ["--use_peft", "False"]
    sft.cli([*arguments, *full, "--learning_rate", "1e-2"])
    out = tmp_path / "sft"
    rankings = write_jsonl(tmp_path / "r.jsonl", comparisons)
    reward.cli([
        "--model_name_or_path", str(out / "merged"), "--dataset_name", rankings, "--max_steps", "1",
        "--output_dir", str(tmp_path / "reward"), "--eval_fraction", "0", *full, *QUIET,
    ])  # fmt: skip
    load_reward(str(tmp_path / "reward"))
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "tea"}, {"prompt": "rain"}] * 2)
    ppo.cli([
        "--model_name_or_path", str(out / "merged"), "--dataset_name", prompts,
        "--reward_model_path", str(tmp_path / "reward"), "--output_dir", str(tmp_path / "ppo"),
        "--save_merged", "True", "--total_episodes", "4", "--rollout_batch_size", "4",
        "--per_device_train_batch_size", "4", "--response_length", "4", "--num_ppo_epochs", "1",
        *full, *QUIET,
    ])  # fmt: skip
    trained, merged = (
        load_file(tmp_path / "ppo" / place / "model.safetensors") for place in (".", "merged")
    )
    assert all(trained[name].equal(merged[name]) for name in trained)
    # the folder itself and merged/ hold the chosen weights
    means = {"checkpoint-2": 2.0, "checkpoint-4": 1.0}
    monkeypatch.setattr(sft, "mean_rewards", lambda *args: means)
    sft.cli([*arguments, "--select_by_reward", str(tmp_path / "reward")])
    chosen, top, merged = (
        load_file(out / place / "model.safetensors") for place in ("checkpoint-2", ".", "merged")
    )
    assert all(chosen[name].equal(top[name]) for name in chosen)
    assert all(chosen[name].equal(merged[name]) for name in chosen)


def hub_cache(folder, *revisions: str):
    """A Hub cache with another model at each revision; the first one is `main`."""
    from conftest import make_model, make_tokenizer

    repo = folder / "models--someone--base"
    (repo / "refs").mkdir(parents=True)
    for number, name in enumerate(revisions):
        snapshot = repo / "snapshots" / (str(number) * 40)
        make_model(seed=number, initializer_range=0.5).save_pretrained(snapshot)
        make_tokenizer().save_pretrained(snapshot)
        (repo / "refs" / name).write_text(str(number) * 40)


def test_a_revision_travels_to_whoever_loads_the_adapter(
    arguments, comparisons, tmp_path, monkeypatch
):
    hub_cache(tmp_path / "hub", "main", "v1")
    for place in ("huggingface_hub.constants", "transformers.utils.hub.constants"):
        monkeypatch.setattr(f"{place}.HF_HUB_CACHE", str(tmp_path / "hub"))
    base = ["--model_name_or_path", "someone/base", "--model_revision", "v1"]
    sft.cli([*arguments, *base, "--learning_rate", "1e-7"])
    out = tmp_path / "sft"
    assert json.loads((out / "adapter_config.json").read_text())["revision"] == "v1"
    record = json.loads((out / "run.json").read_text())
    assert record["base"]["commit"] == "1" * 40
    v1 = AutoModelForCausalLM.from_pretrained("someone/base", revision="v1")
    wanted = v1.model.embed_tokens.weight
    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    assert wanted.allclose(merged.model.embed_tokens.weight, atol=1e-5)
    assert wanted.allclose(load_policy(str(out))[0].model.embed_tokens.weight, atol=1e-5)
    # a reward model of the same revision shares PPO's base, one of another does not
    rankings = write_jsonl(tmp_path / "r.jsonl", comparisons)
    reward.cli([
        *base, "--dataset_name", rankings, "--max_steps", "1", "--eval_fraction", "0",
        "--output_dir", str(tmp_path / "reward"), *QUIET,
    ])  # fmt: skip
    scorer = load_reward(str(tmp_path / "reward"))
    found = scorer.model.get_base_model().model.embed_tokens.weight
    assert wanted.allclose(found, atol=1e-5)
    for revision, shared in (("v1", True), ("1" * 40, True), ("main", False)):
        model = load_causal_lm(
            ModelConfig(model_name_or_path="someone/base", model_revision=revision)
        )
        assert shares_base(str(tmp_path / "reward"), model) == shared


def test_a_token_is_in_no_file(arguments, tmp_path, monkeypatch):
    token = "hf_" + "SECRET" * 5
    file = tmp_path / "run.yaml"
    file.write_text(f"hub_token: {token}\n")
    ways = [["--hub_token", token], [f"--hub-token={token}"], ["--hub_t", token]]
    for number, way in enumerate([*ways, ["--config", str(file)]]):
        monkeypatch.setenv("HF_TOKEN", "")
        argv = [*arguments, "--max_steps", "1", *way, "--output_dir", str(tmp_path / f"o{number}")]
        monkeypatch.setattr("sys.argv", ["recipes/sft.py", *argv])
        sft.cli()
        import os

        assert os.environ["HF_TOKEN"] == token  # where the Hub client looks
        files = [path for path in (tmp_path / f"o{number}").rglob("*") if path.is_file()]
        assert not [path for path in files if token.encode() in path.read_bytes()]
        assert "--max_steps 1" in (tmp_path / f"o{number}" / "README.md").read_text()


def test_evaluate_asks_anew_what_has_changed_at_its_place(tmp_path, monkeypatch):
    models = {name: save_model(tmp_path / name, initializer_range=0.5) for name in ("sft", "ppo")}
    rows = [{"id": f"p{i}", "prompt": f"Question {i}?", "user_id": f"u{i}"} for i in range(4)]
    prompts = write_jsonl(tmp_path / "p.jsonl", rows)
    argv = [
        "--models", *(f"{name}={path}" for name, path in models.items()), "--input", prompts,
        "--output_dir", str(tmp_path / "report"), "--max_new_tokens", "4",
    ]  # fmt: skip
    asked, original = [], answers_module.answer

    def answer(model, *args):
        asked.append(model.name)
        return original(model, *args)

    def run() -> list[str]:
        asked.clear()
        evaluate.main(argv)
        return sorted(asked, reverse=True)  # the reference answers last

    monkeypatch.setattr(answers_module, "answer", answer)
    assert run() == ["sft", "ppo"] and run() == []
    save_model(tmp_path / "ppo", seed=1, initializer_range=0.5)  # trained anew at the same path
    assert run() == ["ppo"]
    write_jsonl(tmp_path / "p.jsonl", [{**row, "prompt": "Why?"} for row in rows])
    assert run() == ["sft", "ppo"]
    argv += ["--batch_size", "2"]
    assert run() == ["sft", "ppo"]
    assert json.loads((tmp_path / "report" / "run.json").read_text())["step"] == "evaluate"


RECORDS = {
    "report": {"step": "evaluate", "models": {}},
    "embedded": {"step": "embedded", "model": {}},
    "no step": {"models": {}},
    "half": {"step": "sft"},
    "list": [1],
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "more",
    [[], ["--overwrite_output_dir", "True"], ["--select_by_reward", "r"], ["--resume_from"]],
    ids=["plain", "overwrite", "select", "resume"],
)
def test_a_folder_of_another_command_is_refused(arguments, tmp_path, capsys, name, more):
    out = tmp_path / "other"
    (out / "checkpoint-2").mkdir(parents=True)
    (out / "run.json").write_text(json.dumps(RECORDS[name]))
    if more == ["--resume_from"]:
        more = ["--resume_from_checkpoint", str(out / "checkpoint-2")]
    else:
        more = [*more, "--output_dir", str(out)]
    error = stops(sft.cli, [*arguments, *more], capsys)
    assert str(out) in error and "another" in error or "no whole checkpoint" in error
    assert json.loads((out / "run.json").read_text()) == RECORDS[name]


def test_evaluate_replaces_an_earlier_report_and_nothing_else(tmp_path, tiny_model, capsys):
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    out = tmp_path / "out"
    command = [
        "--models", f"a={tiny_model}", "--input", prompts, "--max_new_tokens", "2",
        "--output_dir", str(out),
    ]  # fmt: skip
    for names, content in (
        (["run.json"], '{"step": "sft"}'),
        (["run.json"], "[]"),
        (["report.md"], "mine"),
        (["answers.jsonl", "report.json"], '{"accuracy": 1}'),
    ):
        out.mkdir()
        for name in names:
            (out / name).write_text(content)
        error = stops(evaluate.main, command, capsys)
        assert str(out) in error and "another" in error
        assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(
            names, content
        )
        shutil.rmtree(out)
    evaluate.main(command)
    (out / "run.json").unlink()  # as an earlier version left it
    evaluate.main(command)
    assert json.loads((out / "run.json").read_text())["step"] == "evaluate"


def test_answers_are_the_last_file_of_a_report(tmp_path, tiny_model, monkeypatch):
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    from instruct.evaluation import report

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "markdown", killed)
    with pytest.raises(SystemExit):
        evaluate.main([
            "--models", f"a={tiny_model}", "--input", prompts, "--max_new_tokens", "2",
            "--output_dir", str(tmp_path / "report"),
        ])  # fmt: skip
    assert not (tmp_path / "report" / "answers.jsonl").exists()


def test_the_report_states_base_and_labelers_as_recorded(
    arguments, comparisons, tmp_path, tiny_model, capsys
):
    run = tmp_path
    (run / "embedded").mkdir()  # of the demo: not this run's base
    sft.cli(arguments)
    rankings = [
        {**row, "labeler": ["anna", "ben"][number % 2]} for number, row in enumerate(comparisons)
    ]
    reward.cli([
        "--model_name_or_path", str(run / "sft" / "merged"), "--max_steps", "1",
        "--dataset_name", write_jsonl(run / "r.jsonl", rankings), "--eval_fraction", "0.4",
        "--output_dir", str(run / "reward"), *QUIET,
    ])  # fmt: skip
    card = (run / "reward" / "README.md").read_text()
    assert "Ranked by: anna, ben" in card
    prompts = write_jsonl(run / "p.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    command = [
        "--models", f"sft={run / 'sft' / 'merged'}", "--input", prompts, "--max_new_tokens", "2",
        "--run_dir", str(run), "--output_dir", str(run / "report"),
    ]  # fmt: skip
    evaluate.main(command)
    text = (run / "report" / "report.md").read_text()
    assert f"Base model: **{tiny_model}**.\n" in text and "SmolLM2" not in text
    assert "pairs ranked by anna, ben." in text
    # the demo: its model says what it is, and the scripted labeler is named as such
    record = json.loads((run / "sft" / "run.json").read_text())
    record["base"]["path"] = "../embedded/model"
    (run / "sft" / "run.json").write_text(json.dumps(record))
    from data_prep.embedded import MODEL

    (run / "embedded" / "run.json").write_text(json.dumps({"step": "embedded", "model": MODEL}))
    record = json.loads((run / "reward" / "run.json").read_text())
    (run / "reward" / "run.json").write_text(json.dumps({**record, "labelers": ["scripted"]}))
    evaluate.main(command)
    text = (run / "report" / "report.md").read_text()
    assert (
        "Base model: **SmolLM2-135M-Instruct, dequantised from 4-bit**, so already "
        "instruction-tuned before step 1.\n" in text
    )
    assert "pairs ranked by the scripted labeler." in text
