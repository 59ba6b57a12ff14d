"""Whether a text has lines of code, whose keys and arrows are no examples to go on from."""

import re

FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.M)
# Whole lines, by how they begin and end. Possessive where two runs of blanks could share some.
LINES = (
    # ends of statements and of blocks, items of a list
    r".*[;{}\\(\[][ \t]*",
    r"[ \t]*[)}\]].*",
    r"[ \t]++.*,[ \t]*",
    # comments, decorators, tags, prompts of a shell, tables, chained calls
    r"[ \t]*(?:@\w|//|/\*|\*/|#include\b|#!|<[/!?a-z]|>>> |\$ |--[ \t]|\|[ \t]|\.\w+\().*",
    # statements of the languages in use
    r"[ \t]*(?:def|class|interface|struct|enum|impl|fn|func|function|namespace|module)[ \t]+\w.*",
    r"[ \t]*(?:import|from|using|require|include|use)[ \t]+[\w.{*\"'<].*",
    r"[ \t]*(?:public|private|protected|static|const|let|var|val|final|export|async|await)[ \t].*",
    r"[ \t]*(?:return|yield|raise|throw|del|print|echo)\b.*",
    r"[ \t]*(?:if|elif|else if|while|for|with|switch|match|case|catch|except)[ \t(].*[:{)]"
    r"(?:[ \t].*)?",
    r"[ \t]*(?:else|try|finally|default|do|begin|public|private|protected)[ \t]*:.*",
    r"[ \t]*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|WHERE|FROM|JOIN|GET|POST|PUT|HTTP)\b.*",
    # an assignment, but of a number or a word; a call; a signature
    r"[ \t]*[\w.\[\]]+(?:[ \t]*+:[ \t]*+[\w.\[\], |]++)?+[ \t]*+[-+*/|&^%:]?=[ \t]*"
    r"(?:[\w.]*[(\[{\"'`]|(?:True|False|None|null|true|false|new)\b).*",
    r"[ \t]*[\w.]+\(.*\)[ \t]*",
    r"[ \t]*\w+[ \t]*::.*",
    # keys of YAML and fields of a class; arms of a match
    r"[ \t]{2,}[a-z_][\w.-]*[ \t]*:.*",
    r"[ \t]{2,}+.*(?:->|=>).*",
)
LINE = re.compile(rf"^(?:{'|'.join(LINES)})$", re.M)


def has_code(text: str) -> bool:
    """Whether a line of it is code, or fenced as such."""
    return FENCE.search(text) is not None or LINE.search(text) is not None
