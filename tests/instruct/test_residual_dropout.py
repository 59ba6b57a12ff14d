"""`--residual_dropout` on the architectures that have one; the others say so."""

import pytest
import torch
from conftest import save_model
from transformers import AutoConfig

from instruct.arguments import ModelConfig
from instruct.errors import UserError
from instruct.models import load_causal_lm


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt", "phi", "bloom", "gptj"])
def test_residual_dropout_acts_in_training_alone_and_is_not_saved(kind, tmp_path):
    sizes = {"rotary_dim": 4} if kind == "gptj" else {}
    path = save_model(tmp_path / "model", kind, **sizes)
    arguments = ModelConfig(model_name_or_path=path, dtype="float32")
    plain = load_causal_lm(arguments)
    model = load_causal_lm(arguments, residual_dropout=0.5)
    ids = torch.arange(8)[None] + 60
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, plain.eval()(ids).logits)
        model.train()
        torch.manual_seed(0)
        one = model(ids).logits
        assert not torch.allclose(one, model(ids).logits, atol=1e-4)
        # at 0 nothing is drawn
        none = load_causal_lm(arguments, residual_dropout=0.0).train()
        for layer in none.modules():  # of attention and embeddings, which it leaves alone
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        if kind in ("gpt2", "gptj", "phi"):
            assert torch.allclose(none(ids).logits, plain(ids).logits, atol=1e-6)
    model.save_pretrained(tmp_path / "saved")
    old, new = (AutoConfig.from_pretrained(p).to_dict() for p in (path, tmp_path / "saved"))
    assert {k: v for k, v in old.items() if "drop" in k} == {
        k: v for k, v in new.items() if "drop" in k
    }


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_model_without_residual_dropout_says_what_to_give(kind, tmp_path):
    path = save_model(tmp_path / "model", kind)
    arguments = ModelConfig(model_name_or_path=path, dtype="float32")
    with pytest.raises(UserError, match="has no residual dropout; .* --lora_dropout 0.2"):
        load_causal_lm(arguments, residual_dropout=0.2)
