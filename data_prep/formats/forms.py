"""How a prompt asks, and what for (paper, section 3.1, table 1 and appendix A.2.1).

Documented heuristics, not a model. `request_form`: *direct* ("Tell me about …"), *few_shot*
(examples first), *continuation* (the start of a text). `category`: the ten use cases of the paper's
table 1. Both are None where a prompt asks in another language: their rules read English, and code.
`coverage`: where labelers should write, given the demonstrations there are.
"""

import re
from collections import Counter
from collections.abc import Sequence

from data_prep.formats.code_lines import has_code
from data_prep.formats.languages import begins_in_english, is_foreign, is_plainly_english

FORMS = ("direct", "few_shot", "continuation")

# Share of each use case in the paper's API prompts (table 1).
PAPER_SHARE = {
    "generation": 0.456,
    "open_qa": 0.124,
    "brainstorming": 0.112,
    "chat": 0.084,
    "rewriting": 0.066,
    "summarisation": 0.042,
    "classification": 0.035,
    "other": 0.035,
    "closed_qa": 0.026,
    "extraction": 0.019,
}
CATEGORIES = tuple(PAPER_SHARE)

# roles only: "Answer:" is a label of examples, not a speaker
SPEAKER = re.compile(
    r"^[ \t]*(?:human|user|ai|assistant|bot|chatbot|me|you|friend|customer|agent|therapist"
    r"|patient|interviewer|student|teacher|person \w)[ \t]*:",
    re.I | re.M,
)
# "Q:", "1. Input:", "Example 2:": what repeats in few-shot prompts
LABEL = re.compile(
    r"^[ \t>*#-]*(?:\(?\d{1,2}[.)][ \t]*)?([A-Za-z][A-Za-z ]{0,24}?)"
    # possessive: two runs of blanks that may share them are tried in every division
    r"[ \t]*+(?:\d{1,2}[ \t]*+)?:[ \t]*(.*)$",
    re.M,
)
# "sea otter => loutre de mer", GPT-3's way
ARROW = re.compile(r"^[^\n]{1,120}?[ \t]*(?:->|=>|→|=|\|\|)[ \t]*\S[^\n]*$", re.M)
# the last one, whose answer is left to the model
OPEN_ARROW = re.compile(r"[^\n]{1,120}(?:->|=>|→|=|\|\|)[ \t]*+[?_.…]*$")
SURE_ARROW = re.compile(r"->|=>|→|\|\|")  # more than an equals sign
# of a log, which repeats them
LOG_LEVELS = frozenset("debug info notice warn warning error fatal critical trace note".split())
EXAMPLE = re.compile(r"^[ \t#*]*(?:example|sample)[ \t]*#?\d{1,2}\b", re.I | re.M)

# a list, not a tagger: a million prompts go through it
VERBS = """
    accept act add advise analyse analyze answer apply argue arrange ask assess assist assume
    brainstorm break build calculate categorize check choose cite classify clarify code combine come
    compare complete compose compute condense consider construct continue contrast convert correct
    count create critique debate debug decide define deduce describe design detail detect determine
    develop devise diagnose discuss distinguish do draft draw edit elaborate eliminate estimate
    evaluate examine expand explain explore extract figure fill find finish fix format formulate
    generate get give guess help highlight identify illustrate imagine implement improve infer
    interpret introduce invent justify label let list look make match mention modify name offer
    optimise optimize order organise organize outline paraphrase pick plan play please predict
    prepare pretend produce proofread prove propose provide pull put rank rate read recommend
    refactor reformulate remove rephrase replace reply respond restate return review revise rewrite
    roleplay say score select share shorten show simplify simulate solve sort specify state suggest
    summarise summarize take talk teach tell test think transform translate try turn update use
    verify write
""".split()
IMPERATIVE = re.compile(
    r"(?:^|[.!?:;\n][ \t\"'*#>-]*|\d[.)][ \t]*)"  # where a sentence or a list item begins
    r"(?:please |kindly |now |then |first |next |briefly |also |so |hi,? |hey,? |ok,? )*"
    # "Review is ...": a noun, no order
    rf"(?:{'|'.join(VERBS)})\b(?![ \t]+(?:is|was|are|were)\b)",
    re.I,
)
ORDERS = frozenset(VERBS)
NO_ORDER = ("is", "was", "are", "were", " ", "\t")
ASKS = re.compile(
    r"\b(?:can|could|would|will) (?:you|u|someone|anyone)\b|\bplease\b"
    r"|\bi(?:'d| would)? (?:want|need|like) (?:you|help|a |an |some|to know|ideas)"
    r"|\bhelp me\b|\btl;?dr\b|\bhow (?:to|do|can|much|many|does|is)\b",
    re.I,
)
QUESTION = re.compile(
    r"^\W*(?:what|what's|who|who's|whom|whose|where|when|why|which|how|is|are|am|was|were|do|does"
    r"|did|can|could|should|would|will|has|have|had|any)\b",
    re.I,
)
# how texts begin that are to be gone on with
STORY = re.compile(
    r"^\W*(?:once upon a time|chapter \w+|dear \w+|it was (?:a|the)|there (?:was|were|once)"
    r"|in (?:the|a) (?:beginning|year|small|distant)"
    r"|the following is|this is (?:a|the) (?:story|conversation|transcript)|def \w+\(|class \w+"
    r"|import \w+|#include|<!doctype|select .* from|subject:)",
    re.I,
)
# no full stop: a word, a comma or an open bracket last
UNFINISHED = re.compile(r"(?:\.\.\.|…|[,;:(\[{\"“-]|\w)[ \t]*$")


def _few_shot(prompt: str) -> bool:
    """Two or more worked examples: labels that repeat, input -> output lines, or numbered ones."""
    if "\n" not in prompt:
        return False
    if len(EXAMPLE.findall(prompt)) >= 2:
        return True
    last = prompt.rstrip().rpartition("\n")[2]
    labels = LABEL.findall(prompt)
    if not (_arrows_repeat(prompt, last) or _labels_repeat(prompt, labels)):
        return False
    # code has arrows and keys as well: there the last one must be left open
    label_is_open = last.endswith(":") and any(
        value.strip() for label, value in labels if label.lower() == labels[-1][0].lower()
    )
    return bool(OPEN_ARROW.match(last)) or label_is_open or not has_code(prompt)


def _arrows_repeat(prompt: str, last: str) -> bool:
    arrows = ARROW.findall(prompt)
    # an equals sign says nothing where the last one is not left open
    if not OPEN_ARROW.match(last):
        arrows = [line for line in arrows if SURE_ARROW.search(line)]
    # a third of the lines: arrows also stand in notes
    return len(arrows) >= 2 and len(arrows) * 3 >= sum(
        bool(line.strip()) for line in prompt.splitlines()
    )


def _labels_repeat(prompt: str, found: list[tuple[str, str]]) -> bool:
    # two labels, one of them filled twice: the last answer is left open for the model
    labels = Counter(label.lower() for label, value in found)
    filled = Counter(label.lower() for label, value in found if value.strip())
    repeated = [label for label, n in labels.items() if n >= 2 and label not in LOG_LEVELS]
    if SPEAKER.search(prompt) and all(SPEAKER.match(f"{label}:") for label in repeated):
        return False  # a transcript is a text to go on with
    return len(repeated) >= 2 and sum(filled[label] >= 2 for label in repeated) >= 1


def _is_read(prompt: str) -> bool:
    """Whether it asks in a language that the rules read."""
    if not is_foreign(prompt):
        return True
    # the request may stand behind its material, on a line of its own
    material, _, last = prompt.rstrip().rpartition("\n")
    asks = IMPERATIVE.match(last) or QUESTION.match(last)
    return bool(asks) and begins_in_english(last) and not material.rstrip().endswith((":", "："))


def request_form(prompt: str) -> str | None:
    """How the prompt asks: "few_shot", "direct" or "continuation"; None in another language.

    Examples first make it few-shot. A question, an imperative verb at the start of a sentence or a
    polite request make it direct. What is left goes on as a text where it opens like a story,
    letter, transcript or code, or stops in mid-sentence after eight words or more; else it is
    direct (keywords, short remarks).
    """
    # most, and at once
    if is_plainly_english(prompt):
        return _form(prompt)
    # a few short words may as well be a name or a song; and a question is one in either language
    question = prompt.rstrip().endswith("?") and not is_foreign(prompt, sure=True)
    return _form(prompt) if question or _is_read(prompt) else None


def _begins_with_order(text: str) -> bool:
    """A quick yes where `IMPERATIVE` would say so of the first word: two prompts in three."""
    first, _, rest = text[:40].lower().partition(" ")
    # other letters may be small ones of "is" to an expression: "\u0130s"
    return first in ORDERS and rest[:4].isascii() and not rest.startswith(NO_ORDER)


def _form(prompt: str) -> str:
    if len(prompt) > 20_000:  # both ends say how it asks; the middle is material
        prompt = prompt[:10_000] + "\n" + prompt[-10_000:]
    if _few_shot(prompt):
        return "few_shot"
    text = prompt.strip()
    # before questions and orders: transcripts hold both
    if ("\n" in text and len(SPEAKER.findall(text)) >= 2) or STORY.match(text):
        return "continuation"
    if (
        _begins_with_order(text)
        or text.endswith(("?", "?)", '?"'))
        or QUESTION.match(text)
        or IMPERATIVE.search(text)
        or ASKS.search(text)
    ):
        return "direct"
    # eight words: fewer are keywords, which ask for something about them
    return "continuation" if len(text.split()) >= 8 and UNFINISHED.search(text) else "direct"


RULES = {
    # first match decides; from what is asked for by name to what is only implied
    "summarisation": (
        r"\bsummar(?:y|i[sz]e|i[sz]ing|ies)\b|\btl;?dr\b|\bcondense\b"
        r"|\bkey (?:points|takeaways)\b|\bin (?:a|one|two|three) sentences?:"
    ),
    "classification": (
        r"\bclassif(?:y|ication)\b|\bcategori[sz]e\b|\bsentiment\b"
        r"|\bis (?:this|the following) .{0,40}\b(?:positive|negative|spam|toxic|true or false)\b"
        r"|\blabel (?:each|the|this)\b|\brate (?:this|the|each)\b|\bdecide (?:whether|if)\b"
    ),
    "extraction": (
        r"\bextract\b|\bpull out\b|\bfind all\b"
        r"|\b(?:list|identify|name|give me|highlight) (?:all |every )?(?:the )?(?:names|people"
        r"|places|dates|entities|keywords|companies|characters|numbers|emails|places"
        r"|cities) .{0,30}\b(?:in|from|mentioned|below)\b"
    ),
    "rewriting": (
        r"\brewrit\w*|\bre-?phras\w*|\bparaphras\w*|\btranslat\w*|\bproofread\b"
        r"|\bcorrect (?:the |this |my )"
        r"|\bfix (?:the |this |my )?(?:grammar|spelling|code|bug|sentence)"
        r"|\bconvert (?:this|the|my)\b|\bsimplify\b|\bshorten\b"
        r"|\bmake (?:this|it|the following) (?:sound |more )|\bedit (?:this|the|my)\b"
        r"|\bturn (?:this|the following) .{0,40}into\b|\bimprove (?:this|the|my)\b"
    ),
    # a text to answer from is named, or follows: 80 characters are more than a question
    "closed_qa": (
        r"\b(?:based on|according to|using|given|from) (?:the )?(?:passage|text|context|article"
        r"|paragraph|information|following|above|table)\b|\b(?:passage|context|paragraph|article"
        r"|text)[ \t]*:[\s\S]*\?|\banswer (?:the )?(?:questions?|following)\b[\s\S]{80,}"
    ),
    "brainstorming": (
        r"\bbrainstorm\w*|\bideas?\b|\bsuggest\w*|\brecommend\w*"
        r"|\b(?:list|give me|name|tell me|what are) (?:of )?(?:a few|some|several|three|four|five"
        r"|six|seven|eight|ten|twenty|\d+)\b|\bwhat should i\b|\b(?:names|titles|slogans|topics"
        r"|ways|tips|reasons|things) (?:for|to|about|why|of)\b"
    ),
    # last, as nearly everything is written: verb, a few words, then what kind of text
    "generation": (
        r"\b(?:write|compose|draft|create|generate|make up|invent|tell me|produce|design"
        r"|come up with|continue|finish|complete|develop|prepare|code|implement|build) (?:me |us "
        r"|up )?(?:the |this |my |a |an |some |two |three |\d+ )?[\w' -]{0,60}?(?:story|stories"
        r"|poem|haiku|limerick|essay|email|letter|song|lyrics|article|blog|post|speech|script"
        r"|scene|dialogue|joke|tweet|ad|advert\w*|description|review|report|cover|resume|outline"
        r"|paragraph|sentence|program|function|code|query|recipe|plan|list|headline|caption|bio"
        r"|novel|chapter|tagline|conversation|text|regex|class|page|statement|message|proposal"
        r"|tale|riddle|puzzle|quiz|table|press release)s?\b|^\W*(?:write|compose|draft|create"
        r"|generate)\b"
    ),
}
RULES = {name: re.compile(pattern, re.I) for name, pattern in RULES.items()}
CHAT = re.compile(
    r"^\W*(?:hi|hello|hey|yo|good (?:morning|evening|afternoon)|thanks|thank you|how are you"
    r"|how's it going|what's up|lol|haha)\b"
    r"|\b(?:do|are|have|did|would|can) you (?:like|love|enjoy|feel|ever|have|a |an |think|real"
    r"|married|happy|there|want)\b|\bwhat(?:'s| is) your\b"
    r"|\b(?:your|you're) (?:favou?rite|name|day|weekend)\b"
    r"|\byou are (?:a|an|my) .{0,60}(?:bot|assistant|chatbot|friend|therapist)\b"
    r"|\bi(?:'m| am) (?:so |feeling |really )?(?:sad|lonely|bored|happy|tired)\b",
    re.I,
)


def category(prompt: str) -> str | None:
    """Use case of a prompt, one of `CATEGORIES`, by the first rule that matches.

    None where it asks in another language than the rules read.
    """
    if not _is_read(prompt):
        return None
    # what is asked for stands first or last, around the material
    head = prompt if len(prompt) <= 4_000 else prompt[:2_000] + "\n" + prompt[-2_000:]
    if "\n" in head and len(SPEAKER.findall(head)) >= 2:
        return "chat"
    for name, pattern in RULES.items():
        if pattern.search(head):
            return name
    if CHAT.search(head):
        return "chat"
    text = head.strip()
    if (
        text.endswith("?")
        or QUESTION.match(text)
        or re.match(
            r"\W*(?:explain|define|tell me about|describe|tell me (?:what|how|why|who|when))\b",
            text,
            re.I,
        )
    ):
        return "open_qa"
    return "generation" if _form(head) == "continuation" else "other"


def _text(prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def coverage(rows: Sequence[dict], log_prompts: Sequence[str] = ()) -> list[dict]:
    """Where labelers should write (paper, section 3.2: plain, few-shot and user-based prompts).

    Args:
        rows: demonstrations (`prompt` as text or messages, `category` when known).
        log_prompts: prompts that users sent; their use cases are the demand. Without them the
            paper's table 1 is.

    Returns:
        One row per use case: `category, demonstrations, share, wanted_share`, a count per request
        form, `no_form` (in a language whose forms are not read), and `write`: "user-based" where a
        use case has less than half of its wanted share, "few-shot" where it has no few-shot prompt,
        "plain" where it has fewer than ten demonstrations of any kind. Shares are of the rows and
        prompts whose use case is known; where there are others, a last row with None for `category`
        and the shares counts them.
    """
    demand = Counter(map(category, log_prompts))
    # nobody knows what these ask for
    del demand[None]
    forms = {name: Counter() for name in (*CATEGORIES, None)}
    for row in rows:
        text = _text(row["prompt"])
        name = row.get("category")
        # labelers' own categories may be others
        forms[name if name in CATEGORIES else category(text)][request_form(text)] += 1
    unknown = forms.pop(None)
    total, asked = sum(map(Counter.total, forms.values())), demand.total()
    table = []
    for name, counts in forms.items():
        n = counts.total()
        # what users ask for goes before the paper's table
        wanted = demand[name] / asked if asked else PAPER_SHARE[name]
        share = n / total if total else 0.0
        write = (
            ["user-based"] * (share < wanted / 2)
            + ["few-shot"] * (counts["few_shot"] == 0)
            + ["plain"] * (n < 10)
        )
        shares = {"share": round(share, 4), "wanted_share": round(wanted, 4)}
        table.append(_coverage_row(name, counts, shares, write))
    if unknown:
        table.append(_coverage_row(None, unknown, {"share": None, "wanted_share": None}, []))
    return table


def _coverage_row(name: str | None, counts: Counter, shares: dict, write: list[str]) -> dict:
    of_forms = {form: counts[form] for form in FORMS} | {"no_form": counts[None]}
    head = {"category": name, "demonstrations": counts.total()}
    return {**head, **shares, **of_forms, "write": write}
