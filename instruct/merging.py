"""Merging: base and adapter as one plain model that says what both say, or a refusal.

`merged/` is what the reward model and PPO start from: whatever a merge loses or changes, every
later step would learn around it.
"""

import warnings

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from instruct.checks.finite import CAUSE, check_weights
from instruct.checks.model_files import check_weight_files
from instruct.errors import UserError
from instruct.reward_checks import does_not_fit

# Relative difference of logits; in float32, the sums of a deep model alone differ by 1e-5 or so.
TOLERANCE = 1e-3
CHECKED_IDS = 16


def check_adapter_merges(path: str, config: PeftConfig) -> None:
    """That an adapter changes weights of a causal LM, so that there is something to merge.

    Raises:
        UserError: prompt or prefix tuning and the like, or the adapter of a reward model.
    """
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise UserError(
            f"{path}: {config.peft_type.value} puts vectors beside the prompt and changes no "
            "weight, so it cannot be merged into its base; give a LoRA adapter (recipes/sft.py)"
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise UserError(
            f"{path}: an adapter of another task ({config.task_type}), which writes no text; "
            "give a policy's, by recipes/sft.py or recipes/ppo.py"
        )


def why_base_does_not_merge(name: str, config: PretrainedConfig) -> str | None:
    """Why no adapter can be added to a base's weights as they are stored; None where one can.

    Quantized, they would round what is merged into them to a few bits.
    """
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return None
    method = stored if isinstance(stored, dict) else stored.to_dict()
    return (
        f"{name}: its weights are stored quantized ({method.get('quant_method')}), where a merged "
        "adapter would be rounded away; give the model it was made from, with --load_in_4bit True "
        "where memory is short"
    )


def merge(base: PreTrainedModel, path: str) -> PreTrainedModel:
    """The base with the adapter in `path` added to its weights, in eval mode and in its own dtypes.

    Of what `check_adapter_merges` and `why_base_does_not_merge` have let through. Added in float32
    and rounded once. Embeddings stay tied where the adapter left them alike.

    Raises:
        UserError: the adapter cannot be merged, is not of this base, or the logits on a few ids are
            not those of base and adapter.
    """
    dtypes = {n: p.dtype for n, p in base.named_parameters(remove_duplicate=False)}
    tied = base.config.get_text_config().tie_word_embeddings
    # parameters alone: buffers (rotary frequencies) have the precision that they need
    _cast(base, dict.fromkeys(dtypes, torch.float32))
    model = _put(base, path)
    check_weights(model, path)
    wanted = logits_on_a_few_ids(model)
    if not wanted.isfinite().all():
        raise UserError(f"{path}: what base and adapter say is not finite; {CAUSE}")
    _part_tied_embeddings(base)
    try:
        with warnings.catch_warnings():
            # of embeddings that were tied, which is settled here
            warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|no longer tied)")
            plain = model.merge_and_unload(safe_merge=True)
    # what PEFT says of the kinds of adapter that have no merge
    except (NotImplementedError, AttributeError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: this adapter cannot be merged into its base ({error}); train one that can, "
            "plain LoRA"
        ) from error
    if tied:
        _tie_what_is_alike(plain)
    check_says(path, logits_on_a_few_ids(plain), wanted)
    _cast(plain, dtypes)
    check_weights(plain, f"{path}, merged in its base's dtype")
    return plain


def _cast(model: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.data = parameter.data.to(dtypes[name])


def _put(base: PreTrainedModel, path: str) -> PeftModel:
    """The base with every weight of the adapter in its place.

    PEFT loads what fits and drops the rest; what misses is drawn at random.
    """
    check_weight_files(path, "adapter_model")
    misfit = does_not_fit(path, base.config.name_or_path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            # not `from_pretrained`, which keeps what was loaded to itself
            model = PeftModel(base, PeftConfig.from_pretrained(path))
            loaded = model.load_adapter(path, "default", torch_device="cpu")
    except (RuntimeError, ValueError, KeyError) as error:
        raise misfit from error
    if loaded.missing_keys or loaded.unexpected_keys:
        raise misfit
    return model.eval()


@torch.no_grad()
def logits_on_a_few_ids(model: nn.Module) -> Tensor:
    """Logits [ids, vocabulary] of one row of ids from all over the vocabulary, in float32."""
    config = model.config.get_text_config()
    length = min(CHECKED_IDS, getattr(config, "max_position_embeddings", None) or CHECKED_IDS)
    ids = torch.linspace(0, config.vocab_size - 1, length).long()[None].to(model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float()
    # tokens that the model masks: no difference can be taken of them
    return logits.masked_fill(logits == -torch.inf, 0.0)


def check_says(path: str, found: Tensor, wanted: Tensor) -> None:
    """That logits are those wanted. Raises `UserError`, for NaN as well."""
    gap = ((found - wanted).norm() / wanted.norm()).item()
    if not gap <= TOLERANCE:
        raise UserError(
            f"{path}: merged into its base it says something else (logits differ by {gap:.1e} of "
            "their size), so nothing is written; the adapter itself is right: load it by PEFT"
        )


# ---- tied embeddings -----------------------------------------------------------------------------


def _below(module: nn.Module) -> nn.Module:
    """The module that an adapter stands on, or the module itself."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        return module.original_module
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def _part_tied_embeddings(base: PreTrainedModel) -> None:
    """Embeddings and LM head, one weight: an adapter of one of them must not change the other."""
    first, last = base.get_input_embeddings(), base.get_output_embeddings()
    if last is None or _below(first) is first and _below(last) is last:
        return
    first, last = _below(first), _below(last)
    if last.weight is first.weight:
        last.weight = nn.Parameter(first.weight.detach().clone(), requires_grad=False)


def _tie_what_is_alike(plain: PreTrainedModel) -> None:
    """One weight again where the adapter left both alike, else two by the configuration, too."""
    first, last = plain.get_input_embeddings(), plain.get_output_embeddings()
    alike = torch.equal(first.weight, last.weight)
    if alike:
        last.weight = first.weight
    for config in (plain.config, plain.config.get_text_config()):
        config.tie_word_embeddings = alike
