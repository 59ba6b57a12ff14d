"""Rollouts: what is sampled, what each role says of it, and the score of its text."""

import collections
import contextlib
import math
import types

import pytest
import torch
from conftest import make_tokenizer
from peft import PeftModel
from ppo_tools import PROMPTS, fixed_sample, make_reward, make_setup, make_trainer
from transformers import AutoModelForCausalLM

from instruct.arguments import ModelConfig
from instruct.models import load_causal_lm, load_reward
from instruct.tokens import encode_prompt, load_tokenizer
from instruct.trainers.ppo import rollout as rollout_module
from instruct.trainers.ppo.rollout import RolloutWorker


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


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
    assert trainer.worker.score_by_role(PROMPTS[:3], texts, "value") == pytest.approx(
        scores, abs=1e-5
    )
    assert trainer.worker.score_by_role(PROMPTS[:3], texts) == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("beside", [False, True])
def test_columns_of_any_name_reach_the_rewards(setup, tmp_path, beside):
    """Those of samples and rankings, too, whose completions are not the ones to score."""
    seen = {}

    def reward(prompts, completions, **columns):
        seen.update(columns)
        return [0.0] * len(completions)

    trainer = make_trainer(setup, tmp_path)
    model = load_reward(setup["reward"]) if beside else None
    trainer.shared.has_reward = not beside
    worker = RolloutWorker(trainer.shared, trainer.processing_class, trainer.args, model, [reward])
    worker.sample = fixed_sample
    names = ("role", "self", "size", "function", "what", "completions")
    more = {name: [["value", "x"]] * 2 for name in names}
    rollout = worker.collect({**trainer.train_dataset[:2], **more})
    alone = load_reward(setup["reward"]).score(PROMPTS[:2], rollout.texts)
    assert rollout.rewards["reward_model"].tolist() == pytest.approx(alone, abs=1e-5)
    assert set(seen) == {"topic", *names} - {"completions"}


class OfAnotherKind:
    """Somebody's reward, whose tokenizer is none of transformers'."""

    tokenizer = object()

    def score(self, prompts, completions, batch_size):
        return [float(len(text)) for text in completions]


def test_what_an_object_of_the_users_own_calls_a_tokenizer_is_not_read(setup, tmp_path):
    trainer = make_trainer(setup, tmp_path)
    trainer.shared.has_reward, trainer.shared.reward_tokenizer = False, None
    worker = RolloutWorker(
        trainer.shared, trainer.processing_class, trainer.args, reward_model=OfAnotherKind()
    )
    worker.sample = fixed_sample
    rollout = worker.collect(trainer.train_dataset[:2])
    assert rollout.scores.tolist() == [len(text) for text in rollout.texts]


@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>"])
def test_reward_of_the_text_is_the_reward_in_ppo(setup, tmp_path, pad):
    """Whatever was sampled (half a character, no eos, pad = eos): the score is that of the text the
    user sees.
    """
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
    """top-k, temperature and penalties saved with a model must not shape what PPO samples (negative
    KL).
    """
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
    """First sampled tokens of one prompt against the policy's softmax: chi-square by hand over the
    likely tokens.
    """
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
    """Log-probabilities and values kept while sampling (cached, left-padded, by chunks) against a
    pass over whole rows.
    """
    trainer = make_trainer(
        make_setup(tmp_path / "setup", kind),
        tmp_path,
        value_model=value_model,
        response_length=12,
        temperature=0.7,
    )
    torch.nn.init.normal_(trainer.shared.value_head.weight)

    def collect():
        torch.manual_seed(1)
        return trainer.worker.collect(trainer.train_dataset[:8])

    common = collections.Counter(t for r in collect().responses for t in r[2:]).most_common(1)[0][0]
    # so that rows end and leave
    tokenizer = trainer.processing_class
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(common)
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


def test_a_worker_needs_no_trainer(setup, tmp_path):
    """The same rollout as the trainer's, from model, tokenizer and settings alone."""
    trainer = make_trainer(setup, tmp_path)
    worker = RolloutWorker(trainer.shared, trainer.processing_class, trainer.args)
    rollouts = []
    for one in (worker, trainer.worker):
        torch.manual_seed(0)
        rollouts.append(one.collect(trainer.train_dataset[:8]))
    mine, theirs = rollouts
    assert mine.responses == theirs.responses and torch.equal(mine.scores, theirs.scores)
    assert torch.equal(mine.values, theirs.values)


def test_sharded_weights_are_gathered_where_there_is_no_fsdp(setup, tmp_path, monkeypatch):
    """ZeRO-3: accelerate's state has no `fsdp_plugin` at all; every forward goes to the wrapper."""
    trainer = make_trainer(setup, tmp_path)
    calls = []

    class Wrapped(torch.nn.Module):
        def forward(self, **inputs):
            calls.append(inputs["roles"])
            return trainer.shared(**inputs)

    @contextlib.contextmanager
    def gathered(model, accelerator):
        assert isinstance(model, Wrapped) and not hasattr(accelerator.state, "fsdp_plugin")
        yield trainer.shared

    monkeypatch.setattr(rollout_module, "unwrap_model_for_generation", gathered)
    accelerator = types.SimpleNamespace(
        state=types.SimpleNamespace(), autocast=contextlib.nullcontext
    )
    worker = RolloutWorker(
        trainer.shared, trainer.processing_class, trainer.args, accelerator=accelerator
    )
    worker.sharded_model = Wrapped()
    torch.manual_seed(0)
    sharded = worker.collect(trainer.train_dataset[:8])
    # sampled log-probabilities are not kept there: policy, reference, value and reward are passes
    assert {role for roles in calls for role in roles} == {"policy", "reference", "value", "reward"}
    torch.manual_seed(0)
    plain = trainer.worker.collect(trainer.train_dataset[:8])
    assert sharded.responses == plain.responses
    assert torch.allclose(sharded.logprobs, plain.logprobs, atol=1e-5)
    assert torch.allclose(sharded.scores, plain.scores, atol=1e-5)
