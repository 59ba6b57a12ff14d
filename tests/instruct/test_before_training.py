"""What a model, a machine or a folder cannot do is told before anything is trained."""

import importlib.metadata
import importlib.util

import pytest
import torch
from command_tools import stops
from conftest import CHATML, make_model, make_tokenizer, save_model, write_jsonl
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, GPT2Config, GPT2ForSequenceClassification

from data_prep import sample
from instruct.arguments import ModelConfig, lora_config
from instruct.checks import machine_checks, model_limits
from instruct.checks.lora_names import settle_lora_names
from instruct.checks.machine_checks import check_machine
from instruct.checks.model_limits import limits_of
from instruct.errors import UserError
from instruct.models import load_policy, load_reward
from recipes import chat, evaluate, ppo, reward, sft

LONG = "Tell me about tea, please. " * 6
DEMOS = [{"prompt": "Tell me about tea.", "completion": "I like tea."}] * 4
QUIET = ["--report_to", "none", "--disable_tqdm", "True", "--max_steps", "1"]


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("short") / "gpt2", "gpt2", n_positions=40)


def train(cli, model, rows, tmp_path, capsys, *flags) -> str:
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    argv = ["--model_name_or_path", model, "--dataset_name", data, *flags, *QUIET]
    error = stops(cli, [*argv, "--output_dir", tmp_path / "out"], capsys)
    return error.strip().splitlines()[-1]


################
# Positions and token ids
################


def test_rows_longer_than_the_positions_are_named(short, tmp_path, capsys):
    rows = [*DEMOS[:2], {"prompt": LONG, "completion": "a"}]
    error = train(sft.cli, short, rows, tmp_path, capsys)
    assert "row 3: " in error and "40 positions; --max_length 40 leaves" in error
    ranking = {"prompt": LONG, "completions": ["a", "b"], "ranks": [1, 2]}
    error = train(reward.cli, short, [ranking] * 2, tmp_path, capsys, "--eval_fraction", "0")
    assert "row 1: " in error and "40 positions" in error
    flags = ["--reward_funcs", "builtins:len", "--response_length", "30"]
    error = train(ppo.cli, short, [{"prompt": "Tell me about tea."}] * 2, tmp_path, capsys, *flags)
    assert "rows.jsonl, row 1: " in error and "and 30 new ones" in error
    assert "--response_length" in error


def test_a_reward_model_of_fewer_positions_is_told_before_training(tiny_model, tmp_path, capsys):
    judge = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=512, n_positions=40, n_embd=32, n_layer=1, n_head=2, num_labels=1)
    )
    judge.save_pretrained(tmp_path / "judge")
    make_tokenizer().save_pretrained(tmp_path / "judge")
    flags = ["--reward_model_path", str(tmp_path / "judge"), "--response_length", "20"]
    error = train(
        ppo.cli, tiny_model, [{"prompt": "Hi"}, {"prompt": LONG}], tmp_path, capsys, *flags
    )
    assert "judge, training prompts, row 2: " in error and "has 40 positions; lower" in error


def test_sampling_beyond_the_positions_is_refused(short, tmp_path, capsys):
    rows = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Hi"}, {"prompt": LONG}])
    argv = ["--model_name_or_path", short, "--input", rows, "--output", tmp_path / "s.jsonl"]
    error = stops(sample.main, [*argv, "--max_new_tokens", "8"], capsys)
    # by its id, however prompts are batched
    assert "p.jsonl, prompt " in error and "lower --max_new_tokens" in error
    assert "40 positions" in stops(chat.main, ["--models", f"a={short}", "--prompt", LONG], capsys)
    argv = ["--models", f"sft={short}", "--input", rows, "--output_dir", tmp_path / "e"]
    assert "40 positions" in stops(evaluate.main, argv, capsys)


@pytest.mark.parametrize(
    ("kind", "settings", "positions"),
    [
        ("gpt2", {"n_positions": 24}, 24),
        ("opt", {"max_position_embeddings": 48}, 48),
        ("gptj", {"n_positions": 24, "rotary_dim": 4}, 24),
        ("bert", {"max_position_embeddings": 48}, 48),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ("mpnet", {"max_position_embeddings": 514}, 512),
        ("longformer", {"max_position_embeddings": 4098}, 4096),
        ("yoso", {}, 4096),
        # nothing is looked up for a position
        ("llama", {"max_position_embeddings": 48}, None),
        ("falcon", {"alibi": True}, None),
        ("deberta-v2", {"position_biased_input": False, "relative_attention": True}, None),
        ("jamba", {}, None),
        ("rwkv", {}, None),
        ("xglm", {}, None),
        ("mamba", {}, None),
        ("bloom", {}, None),
        ("llama", {"max_position_embeddings": 48,
                   "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         None),
    ],
)  # fmt: skip
def test_positions_of_architectures(kind, settings, positions):
    random = torch.get_rng_state()
    limits = limits_of(AutoConfig.for_model(kind, **settings))
    assert limits.positions == positions
    assert torch.equal(torch.get_rng_state(), random)  # LoRA's first weights are drawn after it


def yarn(**settings) -> dict:
    return {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, **settings}}


@pytest.mark.parametrize(
    ("kind", "settings", "trained"),
    [
        ("qwen2", {"max_position_embeddings": 32768}, 32768),
        ("qwen2", {"max_position_embeddings": 32768,
                   **yarn(original_max_position_embeddings=32768)}, 131072),
        ("qwen3", {"max_position_embeddings": 131072,
                   **yarn(original_max_position_embeddings=32768)}, 131072),
        ("llama", {"max_position_embeddings": 4096,
                   "rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 1e4}},
         16384),
        ("gemma3_text", {"max_position_embeddings": 8192}, 8192),
        ("gpt2", {}, None),
        ("jamba", {}, None),
    ],
)  # fmt: skip
def test_how_long_the_rows_were_that_a_model_was_made_for(kind, settings, trained):
    assert limits_of(AutoConfig.for_model(kind, **settings)).trained == trained


def test_a_model_with_rope_takes_rows_longer_than_it_was_trained_on(tmp_path, capsys):
    model = save_model(tmp_path / "llama", max_position_embeddings=40)
    model_limits._told.clear()
    rows = write_jsonl(tmp_path / "d.jsonl", [*DEMOS, *[{"prompt": LONG, "completion": "a"}] * 2])
    argv = ["--model_name_or_path", model, "--dataset_name", rows, *QUIET]
    sft.cli([*argv, "--max_length", "4096", "--output_dir", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert said.count("the model was trained on rows of up to 40; it takes longer ones") == 1
    assert "row 5: " in said


def test_a_token_beyond_the_embedding_is_named(tmp_path, capsys):
    padded = make_tokenizer(pad_token=None)
    padded.add_special_tokens({"pad_token": "[PAD]"})
    model = save_model(tmp_path / "pad", tokenizer=padded)
    for cli, rows, flags in (
        (sft.cli, DEMOS, []),
        (reward.cli, [{"prompt": "a", "completions": ["a", "b"], "ranks": [1, 2]}] * 2,
         ["--eval_fraction", "0"]),
        (ppo.cli, [{"prompt": "a"}], ["--reward_funcs", "builtins:len"]),
    ):  # fmt: skip
        error = train(cli, model, rows, tmp_path, capsys, *flags)
        assert "'[PAD]' has id 512" in error and "embedding of 512 rows" in error
    # no special one, so only where a row holds it
    grown = make_tokenizer()
    grown.add_tokens(["<tool>"])
    model = save_model(tmp_path / "grown", tokenizer=grown)
    error = train(sft.cli, model, [*DEMOS, {"prompt": "<tool>", "completion": "b"}],
                  tmp_path, capsys)  # fmt: skip
    assert "row 5: its token 512 is beyond" in error


################
# LoRA
################


@pytest.mark.parametrize("wanted", [["foo"], ["q_proj", "foo"], ["("]])
def test_names_that_no_module_has_are_listed(wanted):
    model_args = ModelConfig(lora_target_modules=wanted)
    with pytest.raises(UserError, match="it has .*q_proj.*all-linear") as error:
        lora_config(model_args, make_model())
    assert f"--lora_target_modules {wanted[-1]}: " in str(error.value)


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ("q_proj", {"q_proj"}),
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        ("self_attn.q_proj", {"self_attn.q_proj"}),
        ("all-linear", "all-linear"),
        (r".*\.(q|k)_proj", r".*\.(q|k)_proj"),
    ],
)
def test_a_single_name_is_a_name(given, settled):
    config = LoraConfig(target_modules=given)
    settle_lora_names(config, make_model())
    assert config.target_modules == settled


def test_modules_to_save_have_to_be_there(tmp_path, capsys, tiny_model):
    ranking = {"prompt": "a", "completions": ["a", "b"], "ranks": [1, 2]}
    flags = ["--eval_fraction", "0", "--lora_modules_to_save", "foo"]
    error = train(reward.cli, tiny_model, [ranking] * 2, tmp_path, capsys, *flags)
    assert "--lora_modules_to_save foo: the model has no module of that name" in error


def config_for(model, **flags) -> LoraConfig:
    return lora_config(ModelConfig(lora_r=4, lora_task_type="CAUSAL_LM", **flags), model)


def test_experts_train_by_default_without_dropout(capsys):
    model = make_model("mixtral", num_local_experts=2)
    config = config_for(model)
    assert config.lora_dropout == 0
    assert capsys.readouterr().out.count("--lora_dropout is 0 here: ") == 1
    put = get_peft_model(model, config)
    assert any("experts" in n and p.requires_grad for n, p in put.named_parameters())
    # asked for, it is refused; where no adapter stands on a parameter, it stays
    for flags in ({"lora_dropout": 0.1}, {"use_dora": True}, {"use_dora": True, "lora_dropout": 0}):
        with pytest.raises(UserError, match="adapters on parameters of this model"):
            config_for(make_model("mixtral", num_local_experts=2), **flags)
    plain = {"lora_target_modules": ["q_proj"], "lora_dropout": 0.1}
    assert config_for(make_model("mixtral", num_local_experts=2), **plain).lora_dropout == 0.1
    assert config_for(make_model()).lora_dropout == 0.05


def test_all_linear_of_mamba_are_those_that_take_an_adapter(capsys):
    model = make_model("mamba", state_size=8)
    put = get_peft_model(model, config_for(model))
    assert "all-linear: without out_proj" in capsys.readouterr().out
    trained = {n.split(".lora_")[0].rpartition(".")[2]
               for n, p in put.named_parameters() if p.requires_grad}  # fmt: skip
    assert trained == {"in_proj", "x_proj", "dt_proj"}


@pytest.mark.parametrize("cli", [sft.cli, ppo.cli])
def test_what_peft_refuses_is_a_sentence_in_every_recipe(cli, tmp_path, capsys):
    model = save_model(tmp_path / "mamba", "mamba", state_size=8)
    flags = ["--reward_funcs", "builtins:len"] if cli is ppo.cli else []
    error = train(cli, model, DEMOS, tmp_path, capsys, *flags, "--lora_target_modules", "out_proj")
    assert "'out_proj' is incompatible with Mamba" in error and "a bug" not in error


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "down_proj"]])
def test_a_parameter_of_a_layer_that_is_named_already(targets):
    flags = {"lora_target_parameters": ["mlp.down_proj.weight"]}
    with pytest.raises(UserError, match="--lora_target_parameters mlp.down_proj.weight: is of a"):
        config_for(make_model(), lora_target_modules=targets, **flags)
    config_for(make_model(), lora_target_modules=["q_proj"], lora_dropout=0.0, **flags)


################
# Machine
################


@pytest.mark.parametrize(
    ("flags", "gpu", "packages", "said"),
    [
        ({"load_in_4bit": True}, False, ["bitsandbytes"], "--load_in_4bit needs a GPU"),
        ({"load_in_8bit": True}, True, [], "--load_in_8bit needs bitsandbytes"),
        ({"attn_implementation": "flash_attention_2"}, True, [], "its package is not installed"),
        ({"attn_implementation": "flash_attention_2"}, False, ["flash_attn"], "needs a GPU"),
        ({"attn_implementation": "flash_attention_3"}, True, [], "its package is not installed"),
        ({"load_in_4bit": True}, True, ["bitsandbytes"], None),
        ({"attn_implementation": "flash_attention_2"}, True, ["kernels"], None),
        ({"attn_implementation": "sdpa"}, False, [], None),
    ],
)
def test_what_the_machine_lacks(flags, gpu, packages, said, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    monkeypatch.setattr(machine_checks, "find_spec", lambda name: name in packages or None)
    if said is None:
        check_machine(ModelConfig(**flags))
    else:
        with pytest.raises(UserError, match=said):
            check_machine(ModelConfig(**flags))


def test_an_old_torchao_is_told_before_training(monkeypatch, tmp_path, capsys, tiny_model):
    import peft.import_utils

    version, find = importlib.metadata.version, importlib.util.find_spec
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "0.10.0" if n == "torchao" else version(n)
    )
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: True if n == "torchao" else find(n, *a)
    )
    peft.import_utils.is_torchao_available.cache_clear()
    error = train(sft.cli, tiny_model, DEMOS, tmp_path, capsys)
    assert "torchao" in error and "0.10.0" in error and "pip install -U torchao" in error
    peft.import_utils.is_torchao_available.cache_clear()


################
# Columns, weights, dtype
################


@pytest.mark.parametrize("column", ["prompt_ids", "prompts"])
def test_a_column_that_reward_functions_cannot_be_given(column, tiny_model, tmp_path, capsys):
    rows = [{"prompt": "Hi", column: "x"}] * 2
    error = train(ppo.cli, tiny_model, rows, tmp_path, capsys, "--reward_funcs", "builtins:len")
    assert f"rename the column '{column}'" in error


def test_pickled_weights_are_refused_wherever_they_are_loaded(tmp_path, tiny_model):
    folder = tmp_path / "bin"
    model = make_model()
    model.config.save_pretrained(folder)
    make_tokenizer(CHATML).save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    for load in (load_policy, load_reward):
        with pytest.raises(UserError, match=r"pytorch_model.bin.*safetensors alone.*_pretrained"):
            load(str(folder))
    for kind in ("CAUSAL_LM", "SEQ_CLS"):
        adapter = tmp_path / kind
        LoraConfig(task_type=kind, base_model_name_or_path=tiny_model, target_modules=["q_proj"],
                   inference_mode=True).save_pretrained(adapter)  # fmt: skip
        make_tokenizer().save_pretrained(adapter)
        torch.save({}, adapter / "adapter_model.bin")
        load = load_policy if kind == "CAUSAL_LM" else load_reward
        with pytest.raises(UserError, match="adapter_model.bin.*safetensors alone"):
            load(str(adapter))


def test_a_folder_without_weights_is_told_from_one_with_pickles(tmp_path):
    make_model().config.save_pretrained(tmp_path)
    make_tokenizer(CHATML).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="model.safetensors") as error:
        load_policy(str(tmp_path))
    assert "may run code" not in str(error.value)


@pytest.mark.parametrize("command", ["sample", "evaluate", "chat"])
def test_a_wrong_dtype_is_told_before_anything_is_read(command, capsys):
    argv = {
        "sample": ["--model_name_or_path", "nope", "--input", "nope", "--output", "nope"],
        "evaluate": ["--models", "a=nope", "--input", "nope", "--output_dir", "nope"],
        "chat": ["--models", "a=nope"],
    }[command]
    main = {"sample": sample, "evaluate": evaluate, "chat": chat}[command].main
    assert "--dtype: invalid choice: 'float99'" in stops(
        main, [*argv, "--dtype", "float99"], capsys
    )


def test_a_wrong_dtype_is_told_by_loaders(tiny_model):
    with pytest.raises(UserError, match="--dtype float99: must be one of auto, bfloat16"):
        load_policy(tiny_model, "float99")
