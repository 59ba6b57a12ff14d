"""What the PPO tests share: a tiny model with a reward adapter and prompts, and a plain four-model
PPO to compare with.
"""

import importlib.util
import json
import random
from pathlib import Path

import torch
from conftest import REPO, TOPICS, save_model, write_jsonl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from instruct.arguments import ModelConfig
from instruct.models import load_causal_lm, load_reward, load_sequence_classifier
from instruct.tokens import encode_prompt, load_tokenizer
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.ppo.rollout import Sampled
from instruct.trainers.ppo.trainer import SharedBasePPOTrainer

_spec = importlib.util.spec_from_file_location("naive_ppo", REPO / "docs" / "ppo_in_80_lines.py")
naive_ppo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(naive_ppo)

PROMPTS = [
    f"Tell me about {topic}" + ", and then some more" * (i % 3)
    for i, topic in enumerate(TOPICS[:8])
]
ROLLOUT_TIMES = (
    "time/sample",
    "time/rollout",
    "time/score",
    "time/update",
    "train_runtime",
    "train_samples_per_second",
)


def make_reward(folder: Path, base: str, bias: float = 0.5, tokenizer=None) -> str:
    """A reward adapter with random weights, laid out as `recipes/reward.py` does."""
    torch.manual_seed(7)
    model = load_sequence_classifier(ModelConfig(model_name_or_path=base, dtype="float32"))
    lora = LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules="all-linear", init_lora_weights=False
    )
    get_peft_model(model, lora).save_pretrained(folder)
    (tokenizer or load_tokenizer(base)).save_pretrained(folder)
    head = {"bias": bias, "pad_token_id": 0, "base": base}
    (folder / "reward_head.json").write_text(json.dumps(head))
    return str(folder)


def make_setup(folder: Path, kind: str = "llama", **changes) -> dict[str, str]:
    """Paths of a tiny model, its reward adapter, and prompt files train/validation.

    Weights are large, so that the model has opinions (at the usual 0.02 its next-token distribution
    is almost flat).
    """
    folder.mkdir(exist_ok=True)
    model = save_model(folder / "model", kind, **{"initializer_range": 0.15, **changes})
    (folder / "prompts").mkdir()
    write_jsonl(
        folder / "prompts" / "train.jsonl",
        [{"prompt": p, "topic": t} for p, t in zip(PROMPTS, TOPICS[:8], strict=True)],
    )
    write_jsonl(
        folder / "prompts" / "validation.jsonl", [{"prompt": f"What of {t}?"} for t in TOPICS[8:]]
    )
    return {
        "model": model,
        "reward": make_reward(folder / "reward", model),
        "prompts": str(folder / "prompts" / "train.jsonl"),
    }


SETTINGS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_ppo_epochs": 2,
    "total_episodes": 16,
    "response_length": 8,
    "learning_rate": 1e-3,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "seed": 3,
}


def make_trainer(
    setup: dict,
    out: Path,
    tokenizer=None,
    full: bool = False,
    callbacks=None,
    **settings,
):
    """A trainer on the tiny model. The policy's adapter starts random, so that A and B both have
    gradients.
    """
    extra = {
        k: settings.pop(k)
        for k in ("reward_funcs", "eval_dataset", "ptx_dataset", "peft_config")
        if k in settings
    }
    reward = settings.pop("reward_model_path", setup["reward"])
    args = SharedBasePPOConfig(
        output_dir=str(out), reward_model_path=reward, **{**SETTINGS, **settings}
    )
    model = load_causal_lm(ModelConfig(model_name_or_path=setup["model"], dtype="float32"))
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False
    )
    return SharedBasePPOTrainer(
        model=model,
        args=args,
        processing_class=tokenizer or load_tokenizer(setup["model"]),
        train_dataset=Dataset.from_list(
            [{"prompt": p, "topic": t} for p, t in zip(PROMPTS, TOPICS[:8], strict=True)]
        ),
        reward_model=reward,
        callbacks=callbacks,
        **{"peft_config": None if full else lora, **extra},
    )


def flags(setup: dict, out: Path, **settings) -> list[str]:
    """The same as command-line flags of recipes/ppo.py."""
    named = {
        "model_name_or_path": setup["model"],
        "reward_model_path": setup["reward"],
        "dataset_name": setup["prompts"],
        "output_dir": out,
        "lora_r": 4,
        "dtype": "float32",
        **{**SETTINGS, **settings},
    }
    out_flags = []
    for name, value in named.items():
        if value is not None:
            out_flags += [
                f"--{name}",
                *map(str, value if isinstance(value, (list, tuple)) else [value]),
            ]
    return out_flags


def fixed_responses(prompts: list[list[int]]) -> list[list[int]]:
    """A response that depends on the prompt alone: 3 to 8 tokens, some without eos (id 2)."""
    out = []
    for prompt in prompts:
        draw = random.Random(sum(prompt))
        row = [draw.randrange(60, 500) for _ in range(draw.randrange(3, 9))]
        out.append(row if len(row) == 8 else [*row[:-1], 2])
    return out


def fixed_sample(prompts: list[list[int]]) -> Sampled:
    """In the place of `RolloutWorker.sample`."""
    return Sampled(fixed_responses(prompts))


class NaivePPO:
    """The models of `docs/ppo_in_80_lines.py`, and what that file's loss makes of them; nothing of
    `instruct.trainers`.

    Reads policy and value from what the trainer saved, so it also shows that plain PEFT loads them.
    """

    def __init__(self, setup: dict, saved: Path, value_model: str):
        def base():
            path = setup["model"]
            return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

        self.policy = PeftModel.from_pretrained(base(), saved, is_trainable=True).eval()
        self.reference = base()
        self.reward = load_reward(setup["reward"])
        self.value_model = value_model
        if value_model == "adapter":
            self.value = PeftModel.from_pretrained(
                load_sequence_classifier(
                    ModelConfig(model_name_or_path=setup["model"], dtype="float32")
                ),
                setup["reward"],
                is_trainable=True,
            ).eval()
            self.value_bias = torch.tensor(self.reward.bias, requires_grad=True)
        else:
            self.head = torch.nn.Linear(self.reference.config.hidden_size, 1)
            torch.nn.init.zeros_(self.head.weight), torch.nn.init.zeros_(self.head.bias)

    def values(self, prompt, response):
        ids = torch.tensor([prompt + response])
        if self.value_model == "adapter":
            inner = self.value.get_base_model()
            hidden = inner.model(ids).last_hidden_state[0]
            values = inner.score(hidden).squeeze(-1) + self.value_bias
        else:
            hidden = self.policy.get_base_model().model(ids).last_hidden_state[0]
            values = self.head(hidden).squeeze(-1)
        return values[len(prompt) - 1 : -1]

    def loss(self, tokenizer, prompts: list[str], args) -> torch.Tensor:
        """The loss on fixed responses to these prompts."""
        texts = {tuple(encode_prompt(tokenizer, text)): text for text in prompts}
        encoded = [list(ids) for ids in texts]
        rollout = list(zip(encoded, fixed_responses(encoded), strict=True))

        def score_of(prompt: list[int], response: list[int]) -> float:
            ended = 2 in response
            words = response[: response.index(2)] if ended else response
            words = tokenizer.decode(words, skip_special_tokens=True)
            score = self.reward.score([texts[tuple(prompt)]], [words])[0]
            return score - (0 if ended else args.missing_eos_penalty or 0)

        return naive_ppo.ppo_loss(self.policy, self.reference, self.values, score_of, rollout, args)

    def gradients(self) -> dict[str, torch.Tensor]:
        """Under the names of `SharedBase.named_parameters()`."""
        found = {"base." + n: p.grad for n, p in self.policy.named_parameters() if ".default." in n}
        if self.value_model == "adapter":
            for name, parameter in self.value.named_parameters():
                if "lora_" in name:
                    found["base." + name.replace(".default.", ".value.")] = parameter.grad
                elif "modules_to_save" in name:
                    found["value_head.weight"] = parameter.grad
            found["value_head.bias"] = self.value_bias.grad.reshape(1)
        else:
            found |= {
                "value_head.weight": self.head.weight.grad,
                "value_head.bias": self.head.bias.grad,
            }
        return {n: g for n, g in found.items() if g is not None}


class Stop(Exception):
    pass


def first_gradients(trainer, resume: str | None = None) -> dict[str, torch.Tensor]:
    """Gradients of the trainer's first optimizer step, before the step; the rollout's responses are
    the fixed ones.
    """
    from transformers import TrainerCallback

    found = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            for name, parameter in trainer.shared.named_parameters():
                if parameter.grad is not None:
                    found[name] = parameter.grad.detach().clone()
            raise Stop

    trainer.worker.sample = fixed_sample
    trainer.add_callback(Catch())
    try:
        trainer.train(resume)
    except Stop:
        return found
    raise AssertionError("no optimizer step was taken")


def assert_same_gradients(found: dict, expected: dict) -> None:
    """Same names, and each gradient within a relative 1e-4."""
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert error < 1e-4, f"{name}: relative error {error:.2e}"
