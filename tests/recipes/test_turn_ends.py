"""The end of an answer and the columns for the template, through the commands."""

import json
import shutil

import pytest
from command_tools import stops
from conftest import make_tokenizer, save_model, write_jsonl
from transformers import AutoTokenizer, GenerationConfig
from turn_tools import ANSWER, FAMILIES, save_family

from data_prep import sample
from instruct.arguments import ModelConfig
from instruct.errors import UserError
from instruct.models import load_causal_lm, load_policy, load_reward
from instruct.tokens import encode_prompt, load_tokenizer
from instruct.trainers.ranked_reward import encode_ranking
from instruct.trainers.shared_base import SharedBase
from instruct.turns import closing_token, turn_end
from recipes import chat, evaluate, ppo, reward, sft

QUIET = ["--report_to", "none", "--use_cpu", "--logging_steps", "1"]
FAMILY = {family.name: family for family in FAMILIES}


def run_sft(base: str, data: str, out, *more: str) -> None:
    sft.cli([
        "--model_name_or_path", base, "--dataset_name", data, "--output_dir", str(out),
        "--max_steps", "1", "--save_strategy", "no", *more, *QUIET,
    ])  # fmt: skip


@pytest.fixture()
def qwen(tmp_path):
    """A base whose eos ends texts, under a template that closes turns with another token."""
    tokenizer = make_tokenizer(pad_token="<|endoftext|>")
    tokenizer.eos_token = "<|endoftext|>"
    return save_model(tmp_path / "qwen", tokenizer=tokenizer, eos_token_id=0)


@pytest.mark.parametrize("more", [[], ["--use_peft", "False"], ["--eos_token", "<|im_end|>"]])
def test_sft_saves_every_end_for_plain_transformers(qwen, tmp_path, demonstrations, more):
    data = write_jsonl(tmp_path / "d.jsonl", demonstrations[:2])
    run_sft(qwen, data, tmp_path / "out", *more)
    for folder in (tmp_path / "out", tmp_path / "out" / "merged"):
        if folder.is_dir():
            assert GenerationConfig.from_pretrained(folder).eos_token_id == [2, 0]
            assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    _, tokenizer = load_policy(str(tmp_path / "out"))
    assert turn_end(tokenizer) == (2, (2, 0))


def test_eos_token_of_the_reward_step_is_what_is_scored_at(qwen, tmp_path, comparisons):
    data = write_jsonl(tmp_path / "c.jsonl", comparisons[:4])
    reward.cli([
        "--model_name_or_path", qwen, "--dataset_name", data, "--max_steps", "1",
        "--output_dir", str(tmp_path / "rm"), "--eval_fraction", "0",
        "--eos_token", "<|endoftext|>", *QUIET,
    ])  # fmt: skip
    assert turn_end(load_reward(str(tmp_path / "rm")).tokenizer).trained == 0


def test_an_end_that_was_trained_stays_whatever_the_template_says_now(qwen, tmp_path, comparisons):
    """Earlier versions took the tokenizer's eos and recorded none: their folders score as ever."""
    data = write_jsonl(tmp_path / "c.jsonl", comparisons[:4])
    out = tmp_path / "rm"
    reward.cli([
        "--model_name_or_path", qwen, "--dataset_name", data, "--max_steps", "1",
        "--output_dir", str(out), "--eval_fraction", "0", *QUIET,
    ])  # fmt: skip
    head = json.loads((out / "reward_head.json").read_text())
    assert head["end_of_turn"] == "<|im_end|>"
    assert json.loads((out / "run.json").read_text())["end_of_turn"] == "<|im_end|>"

    def ends(head: dict | None, saved: str) -> list[int]:
        tokenizer = make_tokenizer(pad_token="<|endoftext|>")
        tokenizer.eos_token = saved
        tokenizer.save_pretrained(out)
        (out / "reward_head.json").unlink(missing_ok=True)
        if head is not None:
            (out / "reward_head.json").write_text(json.dumps(head))
        shared = SharedBase(load_causal_lm(ModelConfig(model_name_or_path=qwen)), None, str(out))
        tokenizers = (load_reward(str(out)).tokenizer, shared.reward_tokenizer)
        return [turn_end(tokenizer).trained for tokenizer in tokenizers]

    older = {name: value for name, value in head.items() if name != "end_of_turn"}
    assert ends(older, "<|endoftext|>") == [0, 0]
    assert ends(older, "<|im_end|>") == [2, 2]
    assert ends(head, "<|endoftext|>") == [2, 2]
    assert ends(head | {"end_of_turn": "<|endoftext|>"}, "<|im_end|>") == [0, 0]
    # of other authors
    assert ends(None, "<|endoftext|>") == [2, 2]
    with pytest.raises(UserError, match="reward_head.json.*end_of_turn 3"):
        ends(head | {"end_of_turn": 3}, "<|im_end|>")


def test_a_run_is_not_trained_half_on_one_end_and_half_on_another(
    qwen, tmp_path, demonstrations, capsys
):
    """An unfinished run of a version that took the tokenizer's eos."""
    data, out = write_jsonl(tmp_path / "d.jsonl", demonstrations[:4]), tmp_path / "out"
    argv = [
        "--model_name_or_path", qwen, "--dataset_name", data, "--output_dir", str(out),
        "--per_device_train_batch_size", "1", "--max_steps", "2", "--save_steps", "1", *QUIET,
    ]  # fmt: skip
    sft.cli(argv)
    shutil.rmtree(out / "checkpoint-2")
    (out / "finished.json").unlink()
    config = out / "checkpoint-1" / "tokenizer_config.json"
    theirs = json.loads(config.read_text())
    for was in ("<|endoftext|>", {"content": "<|endoftext|>"}):
        config.write_text(json.dumps(theirs | {"eos_token": was}))
        # as an earlier version left it: it kept no list of files
        (out / "checkpoint-1" / "files.json").unlink(missing_ok=True)
        (out / "checkpoint-1" / "carried.json").unlink(missing_ok=True)
        error = stops(sft.cli, argv, capsys)
        assert "end answers in <|endoftext|>, and they end in <|im_end|> now" in error
    config.write_text(json.dumps(theirs))
    sft.cli(argv)
    assert (out / "finished.json").is_file()


def test_answers_and_samples_with_other_ends_are_not_taken_for_these(
    qwen, tmp_path, capsys, monkeypatch
):
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "What of tea?", "id": "a"}])
    argv = [
        "--models", f"m={qwen}", "--input", prompts, "--output_dir", str(tmp_path / "e"),
        "--max_new_tokens", "4",
    ]  # fmt: skip
    key = tmp_path / "e" / "answers" / "m.jsonl"
    keys = []
    for closing in (closing_token, closing_token, lambda tokenizer: None):
        monkeypatch.setattr("instruct.turns.closing_token", closing)
        evaluate.main(argv)
        keys.append(json.loads(key.read_text().splitlines()[0])["asked"])
    assert keys[0] == keys[1] != keys[2]

    monkeypatch.undo()
    out = tmp_path / "s.jsonl"
    argv = [
        "--model_name_or_path", qwen, "--input", prompts, "--output", str(out),
        "--num_outputs", "2", "--max_new_tokens", "4",
    ]  # fmt: skip
    sample.main(argv)
    settings = json.loads((tmp_path / "s.jsonl.run").read_text())
    assert settings["ends"] == [["<|im_end|>", "<|endoftext|>"]]
    out.unlink()
    for name in ("step", "versions"):
        del settings[name]
    partial = tmp_path / "s.jsonl.partial"
    partial.write_text(json.dumps(settings | {"ends": [["<|endoftext|>"]]}) + "\n")
    assert "earlier version) has finished so far" in stops(sample.main, argv, capsys)
    partial.write_text(json.dumps(settings) + "\n")
    sample.main(argv)


@pytest.mark.parametrize("end", ["<end_of_turn>", "<eos>"])
def test_ppo_sampling_evaluation_and_chat_stop_at_every_end(tmp_path, end, capsys):
    model = save_family(tmp_path / "gemma", FAMILY["gemma"], end)
    rows = [{"prompt": f"{question} of tea?", "id": question} for question in ("What", "Why")]
    prompts = write_jsonl(tmp_path / "p.jsonl", rows)

    ppo.cli([
        "--model_name_or_path", model, "--dataset_name", prompts, "--lora_r", "2",
        "--output_dir", str(tmp_path / "ppo"), "--reward_funcs", "data_prep.label:scripted_reward",
        "--total_episodes", "2", "--rollout_batch_size", "2", "--num_ppo_epochs", "1",
        "--per_device_train_batch_size", "2", "--response_length", "24", "--temperature", "0.01",
        "--missing_eos_penalty", "5", "--sample_every", "1", "--learning_rate", "0", *QUIET,
    ])  # fmt: skip
    lines = (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()
    assert {(r["completion"], r["ended"]) for r in map(json.loads, lines)} == {(ANSWER, True)}
    log = json.loads((tmp_path / "ppo" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["objective/eos_rate"] == 1
    # beside the adapter, for who samples from it without this repo
    saved = GenerationConfig.from_pretrained(tmp_path / "ppo")
    assert len(saved.eos_token_id) == 2

    samples = tmp_path / "s.jsonl"
    sample.main([
        "--model_name_or_path", model, "--input", prompts, "--output", str(samples),
        "--num_outputs", "2", "--temperature", "0", "--max_new_tokens", "24",
    ])  # fmt: skip
    for line in samples.read_text().splitlines():
        assert json.loads(line)["completions"] == [ANSWER] * 2

    evaluate.main([
        "--models", f"it={model}", "--input", prompts, "--output_dir", str(tmp_path / "e"),
        "--max_new_tokens", "24", "--temperature", "0",
    ])  # fmt: skip
    lines = (tmp_path / "e" / "answers.jsonl").read_text().splitlines()
    assert {(r["completion"], r["ended"]) for r in map(json.loads, lines)} == {(ANSWER, True)}

    capsys.readouterr()
    chat.main(["--models", f"it={model}", "--prompt", "What of tea?", "--temperature", "0"])
    assert capsys.readouterr().out.strip().endswith(ANSWER)


# ---- columns for the template --------------------------------------------------------------------

TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% if mood is defined %}{{ mood }}: {% endif %}" + make_tokenizer().chat_template
)
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather of a place."}}
COLUMNS = {"tools": [TOOL], "chat_template_kwargs": {"mood": "kindly"}}
ROW = {"prompt": [{"role": "user", "content": "Weather in Rome?"}], **COLUMNS}


@pytest.fixture()
def with_tools(tmp_path):
    return save_model(tmp_path / "tools", tokenizer=make_tokenizer(TEMPLATE))


def test_tools_and_template_arguments_reach_every_step(with_tools, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(with_tools)
    wanted = encode_prompt(tokenizer, **ROW)
    assert "weather" in tokenizer.decode(wanted) and "kindly" in tokenizer.decode(wanted)

    # 1. SFT
    seen = {}
    rows = [{**ROW, "completion": [{"role": "assistant", "content": "Sunny."}]}] * 2
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    init = sft.SFTTrainer.__init__

    def spy(self, *args, **kwargs):
        seen["sft"] = kwargs["train_dataset"][0]["input_ids"]
        init(self, *args, **kwargs)

    monkeypatch.setattr(sft.SFTTrainer, "__init__", spy)
    run_sft(with_tools, data, tmp_path / "sft")
    assert seen["sft"][: len(wanted)] == wanted

    # 2. Samples, and with them rankings
    prompts = write_jsonl(tmp_path / "p.jsonl", [{**ROW, "id": "a"}, {**ROW, "id": "b"}])
    samples = tmp_path / "s.jsonl"
    sample.main([
        "--model_name_or_path", with_tools, "--input", prompts, "--output", str(samples),
        "--num_outputs", "2", "--max_new_tokens", "4",
    ])  # fmt: skip
    drawn = json.loads(samples.read_text().splitlines()[0])
    assert {key: drawn[key] for key in COLUMNS} == COLUMNS
    ranked = encode_ranking({**drawn, "ranks": [1, 2]}, tokenizer, "a row")
    assert ranked["prompt_ids"] == wanted

    # 3. Reward, and the same score in PPO, by the adapter on the shared base
    pairs = write_jsonl(tmp_path / "r.jsonl", [{**drawn, "ranks": [1, 2]}] * 2)
    reward.cli([
        "--model_name_or_path", with_tools, "--dataset_name", pairs, "--max_steps", "2",
        "--output_dir", str(tmp_path / "rm"), "--eval_fraction", "0", "--learning_rate", "1e-2",
        *QUIET,
    ])  # fmt: skip
    ppo.cli([
        "--model_name_or_path", with_tools, "--dataset_name", prompts,
        "--reward_model_path", str(tmp_path / "rm"), "--output_dir", str(tmp_path / "ppo"),
        "--total_episodes", "2", "--rollout_batch_size", "2", "--num_ppo_epochs", "1",
        "--per_device_train_batch_size", "2", "--response_length", "6", "--sample_every", "1",
        *QUIET,
    ])  # fmt: skip
    model = load_reward(str(tmp_path / "rm"))
    for line in (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        asked, columns = [ROW["prompt"]], {key: [value] for key, value in COLUMNS.items()}
        (score,) = model.score(asked, [row["completion"]], **columns)
        assert row["rewards/reward_model"] == pytest.approx(score, abs=1e-4)
        assert model.score(asked, [row["completion"]]) != pytest.approx([score], abs=1e-6)

    # 4. Evaluation
    (kept,), _ = evaluate.held_out_prompts(prompts, 1, 0)
    assert encode_prompt(tokenizer, **{k: kept[k] for k in ROW}) == wanted
