"""Speed, memory and exactness of `data_prep.prompts` on a generated log with planted cases.

    python benchmarks/prompts.py --rows 1000000
    python benchmarks/prompts.py --rows 10000000 --memory_limit 4GB --skip_reference

Planted: families that share a prefix of 150 to 250 characters, around the threshold of 200 (also
under other white space and Unicode forms), users over the cap, prompts without a user, personal
information of every kind in sentences, and near misses that must stay. A plain-Python reference
that shares no step with the pipeline says which rows must stay.
The last line is one JSON object: rows, seconds, peak_gb, prefix_precision, prefix_recall, pii,
moved_users, ….
"""

import argparse
import hashlib
import ipaddress
import json
import os
import random
import shutil
import string
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from stdnum import iban, luhn, verhoeff

WORDS = """
    the a of to and in that is for on with as it was be by this from at or an are which you have not
    but we they can will one all about time people water work world country company system garden
    music history market river winter summer doctor teacher student project software model engine
    recipe kitchen window morning evening friend family letter question answer example language
    science energy health travel budget customer product design process report meeting village
    mountain café naïve quickly slowly often never usually better larger smaller early late small
    great quiet bright simple careful modern ancient write read build make find give keep learn
    change follow explain describe compare suggest improve support create
""".split()
OPENERS = (
    "Tell me about",
    "Explain",
    "Write a short story on",
    "What is the best way to describe",
    "Give me ideas for",
    "Summarize",
)
DOMAINS = "gmail.com example.co.uk mail.acme-corp.de uni.edu posteo.net firma.io".split()
AREA_CODES = "212 213 305 312 404 415 503 512 602 617 646 702 713 718 808 917 949 972".split()


SPLITS = ("train", "validation", "test")


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.digits, k=n))


def email(rng):
    name = rng.choice(["{}.{}", "{}_{}", "{}{}", "{}+{}"]).format(
        rng.choice(WORDS[30:60]), digits(rng, 2)
    )
    return f"{name}@{rng.choice(DOMAINS)}"


def phone(rng):
    """Ways people write phone numbers, the hard ones (no grouping, no "call") included."""
    area, exchange, line = (
        rng.choice(AREA_CODES),
        f"{rng.randint(2, 9)}{digits(rng, 2)}",
        digits(rng, 4),
    )
    return rng.choice(
        [
            f"({area}) {exchange}-{line}",
            f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}",
            f"+1 {area} {exchange} {line}",
            f"+1-{area}-{exchange}-{line}",
            f"1-{area}-{exchange}-{line}",
            f"{area} {exchange} {line}",
            f"{area}{exchange}{line}",
            f"+44 20 7946 0{digits(rng, 3)}",
            f"07700 900{digits(rng, 3)}",
            f"+44 7911 {digits(rng, 3)}{digits(rng, 3)}",
            f"+49 30 {rng.randint(2, 9)}{digits(rng, 7)}",
            f"06 {' '.join(f'{rng.randint(10, 99)}' for _ in range(4))}",
            f"+33 6 {' '.join(f'{rng.randint(10, 99)}' for _ in range(4))}",
            f"+91 98{digits(rng, 3)} {digits(rng, 5)}",
        ]
    )


def card(rng):
    head, length = rng.choice(
        [("4", 16), ("51", 16), ("55", 16), ("37", 15), ("6011", 16), ("4", 16)]
    )
    number = head + digits(rng, length - len(head) - 1)
    number += luhn.calc_check_digit(number)
    cut = (4, 10) if length == 15 else (4, 8, 12)
    parts = [number[a:b] for a, b in zip((0, *cut), (*cut, length), strict=True)]
    return rng.choice([number, " ".join(parts), "-".join(parts)])


def bank_account(rng):
    country, body = rng.choice(
        [
            ("DE", digits(rng, 18)),
            ("GB", "NWBK" + digits(rng, 14)),
            ("NL", "ABNA" + digits(rng, 10)),
            ("FR", digits(rng, 23)),
            ("CH", digits(rng, 17)),
        ]
    )
    number = country + iban.calc_check_digits(f"{country}00{body}") + body
    return rng.choice([number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))])


def ssn(rng):
    area = rng.choice([a for a in (rng.randint(1, 899) for _ in range(5)) if a != 666])
    return f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def national_id(rng):
    number = rng.randint(0, 99_999_999)
    cpf = [rng.randint(0, 9) for _ in range(9)]
    for n in (10, 11):
        rest = sum(d * (n - i) for i, d in enumerate(cpf)) * 10 % 11 % 10
        cpf.append(rest)
    written = "".join(map(str, cpf))
    aadhaar = f"{rng.randint(2, 9)}{digits(rng, 10)}"
    aadhaar += verhoeff.calc_check_digit(aadhaar)
    return rng.choice(
        [
            f"DNI {number:08d}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}",
            f"CPF {written[:3]}.{written[3:6]}.{written[6:9]}-{written[9:]}",
            f"Aadhaar {aadhaar[:4]} {aadhaar[4:8]} {aadhaar[8:]}",
        ]
    )


def secret(rng):
    letters = string.ascii_letters + string.digits
    return rng.choice(
        [
            "AKIA" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=16)),
            "ghp_" + "".join(rng.choices(letters, k=36)),
            "sk-proj-" + "7" + "".join(rng.choices(letters, k=40)),
            "hf_" + "".join(rng.choices(letters, k=34)),
            f"api_key = 'a1{''.join(rng.choices(letters, k=30))}'",
            "-----BEGIN RSA PRIVATE KEY-----\n"
            + "".join(rng.choices(letters, k=60))
            + "\n-----END RSA PRIVATE KEY-----",
        ]
    )


def ipv4(rng):
    address = ipaddress.IPv4Address(0)
    # private and documentation addresses are nobody's
    while not address.is_global:
        address = ipaddress.IPv4Address(rng.randint(11 << 24, (223 << 24) - 1))
    return str(address)


def ipv6(rng):
    address = ipaddress.IPv6Address(
        (0x2001 << 112) | (rng.getrandbits(32) << 80) | rng.getrandbits(rng.choice([16, 64]))
    )
    return rng.choice([str(address), address.exploded])


SENTENCES = {
    "email": (
        "Please write a reply to {} for me.",
        "my address is {}, can you draft an invitation",
        "Contact: {}",
    ),
    "phone": (
        "Call me at {} tomorrow.",
        "my number is {}, write a polite text asking for it back",
        "You can reach her on {} after six.",
        "Tel: {}",
        "Write an ad that ends with {}.",
    ),
    "ipv4": (
        "Why does the server at {} refuse connections?",
        "ssh to {} fails",
        "Requests from {} were blocked.",
    ),
    "ipv6": ("My router has {} as address.", "ping {} gives no answer", "Who owns {}?"),
    "card": (
        "My card {} was declined, write a complaint.",
        "Charge {} please",
        "the number on it is {}.",
    ),
    "iban": (
        "Send the rent to {} and write a note.",
        "IBAN: {}",
        "my account is {}, explain the fees",
    ),
    "ssn": (
        "My SSN is {} and I lost the letter.",
        "social security number {}",
        "fill in the form, {} is mine",
    ),
    "national_id": ("Fill in the form with {} please.", "My {} was rejected, why?", "{}"),
    "secret": (
        "Why does this key fail: {}",
        "I use {} in the script below.",
        "{}\nwhat is wrong with it?",
    ),
}
MAKERS = {
    "email": email,
    "phone": phone,
    "ipv4": ipv4,
    "ipv6": ipv6,
    "card": card,
    "iban": bank_account,
    "ssn": ssn,
    "national_id": national_id,
    "secret": secret,
}


def near_miss(rng):
    """Numbers and shapes that are nobody's: orders, versions, ISBNs, dates, arithmetic, code."""
    between = rng.randint
    a, b = between(100, 10**7), between(100, 10**7)
    isbn = "978" + digits(rng, 9)
    isbn += str(-sum(int(d) * (1, 3)[i % 2] for i, d in enumerate(isbn)) % 10)
    bad_card = "4" + digits(rng, 14)
    bad_card += str((int(luhn.calc_check_digit(bad_card)) + rng.randint(1, 9)) % 10)
    return rng.choice(
        [
            f"Where is my order {digits(rng, 10)}?",
            f"order 10293{digits(rng, 5)} has not arrived",
            f"I run version {between(1, 20)}.{between(0, 60)}.{between(0, 99)}"
            f".{between(0, 99)} of it.",
            f"Python 3.{between(6, 13)}.{between(0, 9)} on Windows 10.0.{between(10000, 22000)}",
            f"ISBN {isbn[:3]}-{isbn[3]}-{isbn[4:6]}-{isbn[6:12]}-{isbn[12]}",
            f"the book with ISBN {isbn}",
            f"It happened on {between(1990, 2025)}-{between(1, 12):02d}-{between(1, 28):02d} "
            f"at {between(0, 23):02d}:{between(0, 59):02d}:{between(0, 59):02d}.",
            f"What is {a} + {b}?",
            f"{a} * {b} = {a * b}",
            f"Compute {a}-{b}.",
            f"std::vector<int> v; a::b({rng.randint(0, 99)});",
            f"my card {bad_card} is made up",
            f"@user{rng.randint(1, 99)} said hello",
            f"invoice 2024-{digits(rng, 4)}-{digits(rng, 4)}",
            f"from 1914-1918 to 1939-1945 and {digits(rng, 4)}",
            f"MAC 00:1a:2b:{rng.randint(10, 99)}:{rng.randint(10, 99)}:{rng.randint(10, 99)}",
            f"tracking number 9400{digits(rng, 18)}",
            f"population {rng.randint(1, 9)},{digits(rng, 3)},{digits(rng, 3)}",
            f"see section {between(1, 9)}.{between(1, 9)}.{between(1, 9)}.{between(1, 9)}",
            f"the timestamp 17{digits(rng, 8)} in seconds",
            f"coordinates 48.{digits(rng, 6)}, 2.{digits(rng, 6)}",
            "use {{name}}@{{host}} in the template",
            f"pi is 3.14159265358{digits(rng, 4)}",
            f"commit {rng.getrandbits(160):040x}",
        ]
    )


def word_for(number: int) -> str:
    letters = ""
    while number:
        number, rest = divmod(number, 20)
        letters += "bcdfghjklmnpqrstvwxz"[rest]
    return letters or "b"


class Generator:
    """Rows of a log. `planted` rides along and says what is in the prompt."""

    def __init__(self, seed: int, start: int = 0):
        self.rng, self.number = random.Random(seed), start
        text = " ".join(self.rng.choices(WORDS, k=200_000))
        self.text = text.replace(" the ", ", the ").replace(" one ", ". One ")
        self.family: list[str] = []

    def body(self, length: int) -> str:
        at = self.text.index(" ", self.rng.randrange(len(self.text) - length - 50)) + 1
        return self.text[at : at + length].rstrip()

    def prompt(self) -> tuple[str, str]:
        rng = self.rng
        opener = f"{rng.choice(OPENERS)} {word_for(self.number)}: "
        kind = rng.random()
        if kind < 0.05:
            name = rng.choice(list(MAKERS))
            sentence = rng.choice(SENTENCES[name]).format(MAKERS[name](rng))
            return f"{opener}{self.body(rng.randint(20, 300))}. {sentence}", name
        if kind < 0.10:
            return f"{opener}{self.body(rng.randint(20, 300))}. {near_miss(rng)}", "near_miss"
        if kind < 0.20 and self.family:
            base = rng.choice(self.family)
            length = rng.randint(150, 250)
            shared = (
                base[:length] + word_for(self.number)[::-1] + " " + self.body(rng.randint(10, 200))
            )
            style = rng.random()
            if style < 0.2:
                shared = shared.replace(" ", "  \n", 3)
            elif style < 0.4:
                shared = unicodedata.normalize("NFD", f" \t{shared}\u00a0")
            return shared, "family"
        if kind < 0.23:
            return rng.choice(
                ["hi", "hello there", "thanks!", f"Tell me a joke about {rng.choice(WORDS)}"]
            ), "short"
        prompt = opener + self.body(rng.randint(40, 420))
        if len(self.family) < 2_000 or rng.random() < 0.01:
            base = opener + self.body(400)
            self.family = [*self.family[-1_999:], base]
            return base, "family"
        return prompt, "plain"

    def rows(self, count: int) -> Iterator[dict]:
        users = max(count // 12, 5)
        for _ in range(count):
            self.number += 1
            prompt, planted = self.prompt()
            heavy = self.rng.random() < 0.02
            user = (
                None
                if self.rng.random() < 0.01
                else f"heavy-{self.rng.randint(1, max(count // 40_000, 2))}"
                if heavy
                else f"user-{self.rng.randint(1, users)}"
            )
            row = {
                "id": self.number,
                "prompt": prompt,
                "timestamp": 1_600_000_000 + self.rng.randint(0, 10**7),
                "planted": planted,
            }
            yield row | ({"user_id": user} if user else {})


def write_log(path: Path, generator: Generator, count: int) -> None:
    with open(path, "w", encoding="utf-8") as out:
        for row in generator.rows(count):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass
class Cost:
    """Wall time, and CPU time and peak memory over all processes."""

    seconds: float
    cpu_seconds: float
    peak_gb: float


def run(files: list[Path], output: Path, extra: list[str]) -> Cost:
    """What the pipeline costs as a user runs it."""
    command = [sys.executable, "-m", "data_prep.prompts", "--input", *map(str, files)]
    command += ["--output_dir", str(output), *extra]
    print("$", " ".join(command), flush=True)
    started, peak, cpu = time.time(), 0, {}
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1])
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            family = [watched, *watched.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for member in family:
            try:
                total += member.memory_info().rss
                cpu[member.pid] = sum(member.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"the pipeline ended with exit code {process.returncode}")
    return Cost(seconds=time.time() - started, cpu_seconds=sum(cpu.values()), peak_gb=peak / 1e9)


def reference(
    files: list[Path], with_pii: set[int], most: int = 200, prefix: int = 200, seed: int = 0
) -> tuple[dict, dict]:
    """Plain Python, given which rows hold PII.

    Returns:
        {removed duplicate: the id kept for it} and {kept id: split}.
    """

    def digest(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    groups, users, keys = defaultdict(list), {}, {}
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                key = digest(" ".join(unicodedata.normalize("NFC", row["prompt"]).split())[:prefix])
                groups[key].append((row["timestamp"], row["id"]))
                users[row["id"]], keys[row["id"]] = row.get("user_id"), key
    duplicates, per_user, kept = {}, defaultdict(list), {}
    for members in groups.values():
        first, *rest = sorted(members)
        duplicates |= {i: first[1] for _, i in rest}
        if first[1] not in with_pii:
            per_user[users[first[1]] or f"\0{first[1]}"].append(first[1])
    for user, ids in per_user.items():
        owner = f"row:{user[1:]}" if user.startswith("\0") else f"user:{user}"
        place = int(digest(f"{seed}:split:{owner}"), 16) / 16**32
        ids.sort(key=lambda i: digest(f"{seed}:cap:{i}:{keys[i]}"))
        kept |= dict.fromkeys(
            ids[:most], "train" if place < 0.9 else "validation" if place < 0.95 else "test"
        )
    return duplicates, kept


def share(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 1.0


def pii_scores(output: Path) -> dict:
    """Per planted kind: how much of it was found, and how much of what was found was planted."""
    planted, hit, said, right = Counter(), Counter(), Counter(), Counter()
    for name in ("train", "validation", "test", "removed"):
        columns = ["planted"] + (["pii_kinds"] if name == "removed" else [])
        for batch in pq.ParquetFile(output / f"{name}.parquet").iter_batches(
            100_000, columns=columns
        ):
            kinds = (
                batch.column("pii_kinds").to_pylist() if name == "removed" else [None] * len(batch)
            )
            for truth, found in zip(batch.column("planted").to_pylist(), kinds, strict=True):
                found = found or []
                asked = "national_id" if truth == "ssn" else truth
                planted[truth] += 1
                hit[truth] += asked in found
                for kind in found:
                    said[kind] += 1
                    right[kind] += kind == asked
    return {
        kind: {
            "precision": share(
                right[shown := "national_id" if kind == "ssn" else kind], said[shown]
            ),
            "recall": share(hit[kind], planted[kind]),
            "planted": planted[kind],
        }
        for kind in MAKERS
    }


def splits_of_users(output: Path) -> dict[str, set[str]]:
    """Splits in which a user's prompts are, removed ones too."""
    splits = defaultdict(set)
    for name in ("train", "validation", "test", "removed"):
        columns = ["user_id"] + (["split"] if name == "removed" else [])
        for batch in pq.ParquetFile(output / f"{name}.parquet").iter_batches(
            100_000, columns=columns
        ):
            where = batch.column("split").to_pylist() if name == "removed" else [name] * len(batch)
            for user, split in zip(batch.column("user_id").to_pylist(), where, strict=True):
                if user is not None:
                    splits[user].add(split)
    return splits


def against_reference(log: Path, output: Path) -> dict:
    """How far the pipeline's duplicates and splits agree with plain Python's."""
    columns = ["id", "reason", "kept_id", "pii_kinds"]
    removed = pq.read_table(output / "removed.parquet", columns=columns).to_pylist()
    ours = {r["id"]: r["kept_id"] for r in removed if r["reason"] == "duplicate_prefix"}
    started = time.time()
    theirs, kept = reference([log], {r["id"] for r in removed if r["reason"] == "pii"})
    seconds = round(time.time() - started, 1)
    agreed = sum(theirs.get(i) == kept_id for i, kept_id in ours.items())
    split_of = {
        i: name
        for name in SPLITS
        for i in pq.read_table(output / f"{name}.parquet", columns=["id"])["id"].to_pylist()
    }
    return {
        "reference_seconds": seconds,
        "prefix_precision": share(agreed, len(ours)),
        "prefix_recall": share(agreed, len(theirs)),
        "same_rows_as_reference": split_of == kept,
    }


def after_growth(before: Path, grown: Path) -> dict:
    """How many users are in another split, or in several, now that the log has grown."""
    old, new = splits_of_users(before), splits_of_users(grown)
    moved = sum(len(splits) > 1 or new[user] != splits for user, splits in old.items())
    return {"moved_users": moved, "users": len(old)}


def measure(args: argparse.Namespace, work: Path) -> dict:
    log, more, output = work / "log-0.jsonl", work / "log-1.jsonl", work / "prompts"
    generator = Generator(args.seed)
    started = time.time()
    write_log(log, generator, args.rows)
    size, seconds = log.stat().st_size / 1e6, time.time() - started
    print(f"log: {args.rows:,} rows, {size:,.0f} MB, written in {seconds:.0f} s", flush=True)
    extra = ["--backend", args.backend]
    extra += ["--memory_limit", args.memory_limit] if args.memory_limit else []
    cost = run([log], output, extra)
    result = {
        "rows": args.rows,
        "seconds": round(cost.seconds, 1),
        "peak_gb": round(cost.peak_gb, 2),
        "cpu_seconds": round(cost.cpu_seconds, 1),
        "load_average": os.getloadavg()[0],
    }
    report = json.loads((output / "report.json").read_text())
    if not args.skip_reference:
        result |= against_reference(log, output)
    result |= {
        "pii": pii_scores(output),
        "rows_per_second": round(args.rows / cost.seconds),
        "kept": report["kept"],
        "removed": report["removed"],
    }
    if not args.skip_append:
        write_log(more, generator, args.rows // 10)
        run([log, more], work / "grown", extra)
        result |= after_growth(output, work / "grown")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=1_000_000)
    add("--seed", type=int, default=0)
    add("--work_dir", type=Path, help="where log and outputs go (default: a temporary folder)")
    add("--memory_limit", help="passed on to the pipeline")
    add("--backend", default="duckdb", choices=["duckdb", "pyspark"])
    no_reference = "no plain-Python reference (it holds the log's ids in memory)"
    add("--skip_reference", action="store_true", help=no_reference)
    add("--skip_append", action="store_true", help="do not run again with 10 %% more rows")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="prompts-bench-", dir=args.work_dir))
    try:
        print(json.dumps(measure(args, work)))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
