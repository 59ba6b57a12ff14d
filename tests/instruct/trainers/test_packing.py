"""Rows packed into one line train as they do apart, or packing is refused."""

import json

import pytest
import torch
from conftest import save_model, write_jsonl
from safetensors.torch import load_file

from recipes import sft

ROWS = [
    {"prompt": f"Tell me about {topic}.", "completion": "I like it. " * (1 + i % 4)}
    for i, topic in enumerate(["tea", "rain", "music", "chess", "bread", "snow", "cats", "sea"])
]


def train(folder, base: str, *flags):
    """One optimizer step on all rows: (adapter, loss, its completion tokens' number)."""
    data = write_jsonl(folder.parent / "d.jsonl", ROWS)
    sft.cli([
        "--model_name_or_path", base, "--dataset_name", data, "--output_dir", str(folder),
        "--max_steps", "1", "--learning_rate", "1e-2", "--optim", "sgd", "--lora_dropout", "0",
        "--max_grad_norm", "0", "--lr_scheduler_type", "constant", "--report_to", "none",
        "--per_device_train_batch_size", "8", "--logging_steps", "1", *flags,
    ])  # fmt: skip
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"][0]
    return load_file(folder / "adapter_model.safetensors"), log["loss"]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_packed_rows_train_as_rows_apart(kind, tmp_path):
    # rows are longer than the window; dropout would be drawn otherwise for other shapes
    own = {
        "mistral": {"sliding_window": 8},
        "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }
    base = save_model(tmp_path / "base", kind, initializer_range=0.1, **own.get(kind, {}))
    wanted, loss = train(tmp_path / "apart", base)
    for name, flags in {
        "packed": ["--packing", "True", "--max_length", "256"],
        "padding-free": ["--padding_free", "True"],
    }.items():
        weights, found = train(tmp_path / name, base, *flags)
        assert found == pytest.approx(loss, abs=1e-5), name
        assert all(torch.allclose(weights[k], wanted[k], atol=1e-6) for k in wanted), name


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_a_model_that_mixes_packed_rows_is_refused(kind, tmp_path, capsys):
    base = save_model(tmp_path / "base", kind)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "out", base, "--packing", "True", "--max_length", "256")
    assert ended.value.code == 2
    assert "does not keep apart rows" in capsys.readouterr().err
    assert not (tmp_path / "out" / "trainer_state.json").exists()
