"""How likely a model finds completions."""

import pytest
import torch

from instruct.evaluation.likelihoods import completion_logprobs
from instruct.models import load_policy
from instruct.tokens import encode_completion, encode_prompt


def test_completion_logprobs_equal_a_plain_forward(tiny_model):
    model, tokenizer = load_policy(tiny_model)
    pairs = [
        (encode_prompt(tokenizer, p), encode_completion(tokenizer, c))
        for p, c in [("Hi", "Hello there"), ("A much longer prompt than that", "x"), ("y", "")]
    ]
    for (prompt, completion), got in zip(pairs, completion_logprobs(model, pairs, 2), strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        want = sum(
            logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(completion)
        )
        assert got == pytest.approx(want, abs=1e-4)
