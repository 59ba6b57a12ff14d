"""What is trained and scored is the conversation as the template renders it, as TRL does it.

Families whose generation prompt is not all that stands before an assistant's words, beside those
whose is (turn_tools.py).
"""

import json

import pytest
from conftest import CHATML, make_tokenizer, save_model, write_jsonl
from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from turn_tools import FAMILIES, save_family

from instruct.errors import UserError
from instruct.models import load_reward
from instruct.tokens import (
    decode_completion,
    encode_answers,
    encode_completion,
    encode_pairs,
    encode_prompt,
    load_tokenizer,
    template_columns,
)
from instruct.trainers.ppo.batches import with_prompt_ids
from instruct.trainers.ranked_reward import encode_ranking
from instruct.turns import around_answer
from recipes import ppo, reward
from recipes.sft import tokenize

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# name -> (template, joint, eos, special tokens)
JOINTS = {
    "mistral": (MISTRAL, " ", "</s>", ["</s>", "[INST]", "[/INST]"]),
    "zephyr": (ZEPHYR, "\n", "</s>", ["</s>", "<|user|>", "<|assistant|>"]),
    "zephyr-in-words": (ZEPHYR, "\n", "</s>", ["</s>"]),
    "vicuna": (VICUNA, " ", "</s>", ["</s>"]),
    "harmony": (
        HARMONY, "<|channel|>final<|message|>", "<|return|>",
        ["<|return|>", "<|start|>", "<|end|>", "<|channel|>", "<|message|>"],
    ),
    "qwen3": (QWEN3, "<think>\n\n</think>\n\n", "<|im_end|>", ["<|im_end|>"]),
}  # fmt: skip
WITHOUT = {f"{f.name}, no joint": f for f in FAMILIES}


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def tokenizer_with(template, eos="<|im_end|>", special=()):
    tokenizer = make_tokenizer(template)
    tokenizer.add_tokens([token for token in special if token != eos], special_tokens=True)
    tokenizer.add_tokens([eos], special_tokens=True)
    tokenizer.eos_token = eos
    return tokenizer


def family(name):
    template, _, eos, special = JOINTS[name]
    return tokenizer_with(template, eos, special)


def save_base(folder, name):
    if name in WITHOUT:
        return save_family(folder, WITHOUT[name], None)
    tokenizer = family(name)
    return save_model(folder, tokenizer=tokenizer, vocab_size=len(tokenizer))


def by_trl(path, rows, out):
    """(ids, labels) of each row, as TRL's own trainer prepares them."""
    config = SFTConfig(str(out), report_to="none", use_cpu=True, bf16=False, max_length=None)
    tokenizer = load_tokenizer(path)
    trainer = SFTTrainer(path, config, train_dataset=Dataset.from_list(rows),
                         processing_class=tokenizer)  # fmt: skip
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


@pytest.mark.parametrize("name", [*JOINTS, *WITHOUT])
def test_sft_trains_what_trl_trains_up_to_the_end(tmp_path, name):
    path = save_base(tmp_path / "base", name)
    tokenizer = load_tokenizer(path)
    talk = [user("Hi"), said("Yo"), user("Bye")]
    rows = [
        {"prompt": prompt, "completion": [said(words)]}
        for prompt in ([user("What of tea?")], talk)
        for words in ("Hello", "I like tea.\nAnd chess.", "Hello ", "")
    ]
    ours = tokenize(Dataset.from_list(rows), tokenizer, None, "rows")
    theirs = by_trl(path, rows, tmp_path / "trl")
    for row, (ids, labels) in zip(ours, theirs, strict=True):
        count = len(row["input_ids"])
        assert row["input_ids"] == ids[:count]
        begins = row["completion_mask"].index(1)
        assert [label != -100 for label in labels[:count]] == list(
            map(bool, row["completion_mask"])
        )
        # the mask begins where sampling does, and all ends in the end of the turn
        assert ids[:begins] in [encode_prompt(tokenizer, r["prompt"]) for r in rows]
        assert row["input_ids"][-1] == tokenizer.eos_token_id
        beyond = tokenizer.decode(ids[count:])
        assert beyond.strip() in ("", tokenizer.eos_token, "<|endoftext|>")


@pytest.mark.parametrize("name", JOINTS)
def test_what_a_model_writes_with_its_joint_is_scored_as_the_ids_it_sampled(name):
    tokenizer, joint = family(name), JOINTS[name][1]
    assert around_answer(tokenizer).joint == joint
    prompt, (answer, begun) = encode_answers(tokenizer, "Hi", ["Hello you", "Hello"])
    assert tokenizer.decode(answer) == joint + "Hello you" + tokenizer.eos_token
    # back from ids to text and to ids
    assert decode_completion(tokenizer, answer, prompt) == "Hello you"
    assert encode_pairs(tokenizer, ["Hi"], ["Hello you"]) == [(prompt, answer)]
    # cut off, too
    assert decode_completion(tokenizer, begun[:-1], prompt) == "Hello"
    # a model that leaves the joint out is scored with it
    bare = encode_completion(tokenizer, "Hello you")
    assert decode_completion(tokenizer, bare, prompt) == "Hello you"


@pytest.mark.parametrize("name", JOINTS)
def test_a_begun_answer_is_continued_without_another_joint(name):
    tokenizer = family(name)
    prompt = [user("Hi"), said("Yo there")]
    whole = tokenizer.apply_chat_template([user("Hi"), said("Yo there my friend")], tokenize=False)
    asked, (answer,) = encode_answers(tokenizer, prompt, [" my friend"])
    assert asked == encode_prompt(tokenizer, prompt)
    assert whole.startswith(tokenizer.decode(asked + answer))
    assert tokenizer.decode(answer) == " my friend" + tokenizer.eos_token
    # Mistral's joint is a blank: here it is the answer's own
    assert decode_completion(tokenizer, answer, asked) == " my friend"


def test_arguments_of_the_template_decide_where_the_joint_stands():
    tokenizer, off = family("qwen3"), {"enable_thinking": False}
    asked, (answer,) = encode_answers(tokenizer, "Hi", ["Hello"], None, off)
    assert tokenizer.decode(asked).endswith("</think>\n\n")
    assert tokenizer.decode(answer) == "Hello<|im_end|>"
    plain, (longer,) = encode_answers(tokenizer, "Hi", ["Hello"])
    assert asked + answer == plain + longer
    # as text, as Parquet and CSV hold it
    assert encode_prompt(tokenizer, "Hi", None, json.dumps(off)) == asked
    for wrong, why in (("{", "no JSON"), ([1], "an object"), ({"tokenize": True}, "tokenize")):
        with pytest.raises(UserError, match=why):
            encode_prompt(tokenizer, "Hi", None, wrong)


def test_no_token_spans_prompt_and_completion():
    # of a trained vocabulary: two newlines are one token
    tokenizer = tokenizer_with(CHATML)
    tokenizer.add_tokens(["\n\n"])
    asked, (answer,) = encode_answers(tokenizer, "Hi", ["\nHello"])
    assert asked == encode_prompt(tokenizer, "Hi")
    assert tokenizer.decode(answer) == "\nHello<|im_end|>"


THOUGHT_PROMPT = CHATML.replace("assistant\n' }}", "assistant\n<think>' }}")


@pytest.mark.parametrize(
    "prompts", [[user("Hi")], [{"role": "system", "content": "x"}, user("Hi")]]
)
def test_where_no_conversation_begins_with_the_prompt_that_prompt_counts(prompts, capsys):
    # DeepSeek-R1's generation prompt opens a thought, its conversations have none
    tokenizer = tokenizer_with(THOUGHT_PROMPT)
    asked, (answer, _) = encode_answers(tokenizer, prompts, ["Hello", "Yo"])
    assert asked == encode_prompt(tokenizer, prompts)
    assert tokenizer.decode(answer) == "Hello<|im_end|>"
    assert capsys.readouterr().out.count("does not begin an answered conversation") == 1


def test_a_template_with_demands_and_one_that_leaves_answers_out():
    strict = "{{ raise_exception('a system message') if messages[0].role != 'system' }}" + ZEPHYR
    tokenizer = tokenizer_with(strict, "</s>")
    prompt = [{"role": "system", "content": "x"}, user("Hi")]
    asked, (answer,) = encode_answers(tokenizer, prompt, ["Hello"])
    assert tokenizer.decode(answer) == "\nHello</s>"
    assert decode_completion(tokenizer, answer, asked) == "Hello"
    deaf = tokenizer_with("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match="leaves out what the assistant says"):
        encode_answers(deaf, "Hi", ["Hello"])


################
# From reward training to PPO
################

TOOLS = "{% if tools %}{{ 'TOOLS ' + tools | tojson }}{% endif %}" + MISTRAL
TOOL = [{"type": "function", "function": {"name": "weather"}}]
QUIET = ["--report_to", "none", "--use_cpu", "True", "--disable_tqdm", "True"]


def test_columns_of_a_dataset_are_found(tmp_path):
    rows = Dataset.from_list([{"prompt": "Hi", "tools": TOOL}, {"prompt": "Yo", "tools": []}])
    assert list(template_columns(rows)) == ["tools"]
    tokenizer = tokenizer_with(TOOLS, "</s>")
    with_tools, without = with_prompt_ids(rows, tokenizer, 999, "p.jsonl")["prompt_ids"]
    assert "weather" in tokenizer.decode(with_tools)
    assert without == encode_prompt(tokenizer, "Yo")


def test_reward_scores_in_a_file_in_ppo_and_in_training_are_of_the_same_ids(tmp_path):
    tokenizer = tokenizer_with(TOOLS, "</s>", ["[INST]", "[/INST]"])
    base = save_model(tmp_path / "base", tokenizer=tokenizer, vocab_size=len(tokenizer))
    rows = [{"prompt": [user("Hi")], "chosen": "I like tea.", "rejected": "No.", "tools": TOOL}] * 2
    rm, prompts = str(tmp_path / "rm"), [{"prompt": [user(f"Hi {i}")], "tools": TOOL} for i in "ab"]
    reward.cli([
        "--model_name_or_path", base, "--dataset_name", write_jsonl(tmp_path / "r.jsonl", rows),
        "--output_dir", rm, "--eval_fraction", "0", "--max_steps", "2", "--learning_rate", "1e-2",
        *QUIET,
    ])  # fmt: skip
    model = load_reward(rm)
    # 1. as trained
    trained = encode_ranking(rows[0], model.tokenizer, "a row")
    by_ids = model.score_ids([trained["prompt_ids"] + ids for ids in trained["completion_ids"]])
    found = model.score([[user("Hi")]] * 2, ["I like tea.", "No."], tools=[TOOL] * 2)
    assert found == pytest.approx(by_ids)
    assert "[/INST] I like" in model.tokenizer.decode(
        trained["prompt_ids"] + trained["completion_ids"][0]
    )
    # 2. in PPO
    ppo.cli([
        "--model_name_or_path", base, "--dataset_name", write_jsonl(tmp_path / "p.jsonl", prompts),
        "--reward_model_path", rm, "--output_dir", str(tmp_path / "ppo"), "--total_episodes", "2",
        "--rollout_batch_size", "2", "--num_ppo_epochs", "1", "--sample_every", "1",
        "--per_device_train_batch_size", "2", "--response_length", "6", *QUIET,
    ])  # fmt: skip
    samples = list(map(json.loads, (tmp_path / "ppo" / "samples.jsonl").read_text().splitlines()))
    # 3. in a file
    scored, out = [{**row, "tools": TOOL} for row in samples], tmp_path / "scored.jsonl"
    columns = [{key: row[key] for key in ("prompt", "completion", "tools")} for row in scored]
    reward.cli([
        "--output_dir", rm, "--score", write_jsonl(tmp_path / "x.jsonl", columns),
        "--score_output", str(out), *QUIET,
    ])  # fmt: skip
    for row, line in zip(samples, out.read_text().splitlines(), strict=True):
        assert json.loads(line)["score"] == pytest.approx(row["rewards/reward_model"], abs=1e-4)
        # without its tools it would be another
        (bare,) = model.score([row["prompt"]], [row["completion"]])
        assert bare != pytest.approx(row["rewards/reward_model"], abs=1e-3)
