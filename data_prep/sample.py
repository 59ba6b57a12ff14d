"""Prompts -> samples: K outputs of each, from one or several models and temperatures (section 3.4).

    python -m data_prep.sample --model_name_or_path M --input prompts/train.parquet \\
        --num_outputs 4 --output samples.jsonl

The K outputs of a prompt are dealt out over the models and temperatures in turn. Killed and run
again it continues: finished batches lie in `<output>.partial`, and each batch draws from its own
seed, so the result is the same.
"""

import argparse
import hashlib
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.finished_batches import FinishedBatches, partial_of
from data_prep.formats.flags import add_shape_flags, shape_of
from data_prep.formats.identifiers import identifier_of, text_of
from data_prep.formats.reader import read, read_rows
from instruct.bases import add_base_model
from instruct.checks.flag_ranges import DTYPES
from instruct.command.commands import Parser, command
from instruct.errors import UserError
from instruct.files import check_output, load_rows, write_json, write_rows
from instruct.rows.row_checks import is_blank
from instruct.run.data_runs import VERSIONS_OF, add_overwrite
from instruct.run.fingerprints import content_of, data_identity, model_identity
from instruct.run.folders import claim, record_beside
from instruct.run.run_record import versions


class Source(NamedTuple):
    """Where an output comes from."""

    model: str
    temperature: float


class Output(NamedTuple):
    """One completion. `sampling` is how it was drawn, None where a person wrote it."""

    model: str
    sampling: dict | None
    text: str


def stable_seed(*parts) -> int:
    """A seed for torch from any values, the same in every process and run."""
    # `hash()` of texts differs by process; 60 bits fit torch's seed
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:15], 16)


# --- what is sampled, from what -------------------------------------------------------------------


def choose_prompts(
    rows: list[dict], people: dict[str, Output], args: argparse.Namespace
) -> list[dict]:
    """Rows with `prompt_id` and `prompt` (messages): `--limit` of them, those with an answer."""
    for number, row in enumerate(rows, 1):
        named = (identifier_of(row, c, f"{args.input}, row {number}") for c in ("id", "prompt_id"))
        row["prompt_id"] = next(filter(None, named), None)
    if args.answers:
        answered = [row for row in rows if row["prompt_id"] in people]
        if not answered:
            raise UserError(
                f"{args.answers}: no prompt_id in it is the id of a prompt in {args.input}"
            )
        print(f"{args.input}: {len(rows) - len(answered)} prompts without a person's answer")
        rows = answered
    if args.limit and args.limit < len(rows):
        # after the filter above, so that --limit is met
        rows = random.Random(args.seed).sample(rows, args.limit)
    for number, row in enumerate(rows):
        # the number only where a row has no id
        row["prompt_id"] = row["prompt_id"] or str(number)
    return rows


def peoples_answers(args: argparse.Namespace) -> dict[str, Output]:
    """{prompt_id: answer} of those in `--answers` that are no longer than an output may be."""
    from instruct.tokens import as_text, encode_completion, load_tokenizer

    if not args.answers:
        return {}
    known = read_rows(args.answers, "answers")
    tokenizer = load_tokenizer(args.model_name_or_path[0])
    people = {}
    for where, row in known.rows:
        prompt_id = identifier_of(row, "prompt_id", where)
        # labelers who wrote both sides name no prompt
        if prompt_id is None or is_blank(row["completion"]):
            continue
        if len(encode_completion(tokenizer, row["completion"])) <= args.max_new_tokens:
            people[prompt_id] = Output(
                model=text_of(row, "source", where) or args.answers,
                sampling=None,
                text=as_text(row["completion"]),
            )
    print(
        f"{args.answers}: {len(people)} prompts have an answer short enough, of {known.total} rows"
    )
    return people


def deal_out(args: argparse.Namespace) -> list[Source]:
    """The sources of the K outputs, model by model: all models and temperatures take turns.

    Raises:
        UserError: some of them would have no turn.
    """
    pairs = itertools.product(args.model_name_or_path, args.temperature)
    sources = [Source(model=model, temperature=temperature) for model, temperature in pairs]
    if len(sources) > args.num_outputs:
        left = sources[args.num_outputs]
        raise UserError(
            f"--num_outputs {args.num_outputs}: fewer than the {len(sources)} models and "
            f"temperatures that take turns, so {left.model} at {left.temperature:g} would draw "
            "nothing; give more outputs, or fewer of those"
        )
    # in turn, so that 4 outputs of 3 models are 2, 1 and 1
    dealt = itertools.islice(itertools.cycle(sources), args.num_outputs)
    # model by model: each is loaded once
    return sorted(dealt, key=sources.index)


def settings_of(args: argparse.Namespace) -> dict:
    """Everything that changes the outputs; models and data by content as well as by name."""
    models = [content_of(model_identity(name)) for name in args.model_name_or_path]
    return {
        "model_name_or_path": args.model_name_or_path,
        "models": models,
        "input": content_of(data_identity(args.input, "train")),
        "answers": content_of(data_identity(args.answers, "train")),
        "limit": args.limit,
        "temperature": args.temperature,
        "num_outputs": args.num_outputs,
        "max_new_tokens": args.max_new_tokens,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "max_prompt_tokens": args.max_prompt_tokens,
        "dtype": args.dtype,
        **{flag: value for flag, value in shape_of(args).items() if value},
    }


def start_over(output: Path, record: Path, partial: Path) -> None:
    """Removes what an earlier run wrote.

    Raises:
        UserError: the output holds no samples.
    """
    if output.is_file() and not record.is_file():
        check_samples(output)
    # last: without it nobody knows whose the others are
    for path in (partial, output, record):
        path.unlink(missing_ok=True)


def check_samples(output: Path) -> None:
    """That a file without a record is of an earlier version, which kept none; not somebody's own.

    Raises:
        UserError: it holds no samples.
    """
    if "completions" not in load_rows(output).column_names:
        raise UserError(f"{output} is there already and holds no samples; give another --output")


def check_same(record: Path, settings: dict, output: Path) -> None:
    """That a finished output is what this command would draw.

    Raises:
        UserError: it is of another model, other data or other flags.
    """
    found = settings
    if record.is_file():
        found = json.loads(record.read_text())
    else:
        check_samples(output)
    changed = [name for name in settings if found.get(name) != settings[name]]
    if changed:
        raise UserError(
            f"{output} is there already, drawn with other {', '.join(changed)}; "
            "add --overwrite_output_dir to sample again, or give another --output"
        )


# --- sampling -------------------------------------------------------------------------------------


def draw_outputs(
    rows: list[dict], dealt: list[Source], finished: FinishedBatches, args: argparse.Namespace
) -> dict[int, list[Output]]:
    """{number of the row: its K outputs}. Rows whose prompt is too long are left out."""
    from tqdm import tqdm

    from instruct.checks.model_limits import check_prompts
    from instruct.models import load_policy
    from instruct.tokens import encode_prompt_of

    names = [f"{args.input}, prompt {row['prompt_id']}" for row in rows]
    outputs: dict[int, list[Output]] = defaultdict(list)
    loaded = None
    total = len(rows) * args.num_outputs
    # closed also by an error, whose sentence then has a line of its own
    with tqdm(total=total, desc="sampling", unit="output") as bar:
        # 1. one source after another, all its copies of every prompt
        for number, source in enumerate(dict.fromkeys(dealt)):
            if source.model != loaded:  # one model at a time, all its temperatures in a row
                model, tokenizer = load_policy(source.model, dtype=args.dtype)
                # tokenizers may differ by model
                ids = [
                    encode_prompt_of(tokenizer, row, where)
                    for row, where in zip(rows, names, strict=True)
                ]
                # those that are sampled from
                asked = [(names[i], ids[i]) for i in range(len(ids)) if is_short(ids[i], args)]
                check_prompts(model.config, asked, args.max_new_tokens)
                loaded = source.model
            sampling = {
                "temperature": source.temperature,
                "max_new_tokens": args.max_new_tokens,
                "seed": args.seed,
            }
            # 2. its batches, less those that an earlier run finished
            copies = dealt.count(source)
            for start, batch in batches_by_length(ids, copies, args):
                key = f"{number}:{start}"
                if key not in finished.done:
                    # a seed per batch: what was drawn before does not matter
                    seed = stable_seed(args.seed, *source, start)
                    prompts = [ids[i] for i in batch]
                    finished.add(key, draw(model, tokenizer, prompts, source, copies, seed, args))
                texts = finished.done[key]
                # 3. back to the prompts
                for n, text in enumerate(texts):  # the copies of one prompt stand together
                    outputs[batch[n // copies]].append(
                        Output(model=source.model, sampling=sampling, text=text)
                    )
                bar.update(len(texts))
    return outputs


def is_short(ids: list[int], args: argparse.Namespace) -> bool:
    """Whether a prompt is sampled from."""
    # too long is left out, not cut: a cut prompt asks for something else
    return len(ids) <= args.max_prompt_tokens


def batches_by_length(
    ids: list[list[int]], copies: int, args: argparse.Namespace
) -> Iterator[tuple[int, list[int]]]:
    """(place, rows) of batches of `--batch_size` outputs; similar lengths share one."""
    short = [i for i, prompt in enumerate(ids) if is_short(prompt, args)]
    # alike in length: little padding
    order = sorted(short, key=lambda i: len(ids[i]))
    size = max(1, args.batch_size // copies)
    for start in range(0, len(order), size):
        yield start, order[start : start + size]


def draw(
    model, tokenizer, prompts: list[list[int]], source: Source, copies: int, seed: int, args
) -> list[str]:
    """`copies` completions of each prompt, those of one prompt together."""
    import torch

    from instruct.generation import generate_ids
    from instruct.tokens import decode_completion

    torch.manual_seed(seed)
    drawn = generate_ids(model, tokenizer, prompts, args.max_new_tokens, source.temperature, copies)
    asked = [prompt for prompt in prompts for _ in range(copies)]
    return [decode_completion(tokenizer, *pair) for pair in zip(drawn, asked, strict=True)]


def as_sample(row: dict, outputs: list[Output]) -> dict:
    """A samples row: what identifies the prompt, and the outputs by column."""
    from instruct.tokens import FOR_TEMPLATE

    # with what its template takes: rankings are rendered as the samples were
    names = ("prompt_id", "prompt", "user_id", *FOR_TEMPLATE)
    kept = {k: row[k] for k in names if k in row}
    return {
        **kept,
        "completions": [output.text for output in outputs],
        "model": [output.model for output in outputs],
        "sampling": [output.sampling for output in outputs],
    }


# --- command --------------------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--model_name_or_path", nargs="+", required=True, help="models or adapters to sample from")
    add("--input", required=True, help="prompts: file, folder or Hub id")
    add("--output", required=True, type=Path, help="samples (.jsonl or .parquet)")
    add("--num_outputs", type=int, default=4, help="K outputs of each prompt")
    often = "one or several, dealt out over the outputs"
    add("--temperature", type=float, nargs="+", default=[1.0], help=often)
    add("--max_new_tokens", type=int, default=64, help="longest output")
    longest = "longer prompts are left out, and counted"
    add("--max_prompt_tokens", type=int, default=512, help=longest)
    answers = (
        "rows with prompt_id and completion: people's answers of at most --max_new_tokens, "
        "added to the K outputs; only prompts that have one are taken"
    )
    add("--answers", help=answers)
    add("--limit", type=int, help="this many prompts, drawn with --seed")
    add("--batch_size", type=int, default=64, help="outputs drawn at once")
    add("--dtype", default="float32", choices=DTYPES, help="of the models' weights")
    add("--seed", type=int, default=0, help="of outputs, and of what --limit draws")
    again = "start over: remove what an earlier run wrote to --output, also unfinished batches"
    add_base_model(parser)
    add_shape_flags(parser)
    add_overwrite(parser, again)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    from instruct.models import policy_source
    from instruct.tokens import ends_of

    args = make_parser().parse_args(argv)
    dealt = deal_out(args)
    claim(args.output)
    partial = partial_of(args.output)
    record = record_beside(args.output)
    settings = settings_of(args)
    if args.overwrite_output_dir:
        start_over(args.output, record, partial)
    if args.output.is_file():
        check_same(record, settings, args.output)
        # killed between the two
        partial.unlink(missing_ok=True)
        again = "delete it to sample again, or add --overwrite_output_dir"
        print(f"{args.output} is there already; {again}")
        return
    check_output(args.output)
    # before anything is written: with another base it would be another run
    for name in args.model_name_or_path:
        policy_source(name)
    log = read(args.input, "prompts", **shape_of(args)).to_list()
    # a finished output is whole, whatever ended its texts; batches of two kinds are not
    settings["ends"] = [ends_of(name) for name in args.model_name_or_path]
    people = peoples_answers(args)
    rows = choose_prompts(log, people, args)
    finished = FinishedBatches(partial, settings, "completions")
    outputs = draw_outputs(rows, dealt, finished, args)
    if not outputs:
        raise UserError(
            f"{args.input}: every prompt is longer than "
            f"--max_prompt_tokens {args.max_prompt_tokens}"
        )
    for number, drawn in outputs.items():
        written = people.get(rows[number]["prompt_id"])
        drawn += [written] if written else []
    # first: an output never stands without its record
    write_json(record, {"step": "sample", **settings, "versions": versions(VERSIONS_OF)})
    write_rows(
        args.output, [as_sample(rows[number], outputs[number]) for number in sorted(outputs)]
    )
    # only now: until the output stands, the batches are all there is
    partial.unlink()
    counts = f"{len(outputs)} prompts with {args.num_outputs} outputs each"
    print(f"{args.output}: {counts}, {len(rows) - len(outputs)} prompts too long")


if __name__ == "__main__":
    main()
