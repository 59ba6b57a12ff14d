"""PPO on one shared base: the arithmetic against loops, the roles, the rewards, the recipe from flags to files."""

import collections
import contextlib
import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPO, make_tokenizer, save_model, write_jsonl
from peft import LoraConfig, PeftModel, get_peft_model
from ppo_tools import PROMPTS, fixed_sample, flags, make_reward, make_setup, make_trainer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from trl.trainer.base_trainer import _BaseTrainer

from instruct.arguments import ModelConfig, parse
from instruct.files import UserError
from instruct.models import load_causal_lm, load_reward
from instruct.runs import whole_checkpoints
from instruct.tokens import encode_prompt, load_tokenizer
from instruct.trainers.fused_lora import FusedLinear, fuse_lora
from instruct.trainers.ppo import math as ppo_math
from instruct.trainers.ppo.batches import RolloutSampler
from instruct.trainers.ppo.config import SharedBasePPOConfig
from recipes.ppo import ScriptArguments, cli


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


# ---- the arithmetic -------------------------------------------------------------------------------------------------


def random_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1, 5, 3, 5])
    mask = torch.arange(5) < lengths[:, None]
    rewards, values = (
        torch.randn(4, 5, generator=generator) * mask,
        torch.randn(4, 5, generator=generator) * mask,
    )
    return rewards, values, mask, lengths


def test_gae_is_the_sum_of_its_definition():
    rewards, values, mask, lengths = random_batch()
    advantages, returns = ppo_math.gae(rewards, values, mask, 0.9, 0.8)
    for i, n in enumerate(lengths.tolist()):
        for t in range(5):
            expected = 0.0
            for k in range(t, n):
                following = values[i, k + 1].item() if k + 1 < n else 0.0
                expected += (0.9 * 0.8) ** (k - t) * (
                    rewards[i, k].item() + 0.9 * following - values[i, k].item()
                )
            assert advantages[i, t].item() == pytest.approx(expected, abs=1e-5)
            assert returns[i, t].item() == pytest.approx(
                expected + (values[i, t].item() if t < n else 0.0), abs=1e-5
            )


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_is_a_loop_over_real_tokens(shift_mean):
    values, _, mask, _ = random_batch()
    values = values + 3
    real = [v.item() for v, m in zip(values.flatten(), mask.flatten(), strict=True) if m]
    mean = sum(real) / len(real)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in real) / (len(real) - 1))
    found = ppo_math.whiten(values, mask, shift_mean)[mask].tolist()
    assert found == pytest.approx(
        [(v - mean) / deviation + (0 if shift_mean else mean) for v in real], abs=1e-4
    )
    assert (ppo_math.whiten(values, mask, shift_mean)[~mask] == 0).all()


def test_whitening_in_two_halves_is_whitening_the_whole():
    """Each process has half the rows; `reduce` stands for the sum over processes."""
    values, _, mask, _ = random_batch()
    halves = [(values[:2], mask[:2]), (values[2:], mask[2:])]
    mean = values[mask].mean()
    sums = [torch.stack([(v * m).sum(), m.sum().float()]) for v, m in halves]
    for k, (v, m) in enumerate(halves):
        answers = iter((sums[1 - k], (((halves[1 - k][0] - mean) * halves[1 - k][1]) ** 2).sum()))
        found = ppo_math.whiten(v, m, reduce=lambda mine, answers=answers: mine + next(answers))
        rows = slice(0, 2) if k == 0 else slice(2, 4)
        assert torch.allclose(found, ppo_math.whiten(values, mask)[rows], atol=1e-5)


def test_score_sits_on_the_last_real_token_and_kl_on_all():
    _, _, mask, lengths = random_batch()
    kl, scores = torch.full((4, 5), 2.0), torch.tensor([10.0, 20, 30, 40])
    rewards = ppo_math.token_rewards(scores, kl, 0.1, lengths, mask)
    for i, n in enumerate(lengths.tolist()):
        assert rewards[i].tolist() == pytest.approx(
            [-0.2] * (n - 1) + [-0.2 + scores[i].item()] + [0.0] * (5 - n)
        )


def test_kl_estimators_agree_with_the_exact_kl():
    torch.manual_seed(0)
    p, q = torch.randn(6).log_softmax(-1), torch.randn(6).log_softmax(-1)
    tokens = torch.multinomial(p.exp(), 200_000, replacement=True)
    exact = (p.exp() * (p - q)).sum().item()
    for estimator in ("k1", "k3"):
        samples = ppo_math.token_kl(p[tokens], q[tokens], estimator)
        assert samples.mean().item() == pytest.approx(exact, rel=0.03)
        assert (samples >= 0).all() == (estimator == "k3")


def test_losses_against_scalars():
    new, old = torch.tensor([0.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 0.0])
    loss, clipped = ppo_math.policy_losses(new, old, torch.tensor([1.0, -2.0, -1.0]), 0.2)
    assert loss.tolist() == pytest.approx([-1.2, 2.0, 0.8]) and clipped.tolist() == [
        True,
        False,
        True,
    ]
    loss, clipped = ppo_math.value_losses(
        torch.tensor([2.0, 0.1]), torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2
    )
    assert loss.tolist() == pytest.approx([0.5, 0.405]) and clipped.tolist() == [False, False]
    loss, clipped = ppo_math.value_losses(
        torch.tensor([1.0]), torch.zeros(1), torch.tensor([1.0]), 0.2
    )
    assert loss.tolist() == pytest.approx([0.32]) and clipped.tolist() == [True]


def test_adaptive_coefficient_moves_towards_the_target_by_at_most_a_fifth():
    assert ppo_math.next_kl_coef(
        0.1, kl=12.0, target=10.0, episodes=100, horizon=1000
    ) == pytest.approx(0.1 * 1.02)
    assert ppo_math.next_kl_coef(
        0.1, kl=11.0, target=10.0, episodes=100, horizon=1000
    ) == pytest.approx(0.1 * 1.01)
    assert ppo_math.next_kl_coef(
        0.1, kl=0.0, target=10.0, episodes=100, horizon=1000
    ) == pytest.approx(0.1 * 0.98)


def test_sampler_sees_every_prompt_before_any_twice_and_repeats_each_rollout():
    order = list(RolloutSampler(prompts=5, rollout=4, rollouts=5, repeats=3, seed=0))
    assert len(order) == len(RolloutSampler(5, 4, 5, 3, 0)) == 60
    rollouts = [order[i : i + 4] for i in range(0, 60, 12)]
    assert order == [i for r in rollouts for i in r * 3]
    seen = [i for r in rollouts for i in r]
    assert all(sorted(seen[k : k + 5]) == [0, 1, 2, 3, 4] for k in range(0, 20, 5))


def test_batch_arithmetic(setup, tmp_path, capsys):
    trainer = make_trainer(
        setup,
        tmp_path,
        rollout_batch_size=24,
        num_mini_batches=2,
        num_ppo_epochs=3,
        total_episodes=50,
        save_steps=7,
    )
    args, plan = trainer.args, trainer.batches
    assert (args.gradient_accumulation_steps, plan.mini_batch_size, plan.rollout_size) == (
        3,
        12,
        24,
    )
    assert (plan.steps_per_rollout, plan.num_rollouts) == (6, 3)
    assert (
        (args.max_steps, args.total_episodes) == (18, 72) == (plan.max_steps, plan.total_episodes)
    )
    assert args.save_steps == 12 and "--save_steps 7: rounded up to 12" in capsys.readouterr().out
    with pytest.raises(UserError, match="20 is not a multiple of 3"):
        make_trainer(setup, tmp_path, rollout_batch_size=20, num_mini_batches=3)
    with pytest.raises(UserError, match="10 is not a multiple of 4"):
        make_trainer(setup, tmp_path, rollout_batch_size=20, num_mini_batches=2)


# ---- the roles ------------------------------------------------------------------------------------------------------


def plain_logprobs(model, prompt, response, temperature=1.0):
    with torch.no_grad():
        logits = (
            model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / temperature
        )
    return logits.log_softmax(-1)[torch.arange(len(response)), response]


@pytest.mark.parametrize("rollout_weights", ["merged", "adapters"])
def test_reference_is_the_sft_model_and_policy_is_plain_peft(setup, tmp_path, rollout_weights):
    trainer = make_trainer(setup, tmp_path, temperature=0.7, rollout_weights=rollout_weights)
    trainer.worker.sample = fixed_sample
    rollout = trainer.worker.collect(trainer.train_dataset[:8])
    sft = load_causal_lm(ModelConfig(model_name_or_path=setup["model"], dtype="float32")).eval()
    trainer.shared.save_policy(tmp_path / "saved")
    policy = PeftModel.from_pretrained(
        load_causal_lm(ModelConfig(model_name_or_path=setup["model"], dtype="float32")),
        tmp_path / "saved",
    ).eval()
    for i, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        n = len(response)
        assert torch.allclose(
            rollout.ref_logprobs[i, :n], plain_logprobs(sft, prompt, response, 0.7), atol=1e-5
        )
        assert torch.allclose(
            rollout.logprobs[i, :n], plain_logprobs(policy, prompt, response, 0.7), atol=1e-5
        )
        assert (rollout.logprobs[i, n:] == 0).all() and rollout.mask[i].sum() == n
    assert (rollout.logprobs - rollout.ref_logprobs).abs().max() > 0.1  # the two are told apart


def test_value_starts_as_the_reward_model(setup, tmp_path):
    trainer = make_trainer(setup, tmp_path)
    texts = ["I like it.", "", "Many more words than before, really."]
    scores = load_reward(setup["reward"]).score(PROMPTS[:3], texts)
    assert trainer.worker.score_by_role(PROMPTS[:3], texts, role="value") == pytest.approx(
        scores, abs=1e-5
    )
    assert trainer.worker.score_by_role(PROMPTS[:3], texts) == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>"])
def test_reward_of_the_text_is_the_reward_in_ppo(setup, tmp_path, pad):
    """Whatever was sampled (half a character, no eos, pad = eos): the score is that of the text the user sees."""
    tokenizer = load_tokenizer(setup["model"])
    tokenizer.pad_token = pad
    trainer = make_trainer(
        setup, tmp_path, tokenizer=tokenizer, response_length=12, missing_eos_penalty=0.25
    )
    torch.manual_seed(0)
    rollout = trainer.worker.collect(trainer.train_dataset[:8])
    alone = load_reward(setup["reward"]).score(PROMPTS, rollout.texts)
    assert rollout.rewards["reward_model"].tolist() == pytest.approx(alone, abs=1e-5)
    penalty = [0.0 if tokenizer.eos_token_id in r else 0.25 for r in rollout.responses]
    assert rollout.scores.tolist() == pytest.approx(
        [a - p for a, p in zip(alone, penalty, strict=True)], abs=1e-5
    )


def test_pad_equal_to_eos_changes_nothing(setup, tmp_path):
    found = []
    for pad in ("<|endoftext|>", "<|im_end|>"):
        tokenizer = make_tokenizer(pad_token=pad)
        trainer = make_trainer(setup, tmp_path, tokenizer=tokenizer)
        trainer.worker.sample = fixed_sample
        rollout = trainer.worker.collect(trainer.train_dataset[:8])
        found.append((rollout.scores, rollout.values, rollout.logprobs, rollout.mask))
        lengths = [len(r) for r in rollout.responses]
        assert rollout.mask.sum(1).tolist() == lengths and len(set(lengths)) > 1
        assert any(r[-1] == 2 for r in rollout.responses)  # the eos itself is a real, trained token
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5)


@pytest.mark.parametrize("rollout_weights", ["merged", "adapters"])
def test_kl_is_zero_at_the_start_whatever_the_models_generation_config(
    setup, tmp_path, rollout_weights
):
    """top-k, temperature and penalties saved with a model must not shape what PPO samples (negative KL)."""
    model = AutoModelForCausalLM.from_pretrained(setup["model"])
    model.generation_config.update(
        do_sample=True,
        top_k=2,
        temperature=0.3,
        repetition_penalty=1.9,
        max_new_tokens=2,
        min_new_tokens=1,
    )
    model.save_pretrained(tmp_path / "odd")
    load_tokenizer(setup["model"]).save_pretrained(tmp_path / "odd")
    seen = []
    for path in (setup["model"], str(tmp_path / "odd")):
        odd = {**setup, "model": path, "reward": make_reward(tmp_path / f"reward{len(seen)}", path)}
        trainer = make_trainer(odd, tmp_path / "out", rollout_weights=rollout_weights)
        for parameter in trainer.shared.policy_parameters().values():  # as LoRA starts: B = 0
            parameter.data.zero_()
        torch.manual_seed(5)
        rollout = trainer.worker.collect(trainer.train_dataset[:8])
        assert (rollout.logprobs - rollout.ref_logprobs).abs().max() < 1e-5
        seen.append(rollout.responses)
    assert seen[0] == seen[1] and max(map(len, seen[0])) == 8


def test_sampling_follows_the_policys_own_probabilities(setup, tmp_path):
    """First sampled tokens of one prompt against the policy's softmax: chi-square by hand over the likely tokens."""
    trainer = make_trainer(
        setup, tmp_path, response_length=1, local_rollout_forward_batch_size=4000
    )
    prompt = encode_prompt(trainer.processing_class, PROMPTS[0])
    torch.manual_seed(0)
    drawn = torch.tensor([r[0] for r in trainer.worker.sample([prompt] * 4000).responses])
    lm = trainer.shared.switch("policy").eval()
    with torch.no_grad():
        probabilities = lm(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counts = torch.bincount(drawn, minlength=len(probabilities))
    likely = probabilities.topk(50).indices
    expected = 4000 * probabilities[likely]
    statistic = ((counts[likely] - expected) ** 2 / expected).sum().item()
    assert statistic < 50 + 5 * math.sqrt(2 * 50)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("value_model", ["adapter", "head"])
def test_what_sampling_noted_is_what_training_computes(tmp_path, kind, value_model):
    """Log-probabilities and values kept while sampling (cached, left-padded, by chunks) against a pass over whole rows."""
    trainer = make_trainer(
        make_setup(tmp_path / "setup", kind),
        tmp_path,
        value_model=value_model,
        response_length=12,
        temperature=0.7,
    )
    torch.nn.init.normal_(trainer.shared.value_head.weight)
    collect = lambda: torch.manual_seed(1) and trainer.worker.collect(trainer.train_dataset[:8])  # noqa: E731
    common = collections.Counter(t for r in collect().responses for t in r[2:]).most_common(1)[0][0]
    trainer.processing_class.eos_token = trainer.processing_class.convert_ids_to_tokens(
        common
    )  # so that rows end and leave
    rollout = collect()
    assert (
        len({len(p) for p in rollout.prompts}) > 1 and len({len(r) for r in rollout.responses}) > 1
    )
    found = trainer.worker.token_pass(rollout.prompts, rollout.responses, ("policy", "value"))
    assert (
        torch.allclose(rollout.logprobs, found["policy"], atol=1e-4)
        and rollout.logprobs.abs().max() > 1
    )
    assert torch.allclose(rollout.values, found["value"], atol=1e-3) and rollout.values.std() > 0.1


@pytest.mark.parametrize(
    "case", ["plain", "dora", "two adapters", "off", "autocast", "base trains"]
)
def test_fused_lora_is_pefts_lora(case):
    """Output and every gradient against PEFT's own layer; what is not plain LoRA of one dtype takes PEFT's path."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.GELU(), torch.nn.Linear(5, 4))
    config = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["0", "2"],
        init_lora_weights=False,
        use_dora=case == "dora",
    )
    model = get_peft_model(model, config)
    model.add_adapter("other", LoraConfig(r=3, target_modules=["0"], init_lora_weights=False))
    if case == "two adapters":
        model.base_model.set_adapter(["default", "other"])
    if case == "base trains":
        model.requires_grad_(True)
    x, found = torch.randn(3, 7, 6), []
    context = (
        torch.autocast("cpu", dtype=torch.bfloat16)
        if case == "autocast"
        else contextlib.nullcontext()
    )
    for fused in (False, True):
        if fused:
            fuse_lora(model)
            assert sum(type(m) is FusedLinear for m in model.modules()) == 2
        model.zero_grad()
        inputs = x.clone().requires_grad_(True)
        with model.disable_adapter() if case == "off" else contextlib.nullcontext(), context:
            out = model(inputs)
        out.float().pow(2).sum().backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((out, inputs.grad, grads))
    (plain, dx, grads), (out, fused_dx, fused_grads) = found
    assert torch.allclose(out, plain, atol=1e-6) and torch.allclose(fused_dx, dx, atol=1e-5)
    assert set(grads) == set(fused_grads) and (grads or case == "off")
    assert all(torch.allclose(fused_grads[n], g, atol=1e-5) for n, g in grads.items())


def test_merging_restores_the_base_bit_for_bit(setup, tmp_path):
    shared = make_trainer(setup, tmp_path).shared
    before = {n: p.detach().clone() for n, p in shared.named_parameters()}
    for _ in range(20):
        with shared.merged("policy"):
            assert any((p != before[n]).any() for n, p in shared.named_parameters())
            with pytest.raises(RuntimeError, match="cannot speak as reference"):
                shared.switch("reference")
    assert all(torch.equal(p, before[n]) for n, p in shared.named_parameters())


def test_switching_keeps_what_trains(setup, tmp_path):
    shared = make_trainer(setup, tmp_path).shared
    before = {n: p.requires_grad for n, p in shared.named_parameters()}
    for role in ("reference", "value", "reward", "policy", "reference", "policy"):
        shared.switch(role)
        assert {n: p.requires_grad for n, p in shared.named_parameters()} == before
    trains = {n for n, on in before.items() if on}
    assert trains == {
        n for n in before if ".default." in n or ".value." in n or n.startswith("value_head")
    }


@pytest.mark.parametrize("value_model", ["adapter", "head"])
def test_all_that_should_move_moves_and_nothing_else(setup, tmp_path, value_model):
    trainer = make_trainer(setup, tmp_path, value_model=value_model, total_episodes=24)
    before = {n: p.detach().clone() for n, p in trainer.shared.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.shared.named_parameters() if not torch.equal(p, before[n])}
    adapters = (".default.", ".value.") if value_model == "adapter" else (".default.",)
    expected = {n for n in before if any(a in n for a in adapters) or n.startswith("value_head")}
    assert moved == expected
    names = {id(p): n for n, p in trainer.shared.named_parameters()}
    assert {
        names[id(p)] for group in trainer.optimizer.param_groups for p in group["params"]
    } == expected


# ---- rewards --------------------------------------------------------------------------------------------------------


def long_words(prompts, completions, topic, **kwargs):
    assert len(prompts) == len(completions) == len(topic) and isinstance(prompts[0], str)
    return [float(len(c)) for c in completions]


def raises(prompts, completions, **kwargs):
    raise KeyError("no such thing")


def gives_nan(prompts, completions, **kwargs):
    return [0.0] * (len(prompts) - 1) + [float("nan")]


def too_few(prompts, completions, **kwargs):
    return [0.0]


def gives_text(prompts, completions, **kwargs):
    return ["good"] * len(prompts)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("raises", "reward function 'raises' raised KeyError: 'no such thing'"),
        ("gives_nan", "reward function 'gives_nan' returned nan for the completion"),
        ("too_few", "reward function 'too_few' returned 1 scores for 8 completions"),
        ("gives_text", "reward function 'gives_text' must return one number per completion"),
        ("absent", "test_ppo:absent"),
    ],
)
def test_bad_reward_functions_are_named(setup, tmp_path, capsys, name, sentence):
    with pytest.raises(SystemExit) as stop:
        cli(flags(setup, tmp_path / "out", reward_funcs=f"test_ppo:{name}"))
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_weights_clip_and_columns(setup, tmp_path):
    trainer = make_trainer(
        setup,
        tmp_path,
        reward_funcs=(long_words,),
        reward_weights=[0.5, 2.0],
        score_clip=9.0,
        missing_eos_penalty=1.0,
    )
    trainer.worker.sample = fixed_sample
    rollout = trainer.worker.collect(trainer.train_dataset[:8])
    model, words = rollout.rewards["reward_model"].tolist(), rollout.rewards["long_words"].tolist()
    assert words == [float(len(t)) for t in rollout.texts]
    for i, response in enumerate(rollout.responses):
        expected = max(-9.0, min(9.0, 0.5 * model[i] + 2 * words[i])) - (2 not in response)
        assert rollout.scores[i].item() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match="1 numbers for 2 rewards"):
        make_trainer(setup, tmp_path, reward_funcs=(long_words,), reward_weights=[1.0])
    with pytest.raises(UserError, match="nothing to learn from"):
        make_trainer(setup, tmp_path, reward_model_path=None)


def test_zero_weight_reward_is_logged_and_trains_nothing(setup, tmp_path):
    cli(flags(setup, tmp_path / "a"))
    cli(flags(setup, tmp_path / "b", reward_funcs="test_ppo:long_words", reward_weights=[1, 0]))
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter_model.safetensors"
    ).read_bytes()
    log = json.loads((tmp_path / "b" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["rewards/long_words"] > 0 and log[0]["rewards/reward_model"] == pytest.approx(
        log[0]["objective/scores"]
    )


def test_reward_model_of_another_base_is_loaded_beside(setup, tmp_path, capsys):
    other = save_model(tmp_path / "other", seed=9)
    reward = make_reward(tmp_path / "reward", other)
    trainer = make_trainer(setup, tmp_path / "out", reward_model_path=reward, value_model="adapter")
    assert "loaded beside" in capsys.readouterr().out and not trainer.shared.has_reward
    trainer.worker.sample = fixed_sample
    rollout = trainer.worker.collect(trainer.train_dataset[:8])
    assert rollout.rewards["reward_model"].tolist() == pytest.approx(
        load_reward(reward).score(PROMPTS, rollout.texts), abs=1e-5
    )
    assert (
        rollout.values.abs().max() == 0
    )  # no reward adapter to start from: the value function starts at 0
    trainer.train()
    assert trainer.state.global_step == 4


def test_adapter_that_does_not_fit_is_refused(setup, tmp_path):
    folder = Path(make_reward(tmp_path / "reward", setup["model"]))
    state = load_file(folder / "adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file(
        {k: v for k, v in state.items() if ".score." not in k}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match="no `score` head"):
        make_trainer(setup, tmp_path / "out", reward_model_path=str(folder))
    save_file(
        {k: v for k, v in state.items() if "layers.1" not in k},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(UserError, match="do not fit this base model"):
        make_trainer(setup, tmp_path / "out", reward_model_path=str(folder))


# ---- the recipe -----------------------------------------------------------------------------------------------------

METRICS = [
    "objective/kl", "objective/entropy", "objective/scores", "objective/rlhf_reward", "objective/length", "objective/eos_rate",
    "policy/clipfrac_avg", "policy/approxkl_avg", "loss/policy_avg", "loss/value_avg", "val/explained_variance", "val/clipfrac_avg",
    "episode", "grad_norm", "rewards/reward_model", "time/rollout", "time/score", "time/update",
]  # fmt: skip


@pytest.mark.parametrize("value_model", ["adapter", "head"])
def test_recipe_writes_what_it_promises(setup, tmp_path, capsys, value_model):
    out = tmp_path / "out"
    run = flags(
        setup, out, value_model=value_model, save_merged=True, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        save_total_limit=1, sample_every=1, num_mini_batches=1,
    )  # fmt: skip
    cli(run)
    assert {p.name for p in out.iterdir() if not p.name.startswith("checkpoint-")} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "finished.json", "merged", "samples.jsonl", "tokenizer.json",
        "tokenizer_config.json", "trainer_state.json", "value",
    }  # fmt: skip
    value = {"adapter_config.json", "adapter_model.safetensors", "value_head.safetensors"}
    assert {p.name for p in (out / "value").iterdir()} == (
        value if value_model == "adapter" else {"value_head.safetensors"}
    )
    assert not [
        p
        for p in out.rglob("*")
        if p.suffix in (".bin", ".pt", ".pth")
        and p.name not in ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    ]

    state = json.loads((out / "trainer_state.json").read_text())
    rollouts = [line for line in state["log_history"] if "objective/kl" in line]
    assert len(rollouts) == 2 and all(name in line for line in rollouts for name in METRICS)
    assert [line["episode"] for line in rollouts] == [8, 16] and [
        line["step"] for line in rollouts
    ] == [2, 4]
    assert abs(rollouts[0]["objective/kl"]) < 1e-5 and abs(rollouts[1]["objective/kl"]) > 1e-5
    held_out = [line for line in state["log_history"] if "eval_reward" in line]
    assert [line["step"] for line in held_out] == [2, 4] and state[
        "best_model_checkpoint"
    ] is not None
    assert Path(state["best_model_checkpoint"]).is_dir()

    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {s["step"] for s in samples} == {0, 2} and set(samples[0]) >= {
        "prompt",
        "completion",
        "score",
        "kl",
        "ended",
    }

    merged = AutoModelForCausalLM.from_pretrained(out / "merged").eval()
    policy = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(setup["model"]), out
    ).eval()
    ids = torch.tensor([[5, 6, 7, 2]])
    with torch.no_grad():
        assert torch.allclose(policy(ids).logits, merged(ids).logits, atol=1e-5)

    before = (out / "adapter_model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    cli(run)
    assert (
        "finished run" in capsys.readouterr().out
        and (out / "adapter_model.safetensors").stat().st_mtime_ns == before
    )


def test_full_fine_tuning_has_a_frozen_reference(setup, tmp_path):
    trainer = make_trainer(
        setup, tmp_path, full=True, learning_rate=1e-4
    )  # value adapter and reward adapter on the copy
    sft = AutoModelForCausalLM.from_pretrained(setup["model"]).state_dict()
    trainer.train()
    reference = {
        k.replace(".base_layer", ""): v
        for k, v in trainer.shared.lm.state_dict().items()
        if "lora_" not in k
    }
    assert all(torch.equal(reference[k], v) for k, v in sft.items())
    trainer.save_model()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert sum(not torch.equal(saved[k], v) for k, v in sft.items()) > len(sft) / 2
    assert all(torch.equal(saved[k], v) for k, v in trainer.shared.full_policy.state_dict().items())
    assert (tmp_path / "value" / "adapter_model.safetensors").is_file()


def test_average_of_the_policy_is_the_average_of_its_steps(setup, tmp_path):
    steps = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.on_optimizer_step(args, state, control)

        def on_optimizer_step(self, args, state, control, **kwargs):
            steps.append(
                {n: p.detach().clone() for n, p in trainer.shared.policy_parameters().items()}
            )

    trainer = make_trainer(setup, tmp_path, ema_decay=0.6, callbacks=[Watch()])
    trainer.train()
    assert len(steps) == 5
    average = steps[0]
    for step in steps[1:]:
        average = {n: 0.6 * average[n] + 0.4 * step[n] for n in average}
    trainer.save_model()
    saved = load_file(tmp_path / "adapter_model.safetensors")
    for name, expected in average.items():
        key = name.removeprefix("base.").replace(".default.", ".")
        assert torch.allclose(saved[key], expected, atol=1e-6) and not torch.equal(
            saved[key], steps[-1][name]
        )


def test_adaptive_kl_is_used_and_logged(setup, tmp_path):
    trainer = make_trainer(
        setup, tmp_path, kl_coef=0.1, kl_target=1e-6, kl_horizon=10, total_episodes=24
    )
    trainer.train()
    used = [
        line["objective/kl_coef"]
        for line in trainer.state.log_history
        if "objective/kl_coef" in line
    ]
    kl = [line["objective/kl"] for line in trainer.state.log_history if "objective/kl" in line]
    assert len(used) == 3 and used[0] == 0.1
    assert (
        used[1] == pytest.approx(ppo_math.next_kl_coef(used[0], kl[0], 1e-6, 8, 10))
        and used[1] != used[0]
    )


def even_start(prompts, completions, **kwargs):
    return [float(text != "" and ord(text[0]) % 2 == 0) for text in completions]


@pytest.mark.parametrize("value_model", ["head", pytest.param("adapter", marks=pytest.mark.slow)])
def test_it_learns(tmp_path, value_model):
    """Eight rollouts take the share of responses that start on an even letter from about a half to nearly all."""
    setup = make_setup(tmp_path / "setup", initializer_range=0.5)
    trainer = make_trainer(
        setup, tmp_path / "out", reward_model_path=None, reward_funcs=(even_start,), total_episodes=64 * 8, value_model=value_model,
        per_device_train_batch_size=64, gradient_accumulation_steps=1, learning_rate=5e-3, lr_scheduler_type="constant", kl_coef=0.0,
        response_length=2, num_ppo_epochs=4, watchdog=False,
    )  # fmt: skip
    trainer.train()
    scores = [
        line["objective/scores"] for line in trainer.state.log_history if "objective/scores" in line
    ]
    assert scores[0] < 0.75 and scores[-1] > 0.85


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        (
            {"max_kl": -1.0},
            r"objective/kl is .* above --max_kl -1 for 2 rollouts; likely the policy ran away",
        ),
        (
            {"min_entropy": 100.0},
            "policy/entropy_avg is .* below --min_entropy 100 .* raise --kl_coef",
        ),
        ({"watchdog_grad_norm": 0.0}, "grad_norm is .* gradients explode"),
        ({"min_explained_variance": 2.0}, "val/explained_variance is .* --vf_coef"),
    ],
)
def test_watchdog_names_cause_and_remedy(setup, tmp_path, capsys, bound, sentence):
    run = flags(
        setup,
        tmp_path,
        watchdog_patience=2,
        total_episodes=32,
        save_strategy="steps",
        save_steps=2,
        **bound,
    )
    with pytest.raises(SystemExit) as stop:
        cli(run)
    assert stop.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert (
        re.search(sentence, error)
        and "stopped at step 4" in error
        and error.endswith(f"checkpoints stay in {tmp_path}")
    )
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-2"] and not (
        tmp_path / "finished.json"
    ).exists()
    quiet = flags(setup, tmp_path / "off", watchdog=False, **bound)
    cli(quiet)
    assert (tmp_path / "off" / "finished.json").is_file()


def test_nan_stops_at_once_and_is_not_saved(setup, tmp_path):
    class Poison(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 2:  # the first step of the second rollout
                next(iter(trainer.shared.policy_parameters().values())).data.fill_(float("nan"))

    trainer = make_trainer(
        setup, tmp_path, callbacks=[Poison()], save_strategy="steps", save_steps=2, watchdog=False
    )
    with pytest.raises(UserError, match="stopped at step 4: .* is nan; .*lower --learning_rate"):
        trainer.train()
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-2"]


def test_evaluation_leaves_training_as_it_was(setup, tmp_path):
    cli(flags(setup, tmp_path / "a"))
    cli(flags(setup, tmp_path / "b", eval_strategy="steps", eval_steps=2, eval_on_start=True))
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter_model.safetensors"
    ).read_bytes()


def test_best_checkpoint_is_the_best_within_the_kl_bound(setup, tmp_path):
    run = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "total_episodes": 32,
        "learning_rate": 1e-2,
    }
    cli(flags(setup, tmp_path / "a", load_best_model_at_end=True, **run))
    state = json.loads((tmp_path / "a" / "trainer_state.json").read_text())
    held_out = {line["step"]: line for line in state["log_history"] if "eval_reward" in line}
    best = max(held_out, key=lambda s: held_out[s]["eval_reward"])
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    saved = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    assert (
        saved == (Path(state["best_model_checkpoint"]) / "adapter_model.safetensors").read_bytes()
    )

    kls = sorted(line["eval_kl"] for line in held_out.values())
    cli(flags(setup, tmp_path / "b", best_max_kl=(kls[0] + kls[1]) / 2, **run))
    state = json.loads((tmp_path / "b" / "trainer_state.json").read_text())
    (only,) = [s for s, line in held_out.items() if line["eval_kl"] == kls[0]]
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{only}")


def test_mistakes_are_one_sentence(setup, tmp_path, capsys):
    write_jsonl(tmp_path / "long.jsonl", [{"prompt": "word " * 600}])
    for change, sentence in [
        ({"reward_model_path": None}, "nothing to learn from"),
        ({"dataset_name": tmp_path / "gone.jsonl"}, "no such file or folder"),
        (
            {"dataset_name": tmp_path / "long.jsonl"},
            "every prompt is longer than --max_prompt_length",
        ),
        ({"temperature": 0}, "--temperature must be above 0"),
        ({"reward_funcs": "json"}, "write it as module:function"),
        ({"ptx_coef": 1.0}, "needs both --ptx_dataset and a --ptx_coef"),
        ({"value_model": "tree"}, "tree"),
        ({"model_name_or_path": tmp_path / "gone"}, "gone"),
    ]:
        with pytest.raises(SystemExit) as stop:
            cli(flags(setup, tmp_path / "out", **change))
        assert stop.value.code == 2 and sentence in capsys.readouterr().err, change


def test_demo_yaml_parses():
    _, args, model = parse(
        (ScriptArguments, SharedBasePPOConfig, ModelConfig),
        ["--config", str(REPO / "recipes/configs/demo/ppo.yaml")],
    )
    assert (
        args.value_model in ("adapter", "head")
        and args.output_dir == "outputs/demo/ppo"
        and model.use_peft
    )
    assert not args.bf16 or torch.cuda.is_available()


def test_conversational_prompts(setup, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": p}]} for p in PROMPTS]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    cli(flags(setup, tmp_path / "a", dataset_name=tmp_path / "chat.jsonl"))
    cli(flags(setup, tmp_path / "b"))
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.stock
def test_stock_runs_on_the_same_flags(setup, tmp_path):
    for value in ("lora", "full"):
        cli(flags(setup, tmp_path / value, stock=True, stock_value=value))
        assert (tmp_path / value / "adapter_model.safetensors").is_file()
        log = json.loads((tmp_path / value / "trainer_state.json").read_text())["log_history"]
        assert abs(log[0]["objective/kl"]) < 1e-4


def test_stands_on_a_trl_without_ppo(setup, tmp_path, monkeypatch):
    """The trainer's module again where `trl.experimental.ppo` cannot be imported: the same weights."""
    monkeypatch.setitem(sys.modules, "trl.experimental.ppo", None)
    for name in ("trl_ppo", "trainer"):
        monkeypatch.delitem(sys.modules, f"instruct.trainers.ppo.{name}")
    module = importlib.import_module("instruct.trainers.ppo.trainer")
    assert module.SharedBasePPOTrainer.__mro__[1] is _BaseTrainer
    with pytest.raises(UserError, match="removed in 1.13"):
        importlib.import_module("instruct.trainers.ppo.trl_ppo").stock_ppo()
    monkeypatch.setattr("ppo_tools.SharedBasePPOTrainer", module.SharedBasePPOTrainer)
    trainer = make_trainer(setup, tmp_path / "newer", save_strategy="steps", save_steps=2)
    trainer.train()
    monkeypatch.undo()
    same = make_trainer(setup, tmp_path / "today")
    same.train()
    assert type(trainer) is not type(same) and trainer.state.global_step == 4
    assert all(
        torch.equal(a, b)
        for a, b in zip(trainer.shared.parameters(), same.shared.parameters(), strict=True)
    )
