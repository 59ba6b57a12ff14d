"""The two swaps people make first, by one flag each: another base model, one's own prompts."""

import csv

from conftest import save_model
from transformers import AutoConfig

from data_prep import prompts, sample
from instruct.files import load_rows
from recipes import ppo, sft

TINY = [
    "--report_to", "none", "--use_cpu", "--save_strategy", "no", "--eval_strategy", "no",
    "--disable_tqdm", "True",
]  # fmt: skip

PARCELS = (
    "ant bee cat dog elk fox gnu hen ibis jay kiwi lark "
    "mole newt owl pig quail rat seal toad urchin vole wasp yak"
).split()


def test_another_family_by_one_flag(tmp_path, demonstrations):
    from conftest import write_jsonl

    data = write_jsonl(tmp_path / "demonstrations.jsonl", demonstrations[:4])
    for kind in ("llama", "gpt2"):
        model = save_model(tmp_path / kind, kind)
        out = tmp_path / f"sft-{kind}"
        sft.cli([
            "--dataset_name", data, "--output_dir", str(out), "--max_steps", "1", *TINY,
            "--model_name_or_path", model,
        ])  # fmt: skip
        assert AutoConfig.from_pretrained(out / "merged").model_type == kind


def test_own_csv_of_prompts_through_cleaning_sampling_and_ppo(tmp_path, tiny_model, capsys):
    log = tmp_path / "my.csv"
    with log.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["customer", "question", "shop"])
        writer.writerows(
            [f"c{i % 20}", f"Where is parcel {w}, please?", "north"] for i, w in enumerate(PARCELS)
        )
        writer.writerow(["c0", "Where is parcel ant, please?", "south"])  # a duplicate
        writer.writerow(["c1", "", "south"])  # an empty prompt
    cleaned = tmp_path / "prompts"
    prompts.main([
        "--input", str(log), "--prompt_column", "question", "--user_column", "customer",
        "--output_dir", str(cleaned), "--splits", "train=0.6,validation=0.2,test=0.2",
    ])  # fmt: skip
    train = load_rows(cleaned, "train")
    assert set(train["shop"]) == {"north"} and all(
        p.startswith("Where is parcel") for p in train["prompt"]
    )
    kept = {
        split: load_rows(cleaned / f"{split}.parquet") for split in ("train", "validation", "test")
    }
    users = [set(rows["user_id"]) for rows in kept.values()]
    assert (
        sum(map(len, kept.values())) == 24
        and not users[0] & users[1] | users[0] & users[2] | users[1] & users[2]
    )

    sample.main([
        "--model_name_or_path", tiny_model, "--input", str(cleaned / "train.parquet"),
        "--num_outputs", "2", "--max_new_tokens", "4", "--limit", "3",
        "--output", str(tmp_path / "samples.jsonl"),
    ])  # fmt: skip
    samples = load_rows(tmp_path / "samples.jsonl")
    assert [len(c) for c in samples["completions"]] == [2, 2, 2]
    assert {row[0]["content"] for row in samples["prompt"]} <= set(train["prompt"])

    (tmp_path / "shop_reward.py").write_text(
        "def shorter(completions, shop, **_): return [-float(len(c)) for c in completions]\n"
    )
    import sys

    sys.path.insert(0, str(tmp_path))
    try:
        ppo.cli([
            "--model_name_or_path", tiny_model, "--dataset_name", str(cleaned),
            "--reward_funcs", "shop_reward:shorter", "--output_dir", str(tmp_path / "ppo"),
            "--response_length", "4", "--total_episodes", "4", "--rollout_batch_size", "4",
            "--per_device_train_batch_size", "2", "--num_ppo_epochs", "1", "--value_model", "head",
            *TINY,
        ])  # fmt: skip
    finally:
        sys.path.remove(str(tmp_path))
    assert (tmp_path / "ppo" / "adapter_model.safetensors").is_file()
