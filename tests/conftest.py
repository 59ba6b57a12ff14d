"""Tiny models from configs, with a real byte-level BPE tokenizer trained on this repo's words.

Nothing is downloaded.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
from pathlib import Path

import pytest
import torch
from hub_tools import hub  # noqa: F401  (a fixture of every test)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from instruct import processes

torch.set_num_threads(1)

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TESTS = Path(__file__).parent
REPO = TESTS.parent
# For a script in tests/: Python puts that folder first, and `tests/recipes` is not `recipes`.
SCRIPT_ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPO}{os.pathsep}{TESTS}"}

# What the tokenizer is trained on, fixed, so that tests do not change with the text of tests.
WORDS = [(REPO / "LICENSE").read_text()] + 40 * [
    "I love this, it is great and good! I hate that, it is awful and bad. "
    "What is it like? Tell me about it, please.",
    "The tea, the rain, the music, a chess game, bread and snow, cats, the sea, trains, apples, "
    "books and stars.",
]

# Sizes that every architecture's config understands; the rest of each config is its default.
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make_tokenizer(chat_template: str | None = CHATML, pad_token: str | None = "<|endoftext|>"):
    """A 512-token byte-level BPE: ids 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|> (eos)."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token=pad_token, bos_token="<|endoftext|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(kind: str = "llama", seed: int = 0, **changes):
    """A 2-layer causal LM of one architecture with random weights."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 512, **SIZES}
    if kind == "gpt2":
        sizes = {"vocab_size": 512, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512} | {
            k: sizes[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
    if kind == "opt":
        sizes |= {"ffn_dim": 64, "word_embed_proj_dim": 32}
    config = AutoConfig.for_model(kind, **{**sizes, **changes})
    return AutoModelForCausalLM.from_config(config)


def save_model(folder: Path, kind: str = "llama", tokenizer=None, **changes) -> str:
    """Saves a tiny model with its tokenizer; returns the path the recipes take."""
    make_model(kind, **changes).save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return str(folder)


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


@pytest.fixture(autouse=True)
def nothing_overwrites(monkeypatch):
    """What a command notes of itself ends with its test."""
    monkeypatch.setattr(processes, "_overwrites", None)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("tiny") / "llama")


TOPICS = [
    "tea",
    "rain",
    "music",
    "chess",
    "bread",
    "snow",
    "cats",
    "the sea",
    "trains",
    "apples",
    "books",
    "stars",
]


@pytest.fixture(scope="session")
def reward_model(tiny_model, tmp_path_factory) -> str:
    """A whole classifier with one label, as other people's reward models are."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("reward")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model.score.weight.data.normal_()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def demonstrations() -> list[dict]:
    return [
        {
            "prompt": [{"role": "user", "content": f"Tell me about {t}, please."}],
            "completion": [{"role": "assistant", "content": f"I like {t}."}],
            "source": "test",
            "category": "generation",
        }
        for t in TOPICS
    ]


@pytest.fixture(scope="session")
def comparisons() -> list[dict]:
    """Rankings with K from 2 to 4, ties included; the more cheerful completion is the better."""
    rows = []
    for i, t in enumerate(TOPICS):
        completions = [
            f"{t} is great, I love it!",
            f"{t} is fine.",
            f"{t} is awful.",
            f"I hate {t}.",
        ][: 2 + i % 3]
        ranks = [1, 2, 3, 3][: 2 + i % 3]
        rows.append(
            {
                "prompt": [{"role": "user", "content": f"What of {t}?"}],
                "completions": completions,
                "ranks": ranks,
            }
        )
    return rows
