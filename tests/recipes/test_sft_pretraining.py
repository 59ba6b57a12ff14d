"""SFT with a share of pretraining text (InstructGPT, App. C.3) against a plain expectation."""

import json

import pytest
import torch
from conftest import write_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from instruct.tokens import encode_completion, encode_prompt, load_tokenizer
from recipes import sft
from recipes.sft import cli

TEXTS = [f"The tea and the rain, chapter {i}. " + "Stars and bread. " * (i % 5) for i in range(30)]


@pytest.fixture()
def arguments(tiny_model, demonstrations, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", demonstrations[:8])
    write_jsonl(data / "validation.jsonl", demonstrations[8:])
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    return [
        "--model_name_or_path", tiny_model, "--dataset_name", str(data),
        "--output_dir", str(tmp_path / "sft"), "--per_device_train_batch_size", "4",
        "--num_train_epochs", "1", "--learning_rate", "1e-2", "--report_to", "none",
        "--save_strategy", "no", "--use_cpu", "--logging_steps", "1", "--lora_dropout", "0",
        "--max_length", "48",
        "--pretraining_dataset", texts, "--pretraining_share", "0.2",
    ]  # fmt: skip


@pytest.fixture()
def seen(monkeypatch):
    """What the trainer is given."""
    found, init = {}, sft.SFTTrainer.__init__

    def spy(self, *args, **more):
        found.update(more)
        init(self, *args, **more)

    monkeypatch.setattr(sft.SFTTrainer, "__init__", spy)
    return found


def test_a_fifth_of_the_rows_are_texts_trained_whole(
    arguments, seen, tmp_path, tiny_model, demonstrations, capsys
):
    cli([*arguments, "--eval_strategy", "epoch"])
    assert "2 pretraining rows (20.0% of all) among 8 demonstrations" in capsys.readouterr().out
    record = json.loads((tmp_path / "sft" / "run.json").read_text())
    assert record["rows"] == {"demonstrations": 8, "pretraining": 2}
    assert record["data"]["pretraining_dataset"]["sha256"]
    tokenizer = load_tokenizer(tiny_model)
    eos = tokenizer.eos_token_id
    # the plain way: each text's own ids and its end, cut, and every token a target
    texts = {
        tuple((tokenizer(t, add_special_tokens=False)["input_ids"] + [eos])[:48]) for t in TEXTS
    }
    asked = {
        tuple(encode_prompt(tokenizer, d["prompt"]) + encode_completion(tokenizer, d["completion"]))
        for d in demonstrations
    }
    rows = seen["train_dataset"]
    kinds = ["text" if all(row["completion_mask"]) else "demonstration" for row in rows]
    assert sorted(kinds) == ["demonstration"] * 8 + ["text"] * 2
    for kind, row in zip(kinds, rows, strict=True):
        assert tuple(row["input_ids"]) in (texts if kind == "text" else asked)
        assert len(row["completion_mask"]) == len(row["input_ids"]) <= 48
    # evaluation is on demonstrations alone
    assert all(not all(row["completion_mask"]) for row in seen["eval_dataset"])
    assert len(seen["eval_dataset"]) == len(demonstrations) - 8


def test_the_loss_is_the_plain_one_over_both_kinds(arguments, seen, tmp_path, tiny_model):
    cli([*arguments, "--eval_strategy", "no", "--per_device_train_batch_size", "10"])
    state = json.loads((tmp_path / "sft" / "trainer_state.json").read_text())
    logged = next(line["loss"] for line in state["log_history"] if "loss" in line)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    total, count = 0.0, 0
    for row in seen["train_dataset"]:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logprobs = model(ids).logits.log_softmax(-1)[0]
        for i in range(1, ids.shape[1]):
            if row["completion_mask"][i]:
                total, count = total - logprobs[i - 1, ids[0, i]].item(), count + 1
    assert logged == pytest.approx(total / count, rel=1e-4)


def test_rows_are_the_same_by_seed_and_texts_repeat_only_when_all_were_drawn(
    arguments, seen, tmp_path, capsys
):
    found = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        flags = ["--output_dir", str(tmp_path / name), "--seed", seed, "--eval_strategy", "no"]
        cli([*arguments, *flags, "--pretraining_share", "0.85", "--max_steps", "1"])
        found.append(seen["train_dataset"]["input_ids"][:])
    assert found[0] == found[1] != found[2]
    # 8 / (1 - 0.85) * 0.85 = 45 of 30 texts
    assert "some more than once: there are 30 texts" in capsys.readouterr().out
    texts = [tuple(r) for r in found[0]]
    often = [texts.count(t) for t in set(texts)]
    assert len(texts) == 53 and max(often) == 2 and often.count(2) == 15


@pytest.mark.parametrize(
    "extra",
    [
        ["--train_sampling_strategy", "group_by_length"],
        ["--packing", "--max_length", "64"],
        ["--train_sampling_strategy", "sequential"],
    ],
    ids=["grouped", "packed", "sequential"],
)
def test_a_run_cut_off_ends_as_the_unbroken_one(arguments, tmp_path, extra):
    run = [*arguments, "--eval_strategy", "no", "--save_strategy", "steps", "--save_steps", "2"]
    run += ["--pretraining_share", "0.4", "--num_train_epochs", "2", *extra]
    cli(run)
    out = tmp_path / "sft"
    whole = load_file(out / "adapter_model.safetensors")
    for name in ("finished.json", "adapter_model.safetensors"):
        (out / name).unlink()
    last = max(out.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    (last / "adapter_model.safetensors").unlink()  # not whole: an earlier one is taken
    cli(run)
    again = load_file(out / "adapter_model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_what_cannot_be_is_one_sentence(arguments, tmp_path, capsys):
    def stops(*changes):
        with pytest.raises(SystemExit) as stop:
            cli([*arguments, "--eval_strategy", "no", *changes])
        assert stop.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    other = write_jsonl(tmp_path / "other.jsonl", [{"story": "Once."}])
    assert "no column 'text'" in stops("--pretraining_dataset", other)
    assert "gone.jsonl: no such file" in stops(
        "--pretraining_dataset", str(tmp_path / "gone.jsonl")
    )
    assert "--pretraining_share 1: must be" in stops("--pretraining_share", "1")
    assert "that is no row" in stops("--pretraining_share", "0.01")
    assert "has no residual dropout" in stops("--residual_dropout", "0.2")
    arguments[arguments.index("--pretraining_dataset") :] = ["--pretraining_share", "0.2"]
    assert "does nothing without --pretraining_dataset" in stops()
