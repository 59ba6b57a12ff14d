"""`merged/` says what base and adapter say: every kind of adapter, tied embeddings, dtypes."""

import json

import pytest
import torch
from conftest import make_model, make_tokenizer, save_model, write_jsonl
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from instruct import merging
from instruct.errors import UserError
from instruct.merging import logits_on_a_few_ids
from instruct.models import load_policy, save_merged
from recipes import sft

EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte"}
ATTENTION = {"llama": "v_proj", "gpt2": "c_attn"}


def adapter(folder, base: str, config, dtype=torch.float32) -> str:
    """An adapter on `base` whose weights have all moved."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def live_logits(base: str, path: str):
    """Base + adapter as PEFT computes them, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits_on_a_few_ids(PeftModel.from_pretrained(model, path).eval())


def configs(kind: str) -> dict:
    """{name: (adapter, whether embeddings and head are still one weight after it)}."""
    embed, attention = EMBEDDINGS[kind], ATTENTION[kind]

    def lora(*targets, **more):
        return LoraConfig(target_modules=list(targets), task_type="CAUSAL_LM", **more)

    return {
        "plain": (LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"), True),
        "DoRA": (lora(attention, use_dora=True), True),
        "rsLoRA": (lora(attention, use_rslora=True), True),
        "biases": (lora(attention, bias="all"), True),
        "embeddings": (lora(embed, attention), False),
        "head": (lora("lm_head", attention), False),
        "embeddings, DoRA": (lora(embed, use_dora=True), False),
        "embeddings saved": (lora(attention, modules_to_save=[embed]), False),
        "head saved": (lora(attention, modules_to_save=["lm_head"]), False),
        "both saved": (lora(attention, modules_to_save=[embed, "lm_head"]), False),
        "a few tokens": (lora(attention, trainable_token_indices=[0, 5]), True),
        "IA3": (IA3Config(target_modules=[attention], feedforward_modules=[]), True),
        "VeRA": (VeraConfig(target_modules=[attention], r=8), True),
    }


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # the second: Conv1D, fan_in_fan_out
@pytest.mark.parametrize("name", configs("llama"))
def test_merged_says_what_base_and_adapter_say(kind, name, tmp_path):
    config, stays_tied = configs(kind)[name]
    tied = {} if kind == "gpt2" else {"tie_word_embeddings": True}
    base = save_model(tmp_path / "base", kind, initializer_range=0.2, **tied)
    path = adapter(tmp_path / "adapter", base, config)
    wanted = live_logits(base, path)
    save_merged(path, str(tmp_path))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_on_a_few_ids(found), wanted, atol=1e-4)
    assert torch.allclose(logits_on_a_few_ids(load_policy(path)[0]), wanted, atol=1e-4)
    # the adapter does something, so that its loss would show
    plain = logits_on_a_few_ids(AutoModelForCausalLM.from_pretrained(base))
    assert (plain - wanted).abs().max() > 1e-2
    one = found.get_input_embeddings().weight is found.get_output_embeddings().weight
    assert one == stays_tied
    said = json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
    assert said == stays_tied


@pytest.mark.parametrize("name", ["plain", "DoRA", "embeddings"])
def test_a_16_bit_base_keeps_its_dtype_and_is_rounded_once(name, tmp_path):
    model = make_model("llama", tie_word_embeddings=True, initializer_range=0.2)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    path = adapter(tmp_path / "adapter", base, configs("llama")[name][0])
    save_merged(path, str(tmp_path))
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    # each weight is the exact one, rounded
    exact = load_policy(path)[0].state_dict()
    assert all(torch.equal(w, exact[key].to(torch.bfloat16)) for key, w in stored.items())


@pytest.mark.parametrize(
    "config, words",
    [
        (PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "PROMPT_TUNING"),
        (PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "PREFIX_TUNING"),
        (LoraConfig(target_modules="all-linear", task_type="SEQ_CLS"), "another task"),
        # a bias that the base has no place for
        (LoraConfig(target_modules=["v_proj"], lora_bias=True), "cannot be merged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_merged_is_refused_and_nothing_written(config, words, tiny_model, tmp_path):
    path = adapter(tmp_path / "adapter", tiny_model, config)
    for merge in (load_policy, lambda path: save_merged(path, str(tmp_path))):
        with pytest.raises(UserError, match=words):
            merge(path)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("change", ["drops", "adds", "shapes"])
def test_an_adapter_that_does_not_fit_its_base_is_refused(change, tiny_model, tmp_path):
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    path = adapter(tmp_path / "adapter", tiny_model, config)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    first = min(weights)
    if change == "drops":
        del weights[first]
    elif change == "adds":
        weights[first.replace("layers.0", "layers.7")] = weights[first].clone()
    else:
        weights[first] = weights[first][:, :3].contiguous()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match="do not fit this base model"):
        load_policy(path)


def test_a_merge_that_says_something_else_is_not_written(tiny_model, tmp_path, monkeypatch):
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    path = adapter(tmp_path / "adapter", tiny_model, config)
    with monkeypatch.context() as broken:
        # as though PEFT forgot to add
        broken.setattr(LoraLinear, "merge", lambda self, *args, **kwargs: None)
        with pytest.raises(UserError, match="says something else"):
            save_merged(path, str(tmp_path))
    assert not (tmp_path / "merged").exists()
    # as though embeddings were written as tied, which the adapter has told apart
    monkeypatch.setattr(merging, "_part_tied_embeddings", lambda base: None)
    tied = save_model(tmp_path / "tied", tie_word_embeddings=True, initializer_range=0.2)
    path = adapter(tmp_path / "other", tied, configs("llama")["embeddings"][0])
    with pytest.raises(UserError, match="says something else"):
        load_policy(path)


def test_on_a_base_stored_quantized_the_adapter_alone_is_written(tmp_path, capsys, monkeypatch):
    base = save_model(tmp_path / "base")
    model = make_model()
    model.name_or_path = base
    # as though it were quantized, which needs a GPU
    monkeypatch.setattr(sft, "load_causal_lm", lambda *args: model)
    stored = json.loads((tmp_path / "base" / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(stored))
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "Hi.", "completion": "Hello."}] * 2)
    out = tmp_path / "out"
    sft.cli([
        "--model_name_or_path", base, "--dataset_name", data, "--report_to", "none",
        "--output_dir", str(out), "--max_steps", "1", "--eval_strategy", "no",
    ])  # fmt: skip
    said = capsys.readouterr().out
    for words in ("only the adapter will be written", "holds the adapter alone"):
        assert f"{words}, " in said and said.count("stored quantized (bitsandbytes)") == 2
    assert "done: " not in said  # it is for no next step
    assert (out / "adapter_model.safetensors").is_file() and (out / "finished.json").is_file()
    assert not (out / "merged").exists() and "merged" not in (out / "README.md").read_text()
    with pytest.raises(UserError, match="stored quantized"):
        load_policy(str(out))
