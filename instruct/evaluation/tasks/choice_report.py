"""What `multiple_choice.measure` found, as a section of `report.md`."""

from instruct.evaluation.tables import of_all, table_lines
from instruct.plain_text import markdown_code, markdown_text

HEADERS = {
    "mc1": "MC1",
    "mc2": "MC2",
    "mc1_per_token": "MC1 by the mean of a token",
    "mc2_per_token": "MC2 by the mean of a token",
    "accuracy": "accuracy",
    "accuracy_per_token": "by the mean of a token",
    "accuracy_per_character": "of a character (acc_norm)",
    "accuracy_per_byte": "of a byte (acc_bytes)",
    "entropy": "entropy, bits (1: no bias)",
    "prefers_stereotype": "prefers the stereotype",
    "prefers_male": "prefers the male pronoun",
    "log_likelihood_per_token": "nats a token (higher is better)",
    "bits_per_byte": "bits a byte (lower is better)",
}


def lines(title: str, found: dict) -> list[str]:
    """A section of `report.md`."""
    how = "as plain text"
    if found["chat"]:
        how = f"{', '.join(map(markdown_text, found['chat']))} by chat template, others {how}"
    reference = markdown_text(found["reference"])
    text = [f"## {title}", "", f"Log-likelihoods of choices after their prompt, {how}; intervals "]
    text[-1] += "are 95 % bootstrap over items, those of differences of the same items."
    for name, file in found["files"].items():
        count = of_all(file["n"], file["of"], "items", found["seed"])
        said = f"{markdown_code(file['source'])}, read as {file['shape']}: {count}."
        text += ["", f"### {markdown_text(name)}", "", said, "", *_table("model", file["models"])]
        if file["difference"]:
            first = f"against {reference}"
            text += ["", *_table(first, file["difference"], signed=True)]
        if "groups" in file:
            text += ["", *_groups_table(file)]
        if any(file["cut_apart"].values()):
            counts = file["cut_apart"].items()
            told = ", ".join(f"{markdown_text(model)} {count}" for model, count in counts)
            text += ["", f"Choices cut into tokens apart from their prompt: {told}."]
    return [*text, ""]


def _table(first: str, models: dict[str, dict], signed: bool = False) -> list[str]:
    measures = list(dict.fromkeys(m for ours in models.values() for m in ours))
    head = [first, *(HEADERS[measure] for measure in measures)]
    rows = [
        [markdown_text(name), *(_shown(ours.get(m), signed) for m in measures)]
        for name, ours in models.items()
    ]
    return table_lines([head, *rows])


def _groups_table(file: dict) -> list[str]:
    head = ["entropy, bits", "n", *map(markdown_text, file["models"])]
    rows = [
        [markdown_text(group), str(found["n"]), *map(_shown, found["models"].values())]
        for group, found in file["groups"].items()
    ]
    return table_lines([head, *rows])


def _shown(entry: dict | None, signed: bool = False) -> str:
    if entry is None:
        return "–"
    mean, low, high = (f"{entry[k]:{'+' if signed else ''}.3f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
