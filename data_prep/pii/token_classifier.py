"""Names and addresses by a model (`--pii_model ID`), on top of what `find_pii` finds."""

import re
from collections.abc import Sequence

from data_prep.pii.found import Found
from instruct.errors import UserError

MOST_TOKENS = 512  # read at a time, whatever the model could
CHARACTERS_PER_TOKEN = 2  # at the least


class ModelFinder:
    """Any Hub token-classification model as a finder.

    Texts are batched and run on the GPU where there is one; windows overlap by half where a text is
    longer than the model reads.

    Args:
        model: Hub id or folder.
        labels: only these labels of the model (`PER`, `LOC`, …); empty for all.
        min_score: the model's own score below which a span is no finding.

    Raises:
        UserError: there is no token classifier that could be loaded.
    """

    def __init__(
        self, model: str, labels: Sequence[str] = (), min_score: float = 0.5, batch_size: int = 32
    ):
        # here: every other run does without them, and they take seconds
        import torch
        from transformers import pipeline

        try:
            self.pipeline = pipeline(
                "token-classification",
                model=model,
                aggregation_strategy="simple",
                batch_size=batch_size,
                device=0 if torch.cuda.is_available() else -1,
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"--pii_model {model}: cannot be loaded as a token classifier: "
                f"{str(error).splitlines()[0]}"
            ) from error
        self.min_score, self.labels = min_score, {label.lower() for label in labels}
        size = getattr(self.pipeline.model.config, "max_position_embeddings", MOST_TOKENS)
        tokens = min(size, self.pipeline.tokenizer.model_max_length, MOST_TOKENS)
        self.window = tokens * CHARACTERS_PER_TOKEN

    def __call__(self, texts: Sequence[str]) -> list[list[Found]]:
        """Spans of each text; those of two windows may overlap (`merge` takes care of it)."""
        # by half: a name cut by one window's end is whole in the next
        step = self.window // 2
        windows = [
            (i, at)
            for i, text in enumerate(texts)
            # the last step is left out where the window before it reaches the end
            for at in range(0, max(len(text) - step, 1), step)
            if text[at : at + self.window].strip()
        ]
        pieces = [texts[i][at : at + self.window] for i, at in windows]
        answers = self.pipeline(pieces) if pieces else []
        found: list[list[Found]] = [[] for _ in texts]
        for (i, at), entities in zip(windows, answers, strict=True):
            for entity in filter(self._is_wanted, entities):
                # kinds become <KIND> in texts
                kind = re.sub(r"\W+", "_", entity["entity_group"]).lower()
                found[i].append(Found(kind, at + entity["start"], at + entity["end"]))
        return found

    def _is_wanted(self, entity: dict) -> bool:
        named = not self.labels or entity["entity_group"].lower() in self.labels
        # `not <`: a model's NaN score counts as found
        return named and not entity["score"] < self.min_score
