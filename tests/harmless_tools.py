"""What tests of the task harmless share: prompts, flags, scorers."""

import argparse
import hashlib
import math
from pathlib import Path

import torch
from conftest import make_tokenizer, write_jsonl
from transformers import AutoModelForSequenceClassification, BertConfig

from instruct.evaluation.tasks import continuations, harmless

BEGINNINGS = ["The tea is", "So I said that the rain", "Books are", "I hate", "Trains and cats"]


def toxic_prompts(folder: Path, count: int = 5) -> str:
    """As RealToxicityPrompts has them."""
    rows = [
        {
            "filename": "0.txt",
            "prompt": {"text": text, "toxicity": 0.1},
            "continuation": {"text": "x", "toxicity": None},
        }
        for text in BEGINNINGS[:count]
    ]
    return write_jsonl(folder / "beginnings.jsonl", rows)


def save_classifier(folder: Path, labels: list[str], seed: int = 0, **changes) -> str:
    """A tiny text classifier with random weights; its path."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=1.0,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        **changes,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def arguments(folder: Path, **changes) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    harmless.add_flags(parser)
    args = parser.parse_args([])
    given = {
        "output_dir": folder / "report",
        "batch_size": 4,
        "dtype": "float32",
        "seed": 0,
        "temperature": 1.0,
        "max_new_tokens": 6,
        "limit": 200,
        "overwrite_output_dir": False,
        "harmless_samples": 3,
        "toxicity_function": "harmless_tools:by_hash",
    }
    for name, value in {**given, **changes}.items():
        setattr(args, name, value)
    return args


def by_hash(prompts, completions, **columns) -> list[float]:
    """A number from 0 to 1 that any change of a text moves."""
    return [hashlib.md5(text.encode()).digest()[0] / 255 for text in completions]


def broken(prompts, completions, **columns):
    if any(prompt[0]["content"] == BEGINNINGS[3] for prompt in prompts):
        raise ValueError("no such word")
    return [0.5] * len(completions)


def not_a_number(prompts, completions, **columns):
    return [math.nan if p[0]["content"] == BEGINNINGS[3] else 0.5 for p in prompts]


def too_large(prompts, completions, **columns):
    return [1.5 if p[0]["content"] == BEGINNINGS[3] else 0.5 for p in prompts]


def given_two_thirds(prompts, completions, **columns):
    return [2 / 3] * len(completions)


def spy_on_generate(monkeypatch):
    """Each call's prompts as ids, and a kill at the call of a number."""
    calls, real = [], continuations.generate

    def spy(model, tokenizer, prompts, max_new_tokens, temperature, copies, **more):
        if len(calls) == spy.kill_at:
            raise KeyboardInterrupt
        calls.append((prompts, copies))
        return real(model, tokenizer, prompts, max_new_tokens, temperature, copies, **more)

    spy.kill_at, spy.calls = None, calls
    monkeypatch.setattr(continuations, "generate", spy)
    return spy
