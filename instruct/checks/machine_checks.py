"""What a flag of the model needs of this machine: told before anything is loaded."""

import os
from importlib.util import find_spec

import torch
import trl

from instruct.errors import UserError

# where launchers say how many processes they start
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# flag's value -> (package that is imported, what is installed)
FLASH = {
    "flash_attention_2": ("flash_attn", "flash-attn --no-build-isolation"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
    "flash_attention_4": ("flash_attn.cute", "flash-attn-4"),
}


def check_launch(given: dict) -> None:
    """Refuses what processes cannot be started with here: asked before torch starts them.

    Args:
        given: flag -> value, as typed or in the YAML file.

    Raises:
        UserError: no GPU, or a package that is missing.
    """
    backend = given.get("ddp_backend")
    if backend == "nccl" and (given.get("use_cpu") or not torch.cuda.is_available()):
        raise UserError("--ddp_backend nccl needs a CUDA GPU, and none is used; give gloo")
    if backend and not torch.distributed.is_backend_available(backend):
        raise UserError(f"--ddp_backend {backend}: this torch has no such backend; leave it out")
    if backend and not any(name in os.environ for name in SIZES):
        raise UserError(
            f"--ddp_backend {backend}: is of several processes; start them by torchrun or "
            "accelerate launch, or leave it out"
        )
    if given.get("deepspeed") and find_spec("deepspeed") is None:
        raise UserError("--deepspeed needs its package: pip install deepspeed")


def check_machine(model_args: trl.ModelConfig) -> None:
    """Refuses quantization and attention that cannot work here.

    Raises:
        UserError: no GPU, or a package that is missing.
    """
    for bits in ("4bit", "8bit"):
        if not getattr(model_args, f"load_in_{bits}"):
            continue
        if not torch.accelerator.is_available():
            raise UserError(
                f"--load_in_{bits} needs a GPU, and none is found; leave it out, "
                "--dtype bfloat16 halves the memory"
            )
        if find_spec("bitsandbytes") is None:
            raise UserError(f"--load_in_{bits} needs bitsandbytes: pip install bitsandbytes")
    _check_attention(model_args.attn_implementation)


def _check_attention(asked: str | None) -> None:
    if asked not in FLASH:
        return
    package, install = FLASH[asked]
    # transformers takes a kernel from the Hub where `kernels` is installed
    if find_spec(package.split(".")[0]) is None and find_spec("kernels") is None:
        raise UserError(
            f"--attn_implementation {asked}: its package is not installed; "
            f"pip install {install}, or leave the flag out"
        )
    if not torch.accelerator.is_available():
        raise UserError(
            f"--attn_implementation {asked} needs a GPU, and none is found; leave it out"
        )
