"""Personally identifiable information in prompts (paper, appendix A.1: filtered from training).

Regular expressions find the shape, checksums and number plans decide (`python-stdnum`,
`phonenumbers`). Precise by default: a shape that many harmless numbers share (ten bare digits, say)
counts only beside a word such as "call", and addresses of nobody (10.0.0.1, example.com) only where
they are asked for. Names, postal addresses, birth dates and spelled-out contacts ("john at acme dot
com") are not looked for; a token classification model (`ModelFinder`, flag `--pii_model`) finds
names and addresses.

`candidate_pattern` is the coarse filter that an engine runs over every row; only rows that match it
reach `find_pii`, which costs tens of microseconds a row.
"""

from data_prep.pii.candidates import candidate_pattern
from data_prep.pii.finding import find_pii, find_suspected
from data_prep.pii.found import KINDS, REGIONS, Found
from data_prep.pii.libraries import check_regions
from data_prep.pii.redaction import merge, redact
from data_prep.pii.token_classifier import ModelFinder

__all__ = [
    "KINDS",
    "REGIONS",
    "Found",
    "ModelFinder",
    "candidate_pattern",
    "check_regions",
    "find_pii",
    "find_suspected",
    "merge",
    "redact",
]
