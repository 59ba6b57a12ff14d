"""Weights as pickles run code of whoever made them: refused wherever weights are loaded."""

from pathlib import Path

from instruct.errors import UserError

ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERT = (
    "where you trust who made it, load it by transformers or PEFT and save_pretrained it into a "
    "new folder: that writes safetensors"
)


def refuse_pickles(folder: str | Path, stem: str) -> None:
    """Refuses a folder whose weights are there as pickles alone.

    Args:
        stem: what the weights' files begin with: `model`, `adapter_model`.

    Raises:
        UserError: names the file and says how to convert it.
    """
    path = Path(folder)
    if not path.is_dir() or any(path.glob(f"{stem}*.safetensors")):
        return
    names = (stem, f"pytorch_{stem}")
    found = sorted(
        f.name for f in path.iterdir() if f.suffix in ENDINGS and f.name.startswith(names)
    )
    if found:
        raise pickled(f"{path / found[0]}")


def pickled(what: str) -> UserError:
    """The error for weights that are no safetensors."""
    return UserError(
        f"{what}: weights are read as safetensors alone, a .bin may run code; {CONVERT}"
    )
