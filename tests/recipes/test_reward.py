"""recipes/reward.py in process on tiny models: files, learning, loading, resuming, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import CHATML, REPO, make_tokenizer, save_model, write_jsonl
from peft import PeftModel
from ppo_tools import make_reward
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
)
from trl import TrlParser

from instruct.arguments import ModelConfig
from instruct.evaluation.panel import reward_judge
from instruct.evaluation.scores_beside import text_key
from instruct.files import read_jsonl
from instruct.models import load_reward
from instruct.tokens import as_messages
from instruct.trainers.ranked_reward import RankedRewardConfig
from recipes.reward import ScriptArguments, cli


@pytest.fixture()
def arguments(tiny_model, comparisons, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", comparisons[:9])
    write_jsonl(data / "validation.jsonl", comparisons[9:])
    return [
        "--model_name_or_path", tiny_model, "--dataset_name", str(data),
        "--output_dir", str(tmp_path / "reward"), "--per_device_train_batch_size", "3",
        "--num_train_epochs", "4", "--learning_rate", "3e-3", "--report_to", "none",
        "--eval_strategy", "epoch", "--save_strategy", "epoch", "--use_cpu", "--logging_steps", "1",
        "--disable_tqdm", "True",
    ]  # fmt: skip


def metrics_of(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def history_of(folder) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_files_metrics_and_what_is_learned(
    arguments, tiny_model, comparisons, demonstrations, tmp_path, capsys
):
    demos = write_jsonl(tmp_path / "demos.jsonl", demonstrations)
    cli([*arguments, "--demonstrations", demos])
    out = tmp_path / "reward"
    assert {p.name for p in out.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "reward_head.json", "metrics.json", "finished.json", "README.md", "run.json",
        "trainer_state.json", "training_args.bin", "held_out_scores.jsonl",
        "checkpoint-3", "checkpoint-6", "checkpoint-9", "checkpoint-12",
    }  # fmt: skip
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and "score" in config["modules_to_save"]
    assert config["base_model_name_or_path"] == tiny_model
    head = json.loads((out / "reward_head.json").read_text())
    assert head["base"] == tiny_model and head["pad_token_id"] == 0
    # what the evaluation would ask of it, as it is loaded
    first, *left = read_jsonl(out / "held_out_scores.jsonl")
    assert first == {"asked": reward_judge(str(out)).key}
    pairs = [(row, text) for row in comparisons[9:] for text in row["completions"]]
    texts = [{"prompt": as_messages(row["prompt"]), "completion": text} for row, text in pairs]
    scores = load_reward(str(out)).score([t["prompt"] for t in texts], [t for _, t in pairs])
    expected = dict(zip(map(text_key, texts), scores, strict=True))
    assert {e["text"]: e["score"] for e in left} == pytest.approx(expected, abs=1e-4)
    metrics = metrics_of(out)
    assert metrics["n_pairs"] == sum(
        a < b for row in comparisons[9:] for a in row["ranks"] for b in row["ranks"]
    )
    assert (
        metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
        and metrics["accuracy"] > 0.7
    )
    assert metrics["agreement"] is None and metrics["held_out_labelers"] is None
    losses = [e["loss"] for e in history_of(out) if "loss" in e]
    assert sum(losses[-3:]) < sum(losses[:3])
    weights = load_file(out / "adapter_model.safetensors")
    assert all(w.abs().max() > 0 for name, w in weights.items() if "lora_B" in name)
    # the bias: demonstrations score 0 on average; and the better completion scores higher
    reward = load_reward(str(out))
    scores = reward.score(
        [d["prompt"] for d in demonstrations], [d["completion"] for d in demonstrations]
    )
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-5) and reward.bias != 0
    # again: nothing to do, and it says so
    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    cli([*arguments, "--demonstrations", demos])
    assert (
        "finished" in capsys.readouterr().out
        and (out / "adapter_model.safetensors").stat().st_mtime_ns == before
    )


def test_loads_with_plain_transformers_and_peft_as_the_readme_says(arguments, tiny_model, tmp_path):
    cli([*arguments, "--num_train_epochs", "1"])
    folder = tmp_path / "reward"
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bias = json.loads((folder / "reward_head.json").read_text())["bias"]
    messages = [{"role": "user", "content": "What of tea?"}]
    text = (
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        + "I love it!"
        + tokenizer.eos_token
    )
    with torch.no_grad():
        score = (
            model(**tokenizer(text, add_special_tokens=False, return_tensors="pt"))
            .logits[0, 0]
            .item()
            + bias
        )
    assert score == pytest.approx(
        load_reward(str(folder)).score([messages], ["I love it!"])[0], abs=1e-5
    )
    untrained = base.score.original_module.weight  # the head that was trained is the one in use
    assert not torch.equal(
        untrained, model.base_model.model.score.modules_to_save["default"].weight
    )


def test_full_fine_tuning_saves_a_model_that_load_reward_reads(
    arguments, tiny_model, comparisons, tmp_path
):
    cli([*arguments, "--use_peft", "False", "--num_train_epochs", "2", "--learning_rate", "1e-3"])
    out = tmp_path / "reward"
    assert {"config.json", "model.safetensors", "reward_head.json"} <= {
        p.name for p in out.iterdir()
    }
    before, after = (
        load_file(f"{tiny_model}/model.safetensors"),
        load_file(out / "model.safetensors"),
    )
    assert "score.weight" in after and not any(
        torch.equal(after[n], w) for n, w in before.items() if n in after
    )
    reward, trained = load_reward(str(out)), dict(after)
    assert torch.equal(
        reward.model.score.weight, trained["score.weight"]
    )  # the trained head, no new one
    again = tmp_path / "again"  # and a trained head is kept as the start of another run
    cli([
        *arguments, "--model_name_or_path", str(out), "--output_dir", str(again),
        "--learning_rate", "1e-12", "--max_steps", "1",
    ])  # fmt: skip
    prompt, completion = comparisons[0]["prompt"], comparisons[0]["completions"][0]
    assert load_reward(str(again)).score([prompt], [completion]) == pytest.approx(
        reward.score([prompt], [completion]), abs=1e-4
    )


def test_chosen_rejected_rows_are_learned_from(arguments, tmp_path):
    rows = [
        {"prompt": f"What of {i}?", "chosen": "Great, I love it", "rejected": "Bad"}
        for i in range(12)
    ]
    cli([
        *arguments, "--dataset_name", write_jsonl(tmp_path / "pairs.jsonl", rows),
        "--eval_fraction", "0.3",
    ])  # fmt: skip
    metrics = metrics_of(tmp_path / "reward")
    assert metrics["accuracy"] == 1.0 and 0 < metrics["n_pairs"] < 12  # held out by prompt


def test_rankings_without_a_strict_pair_are_counted_and_left_out(
    arguments, comparisons, tmp_path, caplog
):
    useless = [
        {**comparisons[0], "completions": ["one"], "ranks": [1]},
        {**comparisons[0], "ranks": [1, 1]},
    ]
    long = {**comparisons[0], "completions": ["word " * 300, "x"]}
    data = write_jsonl(tmp_path / "rankings.jsonl", [*comparisons, *useless, long])
    cli([
        *arguments, "--dataset_name", data, "--eval_fraction", "0", "--eval_strategy", "no",
        "--max_length", "200", "--max_steps", "1",
    ])  # fmt: skip
    assert "2 of 15 rankings of the train dataset have no strict pair" in caplog.text
    assert (
        "1 of 15 rankings of the train dataset are longer than --max_length 200 tokens"
        in caplog.text
    )
    assert not (tmp_path / "reward" / "metrics.json").exists()


def test_bad_input_is_one_sentence(arguments, comparisons, tmp_path, capsys):
    good = comparisons[0]

    def stops(row=None, *changes):
        if row:
            changes = ("--dataset_name", write_jsonl(tmp_path / "bad.jsonl", [good, row]), *changes)
        with pytest.raises(SystemExit) as stop:
            cli([*arguments, *changes])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert stop.value.code == 2 and error.startswith("error: ")
        return error

    assert "bad.jsonl, line 2: 2 ranks for 3 completions" in stops(
        {**good, "completions": ["a", "b", "c"]}
    )
    assert "bad.jsonl, line 2: 'ranks' must be whole" in stops({**good, "ranks": [1.5, 2]})
    assert "bad.jsonl, line 2: 'ranks' must be whole" in stops({**good, "ranks": [1, None]})
    assert "bad.jsonl, line 2: 'prompt' is empty" in stops(
        {**good, "prompt": [{"role": "user", "content": " "}]}
    )
    assert "'completions' number 2 is null" in stops({**good, "completions": ["a", None]})
    assert "no ranking that could be learned from: 1 in it" in stops(
        None, "--dataset_name", write_jsonl(tmp_path / "tied.jsonl", [{**good, "ranks": [1, 1]}]),
        "--eval_fraction", "0", "--eval_strategy", "no",
    )  # fmt: skip
    assert "no known shape of rankings" in stops(
        None, "--dataset_name", write_jsonl(tmp_path / "p.jsonl", [{"text": "a"}])
    )
    assert "no such file" in stops(None, "--dataset_name", str(tmp_path / "gone.jsonl"))
    assert "held-out rankings" in stops(
        None,
        "--dataset_name",
        write_jsonl(tmp_path / "all.jsonl", comparisons),
        "--eval_fraction",
        "0",
    )
    assert "--dataset_name is missing" in stops(None, "--dataset_name", "")
    assert "no tokenizer" in stops(None, "--model_name_or_path", str(tmp_path))
    assert "no_such_flag" in stops(None, "--no_such_flag", "1")
    assert "no trained reward model" in stops(None, "--score", str(tmp_path / "bad.jsonl"))
    assert "no column 'completion'" in stops(None, "--demonstrations", str(tmp_path / "bad.jsonl"))


def test_labelers_agreement_and_labelers_never_trained_on(arguments, comparisons, tmp_path):
    train = [{**row, "labeler": "ann"} for row in comparisons[:8]]
    held = [{**row, "labeler": name} for row in comparisons[8:] for name in ("ann", "bob")]
    data = tmp_path / "labelled"
    data.mkdir()
    write_jsonl(data / "train.jsonl", train)
    write_jsonl(data / "validation.jsonl", held)
    cli([*arguments, "--dataset_name", str(data), "--num_train_epochs", "1"])
    metrics = metrics_of(tmp_path / "reward")
    assert metrics["agreement"] == {"rate": 1.0, "n_pairs": metrics["n_pairs"] // 2}
    assert metrics["held_out_labelers"]["labelers"] == ["bob"]
    assert metrics["held_out_labelers"]["n_pairs"] == metrics["n_pairs"] // 2


def test_score_writes_a_score_for_each_row(arguments, demonstrations, tmp_path):
    cli([*arguments, "--num_train_epochs", "1"])
    rows, scored = write_jsonl(tmp_path / "rows.jsonl", demonstrations), tmp_path / "scored.jsonl"
    cli(["--output_dir", str(tmp_path / "reward"), "--score", rows, "--score_output", str(scored)])
    got = [json.loads(line) for line in scored.read_text().splitlines()]
    reward = load_reward(str(tmp_path / "reward"))
    wanted = reward.score(
        [r["prompt"] for r in demonstrations], [r["completion"] for r in demonstrations]
    )
    assert [r["score"] for r in got] == pytest.approx(wanted, abs=1e-5)
    assert [{k: v for k, v in r.items() if k != "score"} for r in got] == demonstrations


def test_early_stopping_keeps_the_best_by_held_out_accuracy(arguments, tmp_path):
    cli([
        *arguments, "--learning_rate", "1e-9", "--num_train_epochs", "9",
        "--early_stopping_patience", "2",
    ])  # fmt: skip
    history = [e["eval_accuracy"] for e in history_of(tmp_path / "reward") if "eval_accuracy" in e]
    assert len(history) == 3  # accuracy cannot move: the first is the best, two more were allowed
    state = json.loads((tmp_path / "reward" / "trainer_state.json").read_text())
    assert (
        state["best_model_checkpoint"].endswith("checkpoint-3")
        and state["best_metric"] == history[0]
    )
    assert metrics_of(tmp_path / "reward")["accuracy"] == pytest.approx(history[0])


def test_stopped_and_run_again_it_ends_as_if_never_stopped(arguments, tmp_path):
    cli(arguments)
    out = tmp_path / "reward"
    whole = load_file(out / "adapter_model.safetensors")
    for name in ("finished.json", "adapter_model.safetensors", "checkpoint-12", "checkpoint-9"):
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    (out / "checkpoint-9").mkdir()  # killed while saving: no trainer_state.json
    cli(arguments)
    again = load_file(out / "adapter_model.safetensors")
    assert whole.keys() == again.keys() and all(
        torch.equal(whole[name], again[name]) for name in whole
    )


def test_killed_and_run_again_it_continues(arguments, tmp_path):
    """SIGKILL after the first whole checkpoint of a real `python -m recipes.reward`.

    The second run does not start over.
    """
    out, log = tmp_path / "reward", tmp_path / "log.txt"
    command = [
        sys.executable, "-m", "recipes.reward", *arguments, "--num_train_epochs", "400",
        "--save_total_limit", "2",
    ]  # fmt: skip
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        deadline = time.time() + 90
        while not any((p / "trainer_state.json").is_file() for p in out.glob("checkpoint-*")):
            assert process.poll() is None and time.time() < deadline, log.read_text()[-2000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "finished.json").exists()
    done = max(
        int(p.name[11:]) for p in out.glob("checkpoint-*") if (p / "trainer_state.json").is_file()
    )
    # with other epochs it is another run, unless nothing is recorded of the first
    (out / "run.json").unlink()
    cli([*arguments, "--num_train_epochs", str(done // 3 + 1)])
    steps = [e["step"] for e in history_of(out) if "loss" in e]
    assert (
        steps == list(range(1, done + 4)) and metrics_of(out)["n_pairs"] > 0
    )  # one history, no step twice


def test_masked_lm_backbone_becomes_a_reward_model(arguments, comparisons, tmp_path):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 512,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    make_tokenizer(CHATML).save_pretrained(tmp_path / "bert")
    cli([*arguments, "--model_name_or_path", str(tmp_path / "bert")])
    config = json.loads((tmp_path / "reward" / "adapter_config.json").read_text())
    assert "classifier" in config["modules_to_save"]
    reward = load_reward(str(tmp_path / "reward"))
    row = comparisons[2]
    good, bad = reward.score([row["prompt"]] * 2, [row["completions"][0], row["completions"][3]])
    assert good > bad


def test_new_head_has_the_papers_scale(tmp_path):
    from instruct.models import load_sequence_classifier
    from instruct.reward_heads import init_head

    path = save_model(tmp_path / "wide", hidden_size=256, head_dim=64)
    model = load_sequence_classifier(ModelConfig(model_name_or_path=path))
    init_head(model)
    assert model.score.weight.std().item() == pytest.approx(257**-0.5, rel=0.2)


def test_demo_yaml_parses():
    path = REPO / "recipes" / "configs" / "demo" / "reward.yaml"
    script, training, model = TrlParser(
        (ScriptArguments, RankedRewardConfig, ModelConfig)
    ).parse_args_and_config(["--config", str(path)])
    assert training.share_prompt == "auto" and model.use_peft and script.dataset_name


def test_other_peoples_classifier_scores(tiny_model, tmp_path, capsys):
    """It has no run.json and no finished.json; a run of ours without the second has not ended."""
    make_reward(tmp_path / "theirs", tiny_model)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "tea", "completion": "It is good."}])
    out = tmp_path / "scored.jsonl"
    flags = ["--output_dir", str(tmp_path / "theirs"), "--score", rows, "--score_output", str(out)]
    cli([*flags, "--dataset_name", rows, "--report_to", "none"])
    found = json.loads(out.read_text())["score"]
    (wanted,) = load_reward(str(tmp_path / "theirs")).score(["tea"], ["It is good."])
    assert found == pytest.approx(wanted, abs=1e-5)
    (tmp_path / "theirs" / "run.json").write_text('{"step": "reward"}')
    with pytest.raises(SystemExit):
        cli([*flags, "--dataset_name", rows, "--report_to", "none"])
    assert "no trained reward model there" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["nope", "gone.jsonl"])
def test_a_held_out_split_that_was_asked_for_has_to_be_there(arguments, split, capsys):
    with pytest.raises(SystemExit):
        cli([*arguments, "--dataset_test_split", split])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    told = "no such file" if split.endswith(".jsonl") else "--dataset_test_split FILE"
    assert split in error and told in error


def test_pairs_of_equal_texts_alone_teach_nothing(arguments, tmp_path, capsys):
    rows = [{"prompt": f"tea {n}?", "chosen": "Good.", "rejected": "Good."} for n in range(6)]
    file = write_jsonl(tmp_path / "equal.jsonl", rows)
    with pytest.raises(SystemExit):
        cli([*arguments, "--dataset_name", file])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no ranking that could be learned from: 6 in it, 6 whose completions" in error
