"""Files of a model or an adapter that a copy has cut, emptied or changed: told by their names.

Libraries say what they found and not where; a folder has many files.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from instruct.checks.pickles import refuse_pickles
from instruct.errors import UserError
from instruct.plain_text import one_line


def check_weight_files(folder: str | Path, stem: str) -> None:
    """That a folder's weights are safetensors, and each file as long as its header says.

    Args:
        folder: nothing is looked for where it is none, as a Hub id.
        stem: what the weights' files begin with: `model`, `adapter_model`.

    Raises:
        UserError: names the file.
    """
    refuse_pickles(folder, stem)
    if not Path(folder).is_dir():
        return
    index = Path(folder) / f"{stem}.safetensors.index.json"
    # beside a whole file nobody reads it
    if index.is_file() and not (Path(folder) / f"{stem}.safetensors").is_file():
        json_object(index, "model")
    for file in sorted(Path(folder).glob(f"{stem}*.safetensors")):
        check_safetensors(file)


def check_safetensors(file: Path) -> None:
    """Reads the header alone. Raises `UserError` where it cannot be read, or the file is cut."""
    try:
        with safe_open(file, "pt"):
            pass
    except SafetensorError as error:
        raise UserError(
            f"{file}: this safetensors file is damaged ({error}); copy it anew"
        ) from error


def json_object(file: Path, whose: str) -> dict:
    """What a JSON file of a model or an adapter says. Raises `UserError` where it is no object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        told = one_line(str(error), 200)
        raise UserError(f"{file}: not a JSON file ({told}); copy that {whose} anew") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds no JSON object; copy that {whose} anew")
    return found
