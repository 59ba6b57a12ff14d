"""Errors of libraries, told as one sentence that says what a user can change.

Known by the library and the name of the class, so that no library is imported to ask.
"""

import errno
import os
import re
import traceback
from collections.abc import Iterator
from importlib.util import find_spec

from instruct.files import DISK
from instruct.hub import is_refusal
from instruct.processes import less_overwrite

# libraries that write by themselves tell it in words alone: Rust's and DuckDB's
IN_WORDS = re.compile(r"os error (\d+)|errno (\d+)", re.IGNORECASE)
FULL = ("no space left on device", "inline_container.cc")  # the second: torch.save

OUT_OF_MEMORY = (
    "out of memory; smaller batches (--per_device_train_batch_size, --batch_size) or shorter rows "
    "(--max_length), see docs/troubleshooting.md"
)
UNREACHABLE = (
    "the Hub cannot be reached, and what is asked of it is neither in the cache nor a folder here; "
    "look at the path, or at the network, HF_ENDPOINT, HF_HUB_OFFLINE and the proxy"
)
REFUSED = (
    "the Hub refuses this ({}); look at the name, accept the terms on its page, and give a token "
    "by HF_TOKEN"
)
LATER = "the Hub cannot answer now ({}); run the same command again later"
OTHER_PROCESS = "another process of this run has ended ({}); what it said is the reason"
# (library, class) -> sentence; {} is the first line of what the library says
KNOWN = {
    ("torch", "OutOfMemoryError"): OUT_OF_MEMORY,
    ("builtins", "MemoryError"): OUT_OF_MEMORY,
    ("huggingface_hub", "GatedRepoError"): REFUSED,
    ("huggingface_hub", "RepositoryNotFoundError"): REFUSED,
    ("huggingface_hub", "RevisionNotFoundError"): "the Hub has no such revision ({})",
    ("huggingface_hub", "LocalTokenNotFoundError"): REFUSED,
    ("huggingface_hub", "OfflineModeIsEnabled"): UNREACHABLE,
    ("huggingface_hub", "LocalEntryNotFoundError"): UNREACHABLE,
    ("datasets", "OfflineModeIsEnabled"): UNREACHABLE,
    ("huggingface_hub", "HfHubHTTPError"): REFUSED,
    ("huggingface_hub", "HFValidationError"): "no folder of that name here, nor a Hub id: {}",
    ("httpx", "TransportError"): UNREACHABLE,
    ("httpx2", "TransportError"): UNREACHABLE,
    ("requests", "ConnectionError"): UNREACHABLE,
    ("requests", "Timeout"): UNREACHABLE,
    ("safetensors", "SafetensorError"): "a safetensors file is damaged ({}); copy it anew",
    ("torch", "DistNetworkError"): OTHER_PROCESS,
    ("torch", "DistBackendError"): OTHER_PROCESS,
}
# (class, words in what it says) -> sentence
KNOWN_WORDS = {
    # optional packages, of transformers' loggers and quantizers, and of PEFT
    ("ImportError", "pip install"): "{}",
    ("RuntimeError", "pip install"): "{}",
    # PEFT's, of every layer
    ("ImportError", "incompatible version of torchao"): "{}; pip install -U torchao, or remove it",
    ("ImportError", "incompatible version"): "{}",
    # PEFT, of a module that is there (`checks.lora_names`) and of another kind
    ("ValueError", "Target module "): "--lora_target_modules: {}",
    # transformers, at the first evaluation and in accelerate
    ("KeyError", "metric_for_best_model"): "{}",
    ("ValueError", "is not a valid DynamoBackend"): "--torch_compile_backend: {}",
    ("RuntimeError", "Unrecognized mode="): "--torch_compile_mode: {}",
    ("ValueError", "embedded null byte"): "a path or a name holds a NUL character",
    ("RuntimeError", "can't allocate memory"): OUT_OF_MEMORY,
    ("RuntimeError", "Connection closed by peer"): OTHER_PROCESS,
    ("RuntimeError", "Connection reset by peer"): OTHER_PROCESS,
    ("OSError", "Consistency check failed"): "{}",
}
# ours: a module of these that is missing is a bug
OURS = ("instruct", "data_prep", "recipes")
# whose constructors look at flags, and refuse some of them
TRAINERS = re.compile(r"[/\\](transformers[/\\]trainer|trl[/\\]trainer[/\\]\w+)\.py$")
PEFT = re.compile(r"[/\\]peft[/\\]tuners[/\\]")
LIBRARIES = re.compile(r"[/\\](transformers|trl|peft|accelerate)[/\\]")


def sentence_of(error: BaseException) -> str | None:
    """What a user can change, from an error or what caused it; None for one that nobody knows."""
    if sentence := disk_sentence(error):
        return f"{sentence}, then run the same command again{less_overwrite()}"
    return next((known for seen in _causes(error) if (known := _known(seen))), None)


def _known(error: BaseException) -> str | None:
    # str() of a KeyError puts what it says in quotes
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    said = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    for kind in type(error).__mro__:
        if sentence := KNOWN.get((kind.__module__.split(".")[0], kind.__name__)):
            later = kind.__name__ == "HfHubHTTPError" and not is_refusal(error)
            return (LATER if later else sentence).format(said)
        for (name, words), sentence in KNOWN_WORDS.items():
            # a bug of ours may say this as well
            anyones = name == "RuntimeError" and words == "pip install"
            if kind.__name__ == name and words in text and not (anyones and _raised_by_us(error)):
                return sentence.format(said)
    if isinstance(error, ModuleNotFoundError):
        missing = str(error.name or "").split(".")[0]
        if missing.isidentifier() and missing not in OURS and find_spec(missing) is None:
            return f"the package {missing} is not installed; pip install it"
        # of a package that is there, another version may be what is asked for: ours to say
        return None if missing else said
    return said if _refused_by_trainer(error) else None


def _raised_by_us(error: BaseException) -> bool:
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not frames or not LIBRARIES.search(frames[-1])


def _refused_by_trainer(error: BaseException) -> bool:
    """Whether a trainer or an adapter raised this on purpose, of its flags, while it was made."""
    if not isinstance(error, ValueError | NotImplementedError):
        return False
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    made = any(c.co_name == "__init__" and TRAINERS.search(c.co_filename) for c in frames)
    # an adapter's settings, by PEFT: on PPO's shared base no trainer stands between
    made = made or any(c.co_name == "inject_adapter" and PEFT.search(c.co_filename) for c in frames)
    return made and bool(LIBRARIES.search(frames[-1].co_filename))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def disk_sentence(error: BaseException) -> str | None:
    """What is wrong with the disk, from an error or what caused it; None for any other error."""
    seen: BaseException | None = error
    caused = True
    while seen is not None:
        code = _errno(seen)
        # what only happened before says nothing, unless nothing can be written any more
        if code in DISK and (caused or code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)):
            names = (getattr(seen, "filename2", None), getattr(seen, "filename", None))
            # a descriptor's number is no name
            where = next((os.fsdecode(n) for n in names if isinstance(n, str | bytes)), None)
            return f"{where}: {DISK[code]}" if where else DISK[code]
        caused = seen.__cause__ is not None
        seen = seen.__cause__ or seen.__context__
    return None


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    said = str(error)
    if any(words in said.lower() for words in FULL):
        return errno.ENOSPC
    # a plain `Exception` is all that tokenizers raises; ValueError and the like may quote anything
    tells = type(error) is Exception or type(error).__module__ != "builtins"
    found = IN_WORDS.search(said) if tells or isinstance(error, OSError) else None
    return int(found[1] or found[2]) if found else None
