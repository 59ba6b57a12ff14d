"""RankedRewardTrainer against plain loops: losses, gradients, prompt sharing, processes."""

import random
import subprocess
import sys
from functools import wraps
from pathlib import Path

import pytest
import torch
from conftest import SCRIPT_ENV, make_model, make_tokenizer
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig, RewardTrainer

from instruct.errors import UserError
from instruct.evaluation.ranking_metrics import PAD
from instruct.prompt_cache import cache_argument
from instruct.trainers.ranked_reward import RankedRewardConfig, RankedRewardTrainer, ranking_losses

# A sliding window of 8 is shorter than the rows.
KINDS = {
    "llama": {},
    "qwen2": {},
    "gpt2": {},
    "gpt_neox": {},
    "gemma2": {"sliding_window": 8},
    "mistral": {"sliding_window": 8},
}


def make_classifier(kind: str = "llama", **changes):
    # weights large enough that attention is far from uniform and a wrong mask or position shows
    config = make_model(kind, **{"initializer_range": 0.2, **KINDS.get(kind, {}), **changes}).config
    config.num_labels = 1
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_config(config)


def make_rankings(
    seed: int = 0, n: int = 4, longest_prompt: int = 20, largest: int = 9
) -> list[dict]:
    """Tokenised rankings of random K, lengths and ties.

    The last one is all tied, so it must contribute nothing.
    """
    draw = random.Random(seed)

    def ids(longest: int) -> list[int]:
        return [draw.randrange(3, 512) for _ in range(draw.randint(1, longest))]

    rankings = []
    for i in range(n):
        k = draw.randint(2, largest)
        ranks = [draw.randint(1, k) for _ in range(k)]
        ranks = [1] * k if i == n - 1 else [1, 2, *ranks[2:]]
        row = {
            "prompt_ids": ids(longest_prompt),
            "completion_ids": [[*ids(12), 2] for _ in range(k)],
            "ranks": ranks,
        }
        rankings.append(row | {"prompt_key": i, "labeler_key": -1, "length": 0})
    return rankings


def make_trainer(folder, model, rankings, **changes) -> RankedRewardTrainer:
    args = {
        "per_device_train_batch_size": len(rankings),
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0,
        "max_steps": 1,
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    args = RankedRewardConfig(output_dir=str(folder), **{**args, **changes})
    return RankedRewardTrainer(
        model, args, train_dataset=Dataset.from_list(rankings), processing_class=make_tokenizer()
    )


def step_gradients(trainer) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step of a real `train()`, as the optimiser gets them."""
    caught = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            model = getattr(model, "module", model)
            caught.update(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )

    trainer.add_callback(Catch())
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry), caught


def plain_gradients(model, rankings, center=None) -> tuple[float, dict[str, torch.Tensor]]:
    """The paper's loss, pair by pair.

    Each output in a forward pass of its own, nothing padded, nothing cached.
    """
    model.eval().zero_grad()  # the trainer turns dropout off
    body = getattr(model, model.base_model_prefix)

    def score(prompt, completion):
        return model.score(
            body(torch.tensor([prompt + completion]), use_cache=False).last_hidden_state[0, -1]
        )[0]

    losses = []
    for row in rankings:
        pairs = [
            (w, b)
            for w in range(len(row["ranks"]))
            for b in range(len(row["ranks"]))
            if row["ranks"][w] < row["ranks"][b]
        ]
        terms = []
        for w, b in pairs:
            r_w, r_b = (score(row["prompt_ids"], row["completion_ids"][i]) for i in (w, b))
            terms.append(
                -logsigmoid(r_w - r_b) + (0 if center is None else center * (r_w + r_b) ** 2)
            )
        if terms:
            losses.append(sum(terms) / len(terms))
    loss = sum(losses) / len(losses)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(ours: dict, theirs: dict, rel: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    scale = max(g.norm().item() for g in theirs.values())
    assert scale > 1e-2
    for name, expected in theirs.items():
        error = (ours[name] - expected).norm().item()
        assert error <= rel * expected.norm().item() + 1e-6 * scale, (
            f"{name}: {error} of {expected.norm().item()}"
        )


@pytest.mark.parametrize("share_prompt", ["cache", "rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_every_gradient_equal_the_plain_loop(kind, share_prompt, tmp_path):
    model, rankings = make_classifier(kind), make_rankings(seed=len(kind))
    expected_loss, expected = plain_gradients(model, rankings, center=0.05)
    trainer = make_trainer(
        tmp_path, model, rankings, share_prompt=share_prompt, center_rewards_coefficient=0.05
    )
    assert trainer.share_prompt == (share_prompt == "cache")
    loss, gradients = step_gradients(trainer)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert_same_gradients(gradients, expected)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_lora_gradients_and_what_moves(kind, tmp_path):
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        task_type="SEQ_CLS", target_modules="all-linear", r=4, init_lora_weights=False
    )
    model = get_peft_model(make_classifier(kind), lora)
    rankings = make_rankings(seed=3, largest=4)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("score" in n for n in trainable) and any("lora" in n for n in trainable)
    _, expected = plain_gradients_of_peft(model, rankings)
    trainer = make_trainer(tmp_path, model, rankings)
    assert trainer.share_prompt  # auto
    _, gradients = step_gradients(trainer)
    assert_same_gradients(gradients, expected)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trainable


def plain_gradients_of_peft(model, rankings):
    inner = model.get_base_model()
    loss, _ = plain_gradients(inner, rankings)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return loss, gradients


def test_each_prompt_is_computed_once(tmp_path):
    model, rankings = make_classifier(), make_rankings(seed=5, n=3)
    seen = []
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, out: seen.append(args[0].shape)
    )
    trainer = make_trainer(tmp_path, model, rankings)
    seen.clear()
    step_gradients(trainer)
    n_completions = sum(len(r["ranks"]) for r in rankings)
    longest = max(len(c) for r in rankings for c in r["completion_ids"])
    assert seen == [(3, max(len(r["prompt_ids"]) for r in rankings)), (n_completions, longest)]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_gradient_accumulation_is_the_mean_over_all_rankings(batch_size, tmp_path):
    """Not the mean of micro-batches' means: they hold unequal numbers of strict rankings."""
    rankings = make_rankings(seed=7)
    _, expected = plain_gradients(make_classifier(), rankings)
    changes = {
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": 4 // batch_size,
    }
    _, gradients = step_gradients(make_trainer(tmp_path, make_classifier(), rankings, **changes))
    assert_same_gradients(gradients, expected)


TWO_PROCESSES = """
import sys
sys.path.insert(0, {tests!r})
import torch
from test_ranked_reward import make_classifier, make_rankings, make_trainer, step_gradients
from instruct.runs import end_process_group
rankings = make_rankings(seed=7)
trainer = make_trainer({folder!r}, make_classifier(), rankings, per_device_train_batch_size={batch})
assert trainer.args.world_size == 2, trainer.args.world_size
loss, gradients = step_gradients(trainer)
if trainer.is_world_process_zero():
    torch.save({{"loss": loss, "gradients": gradients}}, {folder!r} + "/gradients.pt")
end_process_group()
"""


def test_two_processes_give_the_gradients_of_one(tmp_path):
    expected_loss, expected = plain_gradients(make_classifier(), make_rankings(seed=7))
    script = tmp_path / "step.py"
    script.write_text(
        TWO_PROCESSES.format(tests=str(Path(__file__).parent), folder=str(tmp_path), batch=2)
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc_per_node", "2", str(script),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=SCRIPT_ENV)
    assert done.returncode == 0, done.stderr[-2000:]
    got = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert got["loss"] == pytest.approx(expected_loss, rel=1e-4)
    assert_same_gradients(got["gradients"], expected)


def test_k2_is_trls_own_loss(tmp_path):
    """Same ids through TRL's RewardTrainer: loss with center_rewards_coefficient, and gradients."""
    rankings = [
        r | {"ranks": [1, 2], "completion_ids": r["completion_ids"][:2]}
        for r in make_rankings(seed=2, n=3)
    ]
    pairs = [
        {
            "chosen_ids": r["prompt_ids"] + r["completion_ids"][0],
            "rejected_ids": r["prompt_ids"] + r["completion_ids"][1],
        }
        for r in rankings
    ]
    args = RewardConfig(
        str(tmp_path / "trl"),
        center_rewards_coefficient=0.1,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        per_device_train_batch_size=3,
        report_to="none",
        save_strategy="no",
        max_grad_norm=0,
        max_steps=1,
        disable_tqdm=True,
        logging_steps=1,
    )
    trl = RewardTrainer(
        make_classifier(),
        args,
        train_dataset=Dataset.from_list(pairs),
        processing_class=make_tokenizer(),
    )
    trl_loss, expected = step_gradients(trl)
    ours = make_trainer(tmp_path, make_classifier(), rankings, center_rewards_coefficient=0.1)
    loss, gradients = step_gradients(ours)
    assert loss == pytest.approx(trl_loss, rel=1e-4)
    assert_same_gradients(gradients, expected)


@pytest.mark.parametrize("share_prompt", ["cache", "rows"])
def test_scored_at_eos_when_pad_is_eos(share_prompt, tmp_path):
    rankings = make_rankings(seed=4)
    _, expected = plain_gradients(make_classifier(), rankings)
    trainer = make_trainer(tmp_path, make_classifier(), rankings, share_prompt=share_prompt)
    trainer.data_collator.pad_token_id = trainer.processing_class.eos_token_id
    assert_same_gradients(step_gradients(trainer)[1], expected)


def test_losses_are_finite_for_extreme_scores_and_all_ties():
    scores = torch.tensor([[1e4, -1e4, 0.0], [3.0, 2.0, 0.0]], requires_grad=True)
    losses, n_pairs = ranking_losses(scores, torch.tensor([[2, 1, PAD], [1, 1, PAD]]))
    losses.sum().backward()
    assert n_pairs.tolist() == [1, 0] and losses.tolist() == [2e4, 0.0]
    assert scores.grad.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


def make_bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=512,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            num_labels=1,
            initializer_range=0.2,
        )
    )


def make_jamba():
    return make_classifier(
        "jamba",
        num_experts=2,
        mamba_d_state=4,
        mamba_d_conv=2,
        attn_layer_period=2,
        attn_layer_offset=1,
    )


@pytest.mark.parametrize(
    ("make", "changes", "reason"),
    [
        (make_bert, {}, "encoder"),
        (make_jamba, {}, "no key-value cache"),
        (make_classifier, {"activation_checkpointing": True}, "activation checkpointing"),
    ],
)
def test_rows_where_the_cache_is_ruled_out_said_once(make, changes, reason, tmp_path, caplog):
    rankings = make_rankings(seed=6)
    trainer = make_trainer(tmp_path, make(), rankings, **changes)
    assert not trainer.share_prompt
    (said,) = [m for m in caplog.messages if "share_prompt" in m]
    assert "rows" in said and reason in said
    loss, gradients = step_gradients(trainer)
    assert loss > 0 and all(g.isfinite().all() for g in gradients.values())
    with pytest.raises(UserError, match="share_prompt cache is not possible"):
        make_trainer(tmp_path, make(), rankings, share_prompt="cache", **changes)


def test_a_model_that_scores_differently_from_a_cache_gets_rows(tmp_path, monkeypatch, caplog):
    """The check is a measurement: positions that start again at 0 after the cache do not pass."""
    model = make_classifier("gpt2")
    forward = model.transformer.forward

    cache = cache_argument(model.transformer)

    @wraps(forward)  # with its signature, by which the trainer asks for a cache
    def broken(*args, position_ids=None, **kwargs):
        if kwargs.get(cache) is not None:
            position_ids = position_ids - position_ids.min()
        return forward(*args, position_ids=position_ids, **kwargs)

    model.transformer.forward = broken
    assert not make_trainer(tmp_path, model, make_rankings()).share_prompt
    assert "scores a completion differently" in caplog.text


def test_encoder_gradients_equal_the_plain_loop(tmp_path):
    rankings = make_rankings(seed=8, largest=4)
    model = make_bert().eval()  # the trainer turns dropout off
    losses = []
    for row in rankings:
        scores = [
            model(torch.tensor([row["prompt_ids"] + c])).logits[0, 0] for c in row["completion_ids"]
        ]
        terms = [
            -logsigmoid(scores[w] - scores[b])
            for w in range(len(scores))
            for b in range(len(scores))
            if row["ranks"][w] < row["ranks"][b]
        ]
        losses += [sum(terms) / len(terms)] if terms else []
    (sum(losses) / len(losses)).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    _, gradients = step_gradients(make_trainer(tmp_path, make_bert(), rankings))
    assert_same_gradients(gradients, expected)


def test_similar_lengths_share_a_batch(tmp_path):
    rankings = [{**r, "length": 1 + i % 2 * 100} for i, r in enumerate(make_rankings(n=64))]
    assert (
        RankedRewardConfig(str(tmp_path), report_to="none").train_sampling_strategy
        == "group_by_length"
    )
    changes = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2}
    order = list(
        make_trainer(tmp_path, make_classifier(), rankings, **changes)._get_train_sampler()
    )
    mixed = sum(
        rankings[a]["length"] != rankings[b]["length"]
        for a, b in zip(order[::2], order[1::2], strict=True)
    )
    assert sorted(order) == list(range(64)) and mixed <= 5  # by chance: 16


def test_ids_in_the_data_are_not_taken_for_the_completions(tiny_model, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    rows = [{"prompt": "Hi", "completions": ["Yes", "No"], "ranks": [1, 2]}] * 2
    pairs = [{"prompt": "Hi", "chosen": "Yes", "rejected": "No"}] * 2
    own = {"completion_ids": [[7], [7]], "prompt_ids": [7]}
    for kind in (rows, pairs):
        (plain, given) = (
            make_trainer(tmp_path, model, [row | more for row in kind]).train_dataset[0]
            for more in ({}, own)
        )
        assert given["completion_ids"] == plain["completion_ids"] != own["completion_ids"]
        assert given["prompt_ids"] == plain["prompt_ids"]
