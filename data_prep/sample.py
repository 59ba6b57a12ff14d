"""Prompts -> samples: K outputs of each prompt, from one or several models and temperatures (paper, section 3.4).

    python -m data_prep.sample --model_name_or_path M --input prompts/train.parquet --num_outputs 4 --output samples.jsonl

The K outputs of a prompt are dealt out over the models and temperatures in turn. Killed and run again it continues:
finished batches lie in `<output>.partial`, and each batch draws from its own seed, so the result is the same.
"""

import argparse
import hashlib
import itertools
import json
import random
from collections import defaultdict
from pathlib import Path

from instruct.files import UserError, command, load_rows, write_rows


def stable_seed(*parts) -> int:
    """A seed for torch from any values, the same in every process and run."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:15], 16)


def read_partial(path: Path, settings: dict) -> dict[str, list]:
    """Batches that an earlier run with the same settings finished, by batch key; an unfinished last line is dropped."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")
    if lines[0] != json.dumps(settings).encode():
        print(f"{path} is from a run with other settings: starting over")
        path.unlink()
        return {}
    done = {}
    for line in lines[
        1:-1
    ]:  # every whole line ends in a newline, so what follows the last one is unfinished
        entry = json.loads(line)
        done[entry["batch"]] = entry["completions"]
    path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
    return done


@command
def main(argv: list[str] | None = None) -> None:
    import torch
    from tqdm import tqdm

    from instruct.generation import generate_ids
    from instruct.models import load_policy
    from instruct.tokens import (
        as_messages,
        as_text,
        decode_completion,
        encode_completion,
        encode_prompt,
        load_tokenizer,
    )

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model_name_or_path", nargs="+", required=True, help="models or adapters to sample from"
    )
    parser.add_argument("--input", required=True, help="prompts: file, folder or Hub id")
    parser.add_argument("--output", required=True, type=Path, help="samples (.jsonl or .parquet)")
    parser.add_argument("--num_outputs", type=int, default=4, help="K outputs of each prompt")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0])
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument(
        "--max_prompt_tokens",
        type=int,
        default=512,
        help="longer prompts are left out, and counted",
    )
    parser.add_argument("--answers", help="rows with prompt_id and completion: people's answers of at most --max_new_tokens, "
                        "added to the K outputs; only prompts that have one are taken")  # fmt: skip
    parser.add_argument("--limit", type=int, help="this many prompts, drawn with --seed")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.output.is_file():
        print(f"{args.output} is there already; delete it to sample again")
        return

    rows, people = load_rows(args.input, columns=["prompt"]).to_list(), {}
    if args.answers:
        known = load_rows(args.answers, columns=["prompt_id", "completion"])
        tokenizer = load_tokenizer(args.model_name_or_path[0])
        people = {
            row["prompt_id"]: (row.get("source") or args.answers, as_text(row["completion"]))
            for row in known
            if len(encode_completion(tokenizer, row["completion"])) <= args.max_new_tokens
        }
        rows = [row for row in rows if row.get("id") in people]
        if not rows:
            raise UserError(
                f"{args.answers}: no prompt_id in it is the id of a prompt in {args.input}"
            )
    if args.limit and args.limit < len(rows):
        rows = random.Random(args.seed).sample(rows, args.limit)
    for number, row in enumerate(rows):
        row["prompt_id"] = str(row.get("id") or row.get("prompt_id") or number)
        row["prompt"] = as_messages(row["prompt"])
    sources = list(itertools.product(args.model_name_or_path, args.temperature))
    dealt = list(itertools.islice(itertools.cycle(sources), args.num_outputs))
    settings = {"models": args.model_name_or_path, "temperature": args.temperature, "num_outputs": args.num_outputs,
                "max_new_tokens": args.max_new_tokens, "batch_size": args.batch_size, "seed": args.seed,
                "max_prompt_tokens": args.max_prompt_tokens, "dtype": args.dtype,
                "prompts": stable_seed([r["prompt_id"] for r in rows])}  # fmt: skip
    partial = args.output.with_name(args.output.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    done = read_partial(partial, settings)
    if not partial.is_file():
        partial.write_text(json.dumps(settings) + "\n")

    outputs: dict[int, list] = defaultdict(list)  # row -> [(model, temperature, text)]
    bar = tqdm(total=len(rows) * args.num_outputs, desc="sampling", unit="output")
    with partial.open("a", encoding="utf-8") as log:
        for name, group in itertools.groupby(
            sorted(set(dealt), key=sources.index), key=lambda s: s[0]
        ):
            model, tokenizer = load_policy(name, dtype=args.dtype)
            ids = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
            short = [i for i in range(len(rows)) if len(ids[i]) <= args.max_prompt_tokens]
            order = sorted(short, key=lambda i: len(ids[i]))  # similar lengths share a batch
            for source in group:
                copies = dealt.count(source)
                step = max(1, args.batch_size // copies)
                for start in range(0, len(order), step):
                    batch, key = order[start : start + step], f"{sources.index(source)}:{start}"
                    if key not in done:
                        torch.manual_seed(stable_seed(args.seed, *source, start))
                        drawn = generate_ids(
                            model,
                            tokenizer,
                            [ids[i] for i in batch],
                            args.max_new_tokens,
                            source[1],
                            copies,
                        )
                        done[key] = [decode_completion(tokenizer, row) for row in drawn]
                        log.write(json.dumps({"batch": key, "completions": done[key]}) + "\n")
                        log.flush()
                    for n, text in enumerate(done[key]):
                        outputs[batch[n // copies]].append((*source, text))
                    bar.update(len(done[key]))
    bar.close()
    too_long = len(rows) - len(outputs)
    if not outputs:
        raise UserError(
            f"{args.input}: every prompt is longer than --max_prompt_tokens {args.max_prompt_tokens}"
        )
    samples = []
    for i in sorted(outputs):
        models, temperatures, texts = (list(column) for column in zip(*outputs[i], strict=True))
        keep = {k: rows[i][k] for k in ("prompt_id", "prompt", "user_id") if k in rows[i]}
        sampling = [
            {"temperature": t, "max_new_tokens": args.max_new_tokens, "seed": args.seed}
            for t in temperatures
        ]
        if rows[i]["prompt_id"] in people:
            source, text = people[rows[i]["prompt_id"]]
            models, texts, sampling = [*models, source], [*texts, text], [*sampling, None]
        samples.append({**keep, "completions": texts, "model": models, "sampling": sampling})
    write_rows(args.output, samples)
    partial.unlink()
    print(
        f"{args.output}: {len(samples)} prompts with {args.num_outputs} outputs each, {too_long} prompts too long"
    )


if __name__ == "__main__":
    main()
