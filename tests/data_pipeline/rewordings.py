"""Changes to the text of a path that alter what it says, by one who had not seen the gates.

A function takes a text to a changed one, or to None where it does not apply; the same text always
gives the same. Numbers are changed by value only: digits of list markers, labels ("1.1:", "Step
3"), tags, ordinals, names ("x1", "log_2") and of commands that show no value are left alone.
"""

import itertools
import re
import zlib

# ---------------------------------------------------------------- where things are

_MATH = re.compile(
    r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)"
    r"|\\begin\{(equation|align|gather|multline|eqnarray)(\*?)\}.+?\\end\{\1\2\}"
    r"|(?<![\\$])\$(?!\$)(?:\\.|[^$\\\n]|\n(?!\s*\n))+?\$(?!\d)",
    re.S,
)
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)
_TAG = re.compile(r"</?[A-Za-z][A-Za-z_]*(?:[ :=\"'][^<>\n]*)?/?>")
_LABEL_WORD = (
    r"Steps?|Cases?|Parts?|Paths?|Claims?|Lemmas?|Theorems?|Outlines?|Sections?|Equations?|Eqs?\.|Figures?|"
    r"Fig\.|Options?|Methods?|Approach|Problems?|Questions?|Properties|Property|Rules?|Ideas?|Round|Thread"
)
_PROTECTED = [
    _TAG,
    # labels and list markers at the start of a line, also after ** or a tag
    re.compile(
        r"(?m)^[ \t]*(?:<[^<>\n]*>[ \t]*)?(?:#+[ \t]+)?(?:[-*+•][ \t]+)?(?:\*\*)?"
        r"(?:\d+(?:\.\d+)+[:.)]?|\d+[.):]|\(\d+(?:\.\d+)*\))(?=[\s*])"
    ),
    re.compile(r"(?<![\w.])\d+(?:\.\d+)+:(?=\s)"),
    re.compile(
        r"\b(?:"
        + _LABEL_WORD
        + r")\s*\(?\d+(?:\.\d+)*(?:\s*(?:,|and|or|to|-|–)\s*\(?\d+(?:\.\d+)*\)?)*\)?(?=\W|$)",
        re.I,
    ),
    re.compile(
        r"\\(?:label|ref|eqref|tag|cite|hspace|vspace|begin|end|color|textcolor|phantom|includegraphics|"
        r"rule|kern|mkern|hskip|vskip|setlength)\*?\s*(?:\[[^\]]*\])?\{[^{}]*\}"
    ),
    re.compile(r"\\\\\[[^\]]*\]"),  # \\[2pt]
    re.compile(r"\b\d+(?:st|nd|rd|th)\b", re.I),
    re.compile(r"\d+(?:\^\{?(?:\\text\{|\\mathrm\{)?(?:st|nd|rd|th)\b\}*)"),
    re.compile(r"https?://\S+"),
]
_SUB = re.compile(r"_\{?-?\d+\}?")
_ONE_DIGIT_ARGS = re.compile(r"\\(?:[dtc]?frac|[dt]?binom|sqrt)(?![A-Za-z{])\s*(\d)(\d?)")
_FRAC_SECOND = re.compile(r"\\(?:[dtc]?frac|[dt]?binom)\s*\{[^{}]*\}\s*(\d)")
_NUMBER = re.compile(r"\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [m.span() for m in pattern.finditer(text)]


def _inside(i: int, spans: list[tuple[int, int]]) -> bool:
    return any(a <= i < b for a, b in spans)


def _protected(text: str) -> list[tuple[int, int]]:
    return [s for p in _PROTECTED for s in _spans(p, text)]


def _number_spans(text):
    """Spans of the numbers that stand for a value."""
    guarded = _protected(text) + _spans(_SUB, text)
    single = {}  # \frac12 is 1 over 2, \sqrt13 is the root of 1, times 3
    for m in _ONE_DIGIT_ARGS.finditer(text):
        single[m.start(1)] = True
        if m.group(2) and "sqrt" not in m.group(0):
            single[m.start(2)] = True
    for m in _FRAC_SECOND.finditer(text):
        single[m.start(1)] = True
    out, i = [], 0
    while True:
        m = _NUMBER.search(text, i)
        if not m:
            return out
        a, b = m.span()
        if a in single:
            b = a + 1
        else:
            inner = [j for j in single if a < j < b]
            if inner:
                b = min(inner)
        i = b
        if _inside(a, guarded):
            continue
        before = text[a - 1] if a else ""
        named = before.isalpha() or before == "_"  # x1, F2; but \cdot2, \times3, \frac1 are values
        if named and not re.search(r"\\[A-Za-z]+$", text[:a]):
            continue
        if before == "#" or (before == "." and a > 1 and text[a - 2].isdigit()):
            continue
        out.append((a, b))


def _plus_one(number: str) -> str:
    whole, dot, decimals = number.partition(".")
    sep = re.search(r"\{,\}|\\,|,", whole)
    digits = re.sub(r"\D", "", whole)
    grown = str(int(digits) + 1)
    if digits.startswith("0") and len(digits) > 1:
        grown = grown.zfill(len(digits))
    if sep:
        parts = []
        while len(grown) > 3:
            parts.insert(0, grown[-3:])
            grown = grown[:-3]
        grown = sep.group(0).join([grown, *parts])
    return grown + dot + decimals


# ---------------------------------------------------------------- numbers


def last_number(text: str) -> str | None:
    """The last number, plus one."""
    spans = _number_spans(text)
    if not spans:
        return None
    a, b = spans[-1]
    return text[:a] + _plus_one(text[a:b]) + text[b:]


def all_numbers(text: str) -> str | None:
    """Every number, plus one (None with fewer than two: that is last_number)."""
    spans = _number_spans(text)
    if len(spans) < 2:
        return None
    for a, b in reversed(spans):
        grown = _plus_one(text[a:b])
        if (
            len(grown) > b - a == 1
            and _ONE_DIGIT_ARGS.search(text[max(0, a - 8) : b + 1])
            and text[a - 1] != "{"
        ):
            grown = "{" + grown + "}"  # \frac19 -> \frac2{10}
        text = text[:a] + grown + text[b:]
    return text


# ---------------------------------------------------------------- a sign

_OPERAND_LEFT = re.compile(
    r"(?:\d|(?<![A-Za-z])[A-Za-z]|[)\]}!²³⁴π°'θωφα-ω]|\\[a-zA-Z]+|\.\.\.|…)$"
)
_OPERAND_RIGHT = re.compile(
    r"(?:\d|[A-Za-z](?![A-Za-z])|\d+[A-Za-z]|[(\[{√|πα-ω∑∫]|\\[a-zA-Z]+|(?:sqrt|sin|cos|tan|log|ln|exp|floor|binom|C)\b|\.\.\.|…)"
)


def _sign_sites(text):
    math = list(_spans(_MATH, text))
    code = _spans(_CODE, text)
    guarded = _protected(text) + [
        m.span() for m in re.finditer(r"\\(?:text|mathrm|operatorname|mbox)\{[^{}]*\}", text)
    ]
    sites = []
    for m in re.finditer(r"[+\-−]", text):
        i, c = m.start(), m.group()
        before, after = text[:i], text[i + 1 :]
        if _inside(i, guarded):
            continue
        if (after[:1] in "+-−>–" and after[:1]) or before[-1:] in ("+", "-", "−", "<"):
            continue
        left, right = before.rstrip(), after.lstrip()
        spaced = left != before and right != after
        line_start = not re.search(r"\S", before.rsplit("\n", 1)[-1])
        if line_start and (right != after or not right) and not _inside(i, math):
            continue  # a bullet
        operand_left = bool(_OPERAND_LEFT.search(left)) and not line_start
        operand_right = bool(_OPERAND_RIGHT.match(right))
        if _inside(i, math) or _inside(i, code):
            if not right or (c != "+" and re.match(r"0(?![.\d])", right)):
                continue
            binary = operand_left or (left[-1:].isalnum() and left != before)
            if re.search(
                r"(?:\\[lg]eq?|\\equiv|\\approx|\\pm|\\mp|\\cdot|\\times|\\left|\\q?quad|\\neq?|\\to|\\in|\\implies|\\Rightarrow|\\iff)$",
                left,
            ):
                binary = False
        elif spaced:
            if not (operand_left and operand_right):
                continue
            binary = True
        elif left == before and right == after and operand_left:
            word_left = re.search(r"[A-Za-z]{2,}$", left)
            word_right = re.match(r"[A-Za-z]{2,}|\d+-?[a-z]{2,}", right)
            if word_left or word_right or not operand_right:
                continue  # non-zero, x-axis, 3-digit
            digits = left[-1:].isdigit() and right[:1].isdigit() and c != "+"
            if digits and not re.match(r"[\d.]+\s*(?:[=+*/)^·×]|\\)", right):
                continue  # a range, 1-10
            if re.search(r"(?<![A-Za-z])[A-Z]$", left) and re.match(r"[A-Z](?![A-Za-z])", right):
                continue  # A-B, names
            binary = True
        elif right == after and re.match(
            r"(?:\d|[a-z](?![A-Za-z])|\\(?:frac|sqrt|pi)|√|π|\(|(?:sqrt|sin|cos)\b)", right
        ):
            if not re.search(r"(?:^|[\s=(,\[{<>≤≥≡≈:;/^·$±])$", before):
                continue
            if c != "+" and re.match(r"0(?![.\d])", right):
                continue
            binary = False
        else:
            continue
        sites.append((i, c, binary))
    return sites


def sign(text: str) -> str | None:
    """One sign flipped: + for -, - for +, or a leading minus lost; the one in the middle."""
    sites = _sign_sites(text)
    if not sites:
        return None
    i, c, binary = sites[len(sites) // 2]
    if c == "+":
        new = "−" if "−" in text and "-" not in re.sub(r"\w-\w", "", text) else "-"
    else:
        new = "+" if binary else ""
    return text[:i] + new + text[i + 1 :]


# ---------------------------------------------------------------- sentences

_ABBREVIATION = re.compile(
    r"(?:^|[\s(~])(?:i\.e|e\.g|etc|vs|cf|resp|approx|w\.r\.t|w\.l\.o\.g|s\.t|eq|eqs|fig|thm|prop|cor|def|no|nos|"
    r"dr|mr|mrs|ms|prof|st|p|pp|sec|min|max|deg|sq|ft|in|hr|hrs|a\.m|p\.m|u\.s)\.$",
    re.I,
)
_MARKER = re.compile(r"[ \t]*(?:[-*+•–][ \t]+|\d+[.)][ \t]+|\(\d+\)[ \t]+|#+[ \t]+)")
_HEAD = re.compile(
    r"\s*(?:"
    + _TAG.pattern
    + r"\s*)*(?:\*\*)?(?:(?:Path|Outline|Step|Thread)?\s*\d+(?:\.\d+)*:(?:\*\*)?[ \t]+"
    + r"|\d+(?:\.\d+)+[:.)]?[ \t]+)?"
)
_TAIL = re.compile(r"(?:\s*" + _TAG.pattern + r")*\s*$")


def _next_starts(rest):
    """Whether what follows a full stop can be the start of a sentence."""
    rest = rest.lstrip()
    if not rest:
        return True
    if re.match(r"[a-z]", rest):
        # a lower-case letter starts one only as a symbol: "n is odd", "a_2 = 4", "f(x) = ..."
        return bool(
            re.match(
                r"[a-z](?:_\w|\(|\^|'|\s*[=<>≤≥≡]|\s+(?:is|must|has|and|can|divides|equals|does)\b)",
                rest,
            )
        ) and not re.match(r"a\s+(?:is|must|has|and|can)\b", rest)
    return True


def sentences(text: str) -> list[tuple[int, int]]:
    """The spans of the sentences, each with the space after it; labels and tags are outside."""
    start = _HEAD.match(text).end()
    end = _TAIL.search(text, start).start() if _TAIL.search(text, start) else len(text)
    math = _spans(_MATH, text)
    code = _spans(_CODE, text)
    cuts = []
    for m in re.finditer(r"[.!?…](?:[\"'”’)\]*]|\$)*(?=\s|$)|[。]", text[:end]):
        i, j = m.start(), m.end()
        if i < start:
            continue
        if _inside(i, code):
            continue
        block = [s for s in math if s[0] <= i < s[1]]
        if block:
            a, b = block[0]
            if text[i + 1 : b].strip(" $\\)]") or not _next_starts(text[b:end]):
                continue  # a full stop in the midst of a formula
            j = b
        ch = text[i]
        if ch == "!" and not re.search(r"[a-z]{2,}$", text[:i]):
            continue  # a factorial
        if ch == "." and _ABBREVIATION.search(text[: i + 1]):
            continue
        dots = ch in ".…" and (text[i - 2 : i] == ".." or ch == "…")
        if dots and re.match(r"\s*[,)\]}=+\-−]|\s+(?:or|and|is)\b|\s*[a-z0-9]", text[j:]):
            continue  # 1, 2, ...
        if re.search(r"(?:^|\n)[ \t]*(?:\d+|[A-Za-z])\.$", text[: i + 1]):
            continue  # a list marker
        if not _next_starts(text[j:end]):
            continue
        while j < end and text[j].isspace():
            j += 1
        cuts.append(j)
    for m in re.finditer(r"\n\s*\n|\n(?=" + _MARKER.pattern + r")", text[:end]):
        if m.start() > start and not _inside(m.start(), math) and not _inside(m.start(), code):
            cuts.append(m.end())
    # a heading or a lone formula between blank lines is no sentence: it goes with what follows
    points = [start, *sorted(c for c in set(cuts) if start < c < end), end]
    spans = [(a, b) for a, b in itertools.pairwise(points) if text[a:b].strip()]
    out = []
    for a, b in spans:
        body = text[a:b].strip()
        if out and not re.search(r"\w", re.sub(r"^" + _MARKER.pattern, "", body)):
            out[-1] = (out[-1][0], b)
        else:
            out.append((a, b))
    return out


_FILLER = re.compile(
    r"^(?:(?:hmm+|okay|ok|wait|so|alright|right|yes|no|well|great|good|nice|now|but|actually|perfect"
    r"|cool|let me (?:see|think|check|double[- ]check)(?: (?:that|this|it))?(?: again)?|hold on"
    r"|let's see|that's (?:it|right|correct|good)|makes sense|interesting)[\s,.!?…]*)+$",
    re.I,
)


def _says_something(sentence):
    s = re.sub(r"^" + _MARKER.pattern, "", sentence).strip()
    return not _FILLER.match(s)


def _without(text, spans, dropped):
    if not dropped or len(dropped) >= len(spans):
        return None
    out, at = [], 0
    for k, (a, b) in enumerate(spans):
        if k in dropped:
            out.append(text[at:a])
            at = b
            body = text[a:b]
            space = body[len(body.rstrip()) :]
            marker = _MARKER.match(body)
            if marker and "\n" not in space and k + 1 < len(spans) and k + 1 not in dropped:
                out.append(marker.group())  # the rest of the item keeps its marker
            so_far = "".join(out)
            if (
                "\n" in space
                and so_far.strip()
                and not so_far.endswith("\n")
                and so_far[-1:].isspace()
                and k > 0
            ):
                out = [so_far.rstrip() + space]  # what follows stays on its own line
    out.append(text[at:])
    new = "".join(out)
    if max(dropped) == len(spans) - 1:  # the space before the end goes with the last sentence
        tail = text[spans[-1][1] :]
        new = new[: len(new) - len(tail)].rstrip() + tail
    return new if new.strip() and new != text else None


def dropped_first(text: str) -> str | None:
    """The first sentence that says something left out, with any filler before it."""
    spans = sentences(text)
    for k, (a, b) in enumerate(spans):
        if _says_something(text[a:b]):
            return _without(text, spans, set(range(k + 1)))
    return None


def dropped_last(text: str) -> str | None:
    """The last sentence that says something left out, with any filler after it."""
    spans = sentences(text)
    for k in range(len(spans) - 1, -1, -1):
        a, b = spans[k]
        if _says_something(text[a:b]):
            return _without(text, spans, set(range(k, len(spans))))
    return None


def dropped_middle(text: str) -> str | None:
    """One sentence left out: of those neither first nor last, that nearest the middle that says
    something."""
    spans = sentences(text)
    inner = sorted(range(1, len(spans) - 1), key=lambda k: abs(k - len(spans) // 2))
    for k in inner:
        a, b = spans[k]
        if _says_something(text[a:b]):
            return _without(text, spans, {k})
    return None


def every_second(text: str) -> str | None:
    """Every second sentence left out, from the second on."""
    spans = sentences(text)
    if len(spans) < 3:
        return None
    dropped = set(range(1, len(spans), 2))
    if not any(_says_something(text[spans[k][0] : spans[k][1]]) for k in dropped):
        return None
    return _without(text, spans, dropped)


# ---------------------------------------------------------------- a verb negated

_VERBS = {
    "divides": "divide",
    "equals": "equal",
    "holds": "hold",
    "works": "work",
    "exists": "exist",
    "satisfies": "satisfy",
    "contains": "contain",
    "implies": "imply",
    "converges": "converge",
    "intersects": "intersect",
    "passes": "pass",
    "lies": "lie",
    "leaves": "leave",
    "gives": "give",
    "yields": "yield",
    "depends": "depend",
    "follows": "follow",
    "belongs": "belong",
    "matches": "match",
    "agrees": "agree",
    "simplifies": "simplify",
    "factors": "factor",
    "increases": "increase",
    "decreases": "decrease",
    "contributes": "contribute",
    "covers": "cover",
    "forms": "form",
    "repeats": "repeat",
    "changes": "change",
    "means": "mean",
    "becomes": "become",
}
_NEGATIONS = [
    # a "not" taken away
    (
        re.compile(
            r"\b(is|are|was|were|can|could|must|will|would|should|does|do|did|has|have|need)\s+not\b(?!\s+(?:only|necessarily|just|merely))"
        ),
        r"\1",
    ),
    (re.compile(r"\b([Cc]an)not\b"), r"\1"),
    (re.compile(r"\b([Cc]a)n['’]t\b"), r"\1n"),
    (
        re.compile(
            r"\b([Ii]s|[Aa]re|[Ww]as|[Ww]ere|[Dd]oes|[Dd]o|[Dd]id|[Hh]as|[Ww]ould|[Cc]ould|[Ss]hould)n['’]t\b(?!\s+(?:only|necessarily|just|merely|it|that|there)\b)"
        ),
        r"\1",
    ),
    (re.compile(r"\b([Tt]here)\s+(is|are)\s+no\b"), r"\1 \2"),
    (re.compile(r"\bnever\b"), "always"),
    # a "not" put in
    (
        re.compile(
            r"(?<!as )(?<!That )\b(is|are|was|were|must|can|could|will|would|should)"
            r"(?=\s+(?!not\b|no\b|n['’]t|it\b|that\b|there\b|this\b|never\b|we\b|I\b|you\b"
            r"|neither\b|only\b|just\b)[\w$\\(\[{√±−-])"
        ),
        r"\1 not",
    ),
    (
        re.compile(
            r"\b(It|it|That|that|This|this|There|there|which)['’]s(?=\s+(?!not\b|no\b|see\b|check\b|it\b)\w)"
        ),
        r"\1 isn't",
    ),
    (
        re.compile(r"\b(" + "|".join(_VERBS) + r")\b(?!\s+(?:not|no)\b)"),
        lambda m: "does not " + _VERBS[m.group(1)],
    ),
]
_NO_CLAIM = re.compile(
    r"\?\s*$|\bwhether\b|\b(?:let me|let['’]s) (?:check|see|verify|think|consider)\b", re.I
)


def negated(text: str) -> str | None:
    """One verb negated, or a negation lost: of all the places, the one in the middle."""
    hidden = _spans(_MATH, text) + _spans(_CODE, text) + _spans(_TAG, text)
    sites = []
    for a, b in sentences(text):
        if _NO_CLAIM.search(text[a:b].rstrip()) or not _says_something(text[a:b]):
            continue
        for pattern, new in _NEGATIONS:
            for m in pattern.finditer(text, a, b):
                if _inside(m.start(), hidden) or any(
                    x[0] < m.end() and m.start() < x[1] for x in sites
                ):
                    continue
                if re.match(r"\s*,", text[m.end() :]):  # "that is, ..."
                    continue
                if re.search(
                    r"\b(?:what|how|where|why|who)\s+(?:\w+\s+)?$", text[: m.start()], re.I
                ):
                    continue
                if re.search(r"\b(?:to|let)\s+$", text[: m.start()], re.I):
                    continue
                clause = re.split(r"[,;:]", text[a : m.start()])[-1]
                supposed = bool(
                    re.search(
                        r"\b(?:if|let|suppose|assume|where|when|given|want|need)\b", clause, re.I
                    )
                )
                sites.append(
                    (
                        m.start(),
                        m.end(),
                        m.expand(new) if isinstance(new, str) else new(m),
                        supposed,
                    )
                )
    if not sites:
        return None
    sites = [s for s in sites if not s[3]] or sites  # rather a claim than a supposition
    sites.sort()
    a, b, new, _ = sites[len(sites) // 2]
    return text[:a] + new + text[b:]


# ---------------------------------------------------------------- an invented sentence

INVENTED = [
    "By symmetry, the remaining case gives the same value.",
    "This bound is attained only at the endpoint of the interval.",
    "In particular, the result is divisible by 3.",
    "The discriminant of this quadratic is 49, which is a perfect square.",
    "The function is therefore strictly increasing for all positive values.",
    "Substituting back, both sides evaluate to 18.",
    "By the AM-GM inequality, the expression is at least 12.",
    "Exactly 4 of these possibilities lead to a contradiction.",
    "The two triangles are congruent by SAS.",
    "Since the sum of the digits is 15, the number is a multiple of 3.",
    "The sequence is periodic with period 6.",
    "By Fermat's little theorem, the remainder is 1.",
    "The quadrilateral is cyclic, so its opposite angles add up to 180 degrees.",
    "The center of the circle lies on the perpendicular bisector of the chord.",
    "Only the even values have to be considered from here on.",
    "The two roots are reciprocals of each other.",
    "The ratio of the areas is the square of the ratio of the sides, which is 4 to 9.",
    "By Vieta's formulas, the product of the roots is -7.",
    "This also shows that the number is prime.",
    "The expected value is therefore twice as large.",
    "The order of the elements does not matter, so we divide by 2.",
    "A quick numerical estimate gives about 2.45.",
    "The polynomial is irreducible over the integers.",
    "The derivative vanishes only at one point.",
    "The same argument rules out every odd prime larger than 5.",
    "We may assume without loss of generality that the first number is the largest.",
    "The inequality is strict unless all three variables are equal.",
    "Induction on the number of terms extends this to the general case.",
    "The geometric series converges because its ratio is less than 1.",
    "The line passes through the origin.",
]


def _chosen(text):
    fit = [s for s in INVENTED if s not in text]
    return fit[zlib.crc32(text.encode("utf-8")) % len(fit)] if fit else None


def _put(text, at_end):
    spans = sentences(text)
    new = _chosen(text)
    if not spans or new is None or (not at_end and len(spans) < 2):
        return None
    k = len(spans) if at_end else (len(spans) + 1) // 2
    a, b = spans[k - 1]
    body = text[a:b]
    kept = body.rstrip()
    gap = body[len(kept) :]
    marker = _MARKER.match(body)
    number = marker and re.search(r"\d+", marker.group())
    if marker and "#" not in marker.group() and (at_end or ("\n" in gap and not number)):
        lead = marker.group()
        if number:
            lead = lead.replace(number.group(), str(int(number.group()) + 1))
        return text[:a] + kept + "\n" + lead + new + gap + text[b:]
    if kept and not re.search(r"[.!?…:][\"'”’)\]*$]*$|\\\]$|\$\$$", kept):
        kept += "."
    return text[:a] + kept + " " + new + gap + text[b:]


def invented_appended(text: str) -> str | None:
    """A sentence from INVENTED at the end."""
    return _put(text, True)


def invented_inserted(text: str) -> str | None:
    """A sentence from INVENTED in the middle."""
    return _put(text, False)


MUTATIONS = {
    "last-number": last_number,
    "all-numbers": all_numbers,
    "sign": sign,
    "dropped-first": dropped_first,
    "dropped-middle": dropped_middle,
    "dropped-last": dropped_last,
    "every-second": every_second,
    "negated": negated,
    "invented-appended": invented_appended,
    "invented-inserted": invented_inserted,
}


def mutants(text: str) -> dict[str, str]:
    """Kind -> mutant, for the mutations that apply."""
    made = ((kind, mutate(text)) for kind, mutate in MUTATIONS.items())
    return {kind: new for kind, new in made if new is not None and new != text}
