"""Keys and tokens: those with their issuer's prefix, and what stands behind "key =" or so."""

import re
from collections.abc import Iterator

from data_prep.pii.found import Found

# Counts are bounded, so that a megabyte of letters is not scanned to its end from every start.
SECRETS = re.compile(
    # to the end of the text where END is missing: a key cut off is still one
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?"
    r"(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)"
    # OpenAI and others, AWS, GitHub
    r"|\b(?:sk-[A-Za-z0-9_-]{20,250}|A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,250}"
    # GitHub, GitLab, Slack
    r"|github_pat_[A-Za-z0-9_]{22,250}|glpat-[A-Za-z0-9_-]{20,64}|xox[abprs]-[A-Za-z0-9-]{10,250}"
    # Google, Hugging Face, Stripe
    r"|AIza[0-9A-Za-z_-]{30,60}|hf_[A-Za-z0-9]{30,64}|[srp]k_(?:live|test)_[0-9A-Za-z]{16,250}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}"
    # a JSON Web Token: eyJ is `{"` in Base64, of header and of claims
    r"|eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}"
    # SendGrid
    r"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64})(?![A-Za-z0-9])"
)
ASSIGNED = re.compile(
    r"(?i:key|secret|token)[\"']?[ \t]{0,3}[:=][ \t]{0,3}[\"']?"
    # 20 characters: shorter ones are placeholders and names
    r"((?=[A-Za-z+/_-]{0,200}[0-9])(?=[0-9+/_-]{0,200}[A-Za-z])"  # letters and digits, both
    r"[A-Za-z0-9+/_-]{20,250}={0,2})(?![A-Za-z0-9])"
)


def find_secrets(text: str) -> Iterator[Found]:
    """Private keys, tokens by their prefix, and long values assigned to a key, secret or token."""
    for match in SECRETS.finditer(text):
        # "sk-learn-style-slugs-of-many-words" are prose: a key mixes digits in
        if not match.group().startswith("sk-") or any(c.isdigit() for c in match.group()):
            yield Found("secret", *match.span())
    # may find the same again: `find_pii` keeps one of two that overlap
    for match in ASSIGNED.finditer(text):
        yield Found("secret", *match.span(1))
