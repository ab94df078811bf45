r"""Mathematics and its words in one spelling.

``\frac{3}{4}``, ``3/4`` and "3 over 4" come out the same, and so do ``x²``, ``x^{2}`` and
"x squared": what is only spelled otherwise must not look like another statement.

>>> plain(r"So $\frac{3}{4} \times x^{2} \le 1{,}000$")
'So 3/4*x^2 <= 1000'
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from .words import GREEK, NUMBERS

#: One step on the way of a text to its spelling.
_Step = Callable[[str], str]

_SIGNS = str.maketrans(
    {
        **dict(zip("−–—×·⋅∙÷“”‘’", "---****/\"\"''", strict=True)),
        "≤": "<=",
        "≥": ">=",
        "≈": "~",
        "∉": " not in ",
        "∤": " not divides ",
        "¬": " not ",
        "∄": " not exists ",
        "⌊": "floor(",
        "⌋": ")",
        "⌈": "ceil(",
        "⌉": ")",
        "½": "1/2",
        "⅓": "1/3",
        "¼": "1/4",
        "⅔": "2/3",
        "¾": "3/4",
        "⅕": "1/5",
        "⅛": "1/8",
        **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
    }
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n", strict=True))

_COMMANDS = {
    **dict.fromkeys(("cdot", "times", "ast"), "*"),
    **dict.fromkeys(("le", "leq", "leqslant"), "<="),
    **dict.fromkeys(("ge", "geq", "geqslant"), ">="),
    **dict.fromkeys(("ne", "neq"), "≠"),
    **dict.fromkeys(("approx", "sim", "simeq"), "~"),
    **dict.fromkeys(("to", "rightarrow", "longrightarrow"), "->"),
    **dict.fromkeys(("implies", "Rightarrow", "iff", "Leftrightarrow", "therefore"), " so "),
    **dict.fromkeys(("lt",), "<"),
    **dict.fromkeys(("gt",), ">"),
    **dict.fromkeys(("div",), "/"),
    "lfloor": "floor(",
    "lceil": "ceil(",
    **dict.fromkeys(("rfloor", "rceil"), ")"),
    **dict.fromkeys(("equiv",), "="),
    **dict.fromkeys(("quad", "qquad", "displaystyle"), " "),
    **dict.fromkeys(("dots", "ldots", "cdots"), "..."),
    "pm": "±",
    "mid": "|",
    "nmid": " not divides ",
    "notin": " not in ",
    "nexists": " not exists ",
    **dict.fromkeys(("neg", "lnot"), " not "),
    "cap": "∩",
    "cup": "∪",
}

_TENS = r"twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_TEN = {word: 10 * at for at, word in enumerate(_TENS.split("|"), 2)}
_UNITS = r"one|two|three|four|five|six|seven|eight|nine"

#: Words before a number of which there are many: "the 2s".
_BEFORE_MANY = "(?:the|more|of|these|those|all|any|no|many|count|other)"
#: Words that are signs where they stand in mathematics.
_SPOKEN = (
    (r"\bis (?:strictly )?less than or equal to\b|\bis at most\b|\bdoes not exceed\b", "<="),
    (r"\bis (?:strictly )?greater than or equal to\b|\bis at least\b", ">="),
    (r"\bis (?:strictly )?(?:less|smaller|lower|fewer) than\b", "<"),
    (r"\bis (?:strictly )?(?:greater|larger|more|bigger|higher) than\b|\bexceeds\b", ">"),
    (r"\b(?:is )?(?:not equal to|different from)\b|\bdoes not equal\b", "≠"),
    (r"\b(?:is |are )?(?:equal to|equals?)\b", "="),
    (rf"\bmultiplied by\b|\btimes\b(?=\s*(?:[\d(√]|[b-zB-Z]\b|(?:{'|'.join(NUMBERS)})\b))", "*"),
    (r"\bdivided by\b", "/"),
    (r"\bplus\b", "+"),
    (r"\bminus\b", "-"),
    (r"(?<=[\w)])[ ]squared\b", "^2"),
    (r"(?<=[\w)])[ ]cubed\b", "^3"),
    (r"\bto the (?:power (?:of )?)", "^"),
    (r"\bpercent\b|\bper cent\b", "%"),
)

#: Commands that change how their argument looks, not what it is.
_DRESS = (
    r"text\w*|math\w+|operatorname|f?boxed|[fm]box|underline|vec|emph"
    r"|overline(?=\s*\{[a-z\d]{2,}\})"  # digits; of one name it is the conjugate, the complement
)
#: Greek letters without their backslash.
_GREEK_WORD = re.compile(
    rf"(?<![A-Za-z\\])(?:{'|'.join(name for name in GREEK if name != 'omicron')}"
    r"|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega)(?![A-Za-z])"
)


#: Behind a fraction, what is multiplied, divided or raised with it.
_JOINED = (
    r"\s*(?=[/^(√A-Za-zα-ω]|\\(?:sqrt|left|[dt]?frac|binom|pi|alpha|beta|theta|phi|sin|cos|tan|log"
    r"|ln)(?![A-Za-z]))"
)


_NUMBER_WORDS = "|".join(NUMBERS)
_INTEGRAL = re.compile(r"∫|\\i*int(?![A-Za-z])|(?i:\bintegra)")
_DIFFERENTIAL = re.compile(r"(?<![\w/\\])d(?:[xyztuvrs]|\\?theta|θ)(?![\w\[(/^])(?!\s*/)")


def _letter(name: str) -> str:
    letter = GREEK[name.lower()]
    return letter if name.islower() else letter.upper()


def _command(match: re.Match[str]) -> str:
    name = match.group(1)
    return _letter(name) if name.lower() in GREEK else _COMMANDS.get(name, name)


def _tens(match: re.Match[str]) -> str:
    return str(_TEN[match.group(1).lower()] + int(NUMBERS[match.group(2).lower()]))


def _fraction(match: re.Match[str]) -> str:
    before, above, short_above, below, short_below, joined = match.groups()
    above, below = above or short_above or "", below or short_below or ""
    found = f"{_grouped(above)}/{_grouped(below)}"
    if before is None and joined is None:
        return f" {found}"
    return f"{before.strip() if before else ' '}({found})"


def _written_out(text: str) -> str:
    return text.translate(_SIGNS)


def _without_differentials(text: str) -> str:
    """Where something is integrated: elsewhere ``ds`` may be a product."""
    return _DIFFERENTIAL.sub("", text) if _INTEGRAL.search(text) else text


def _apart(match: re.Match[str]) -> str:
    """Numbers in brackets, which are no thousands."""
    return match.group().replace(",", ", ")


def _raised(match: re.Match[str]) -> str:
    return "^" + "".join(_RAISED[char] for char in match.group())


def _cells(match: re.Match[str]) -> str:
    """A matrix as the list of its entries."""
    entries = re.sub(r"\s*(?:\\\\|&)\s*", ", ", match.group(1))
    return f"({entries})"


def _indexed(match: re.Match[str]) -> str:
    """``v1v3`` as ``v_1 v_3``, ``H2O`` as ``H_2O``."""
    return re.sub(r"(?<=\d)(?=[a-z])", " ", re.sub(r"(?<=\D)(?=\d)", "_", match.group()))


def _digits(match: re.Match[str]) -> str:
    return match.group(1) + NUMBERS[match.group(2).lower()]


def _tightened(match: re.Match[str]) -> str:
    return f"{match.group(1) or ' '}{match.group(2)}"


def _grouped(text: str) -> str:
    text = text.strip()
    return text if re.fullmatch(r"[\w.]*|√?\w+", text) else f"({text})"


def _attached(match: re.Match[str]) -> str:
    """An index or exponent, apart from a digit behind it."""
    apart = "" if match.group(3) is None else "*" if match.group(1) == "^" else " "
    return f"{match.group(1)}{_grouped(match.group(2))}{apart}"


def _rule(pattern: str, by: str | Callable[[re.Match[str]], str], flags: int = 0) -> _Step:
    """Replace ``pattern``."""
    return partial(re.compile(pattern, flags).sub, by)


_INNER = r"\{((?:[^{}])*)\}"
_FROM_INSIDE = (
    _rule(
        rf"([/^]\s*)?\\[dtc]?frac\s*(?:{_INNER}|(\w))\s*(?:{_INNER}|(\w))({_JOINED})?", _fraction
    ),
    _rule(rf"\\sqrt\s*{_INNER}", lambda m: f"√{_grouped(m.group(1))}"),
    _rule(rf"([_^])\s*{_INNER}(\s*(?=\d))?", _attached),
    _rule(rf"\\d?binom\s*{_INNER}\s*{_INNER}", r"C(\1,\2)"),
    _rule(rf"(?<![\\\w^_}}]){_INNER}(?!\s*{{)", r"\1"),
)


def _braces(text: str) -> str:
    """Fractions, roots, powers and indices without braces."""
    for _ in range(6):
        before = text
        for step in _FROM_INSIDE:
            text = step(text)
        if text == before:
            return text.replace("\\{", "{").replace("\\}", "}")
    return text


#: In this order: each reads what the ones before it leave.
_STEPS: tuple[_Step, ...] = (
    # words, and signs of one character
    _rule(r"[^\S\n]+", " "),
    _rule(r"(?<=\w)['’](?:s|ll|re|ve|d|m)\b|\b(?:[A-Za-z]\.){2,}", ""),
    _rule(r"\\([%#])", r"\1"),
    _rule(rf"(?i)\b({_BEFORE_MANY} \d+)s\b", r"\1"),  # "the 2s"; but 2s is twice s, or seconds
    _without_differentials,
    _rule(r"\\infty\b|\binfinity\b", "∞"),
    partial(_GREEK_WORD.sub, lambda m: _letter(m.group())),
    _rule(f"[{''.join(_RAISED)}]+", _raised),
    _rule(r"(?<=\d)(?=[½⅓¼⅔¾⅕⅛])", " "),
    _written_out,
    _rule(r"\s!=|(?<!\d)!=|(?<=[A-Za-z_]\d)!=|!=(?!\s*[1-9])", " ≠ "),  # but 4!=24
    # LaTeX, from what only dresses to what holds other things
    _rule(rf"\\(?:{_DRESS})\s*(?=\{{)", ""),
    _rule(
        r"(?<![A-Za-z_]\d)(?<![A-Za-z_]\d\d)(?<!\b0)(?<=\d)(?:\s?x\s?(?=\d)| x (?=[a-z]\b))", "*"
    ),
    _rule(r"\\(?:left|right|[Bb]igg?[lr]?)(?![A-Za-z])\.?", ""),
    _rule(
        r"(?:\\(?:int|sum|prod)|[∫∑Σ∏]|(?<=[\])|])(?=_))"
        r"\s*_\s*(\{[^{}]*\}|\w)\s*\^\s*(\{[^{}]*\}|\w+|∞)",
        r" from \1 to \2 of ",
    ),
    _rule(r"\\sqrt\s*(?=\d)", "√"),
    _rule(r"\\d?binom\s*(\w)\s*(\w)(?!\w)", r" C(\1,\2)"),
    _rule(r"\bsqrt\b(?=[\s(])|\bsquare root of\b", "√"),
    _rule(r"(?<=\d) (?:over|out of) (?=\d)", "/"),
    _rule(r"(?<=[(\[])\d{1,3}(?:,\d{3})+(?=[)\]])", _apart),
    _rule(r"(\d)(?:\{,\}|\\,|,)(?=\d{3}(?!\d))", r"\1"),
    _rule(r"\^\s*(?:\{\s*)?\\circ\b(?:\s*\})?|°|\bdegrees?\b", " "),
    _rule(r"\\begin\{\w*matrix\}(.{0,2000}?)\\end\{\w*matrix\}", _cells, re.DOTALL),
    _rule(r"(?<=[\w)}])\\,(?=[A-Za-z(\\])(?!d[a-z](?![\w\[(]))", ""),
    _rule(r"\\[,;:! ]|\\\\|&(?!\w+;)", " "),
    _braces,
    _rule(r"\\[()\[\]]|\$+|[*_]{2,}|`+|^[ \t]*(?:[-*+]|#+)[ \t]+", " ", re.MULTILINE),
    _rule(r"\\([A-Za-z]+)", _command),
    _rule(r"(?<![\w.])(?:[A-Za-zα-ω]\d{1,2})+[A-Za-z]?(?!\w|\.\d)", _indexed),
    # numbers and signs in words
    _rule(rf"(?i)\b({_TENS})[- ]({_UNITS})\b", _tens),
    _rule(
        rf"(?i)\b({_NUMBER_WORDS})\b"
        r"(?=\s*(?:[-+*/=<>^]|plus|minus|times|over|equals|(?<!one) is\b))",
        lambda m: NUMBERS[m.group().lower()],
    ),
    _rule(r"\s+", " "),
    *(_rule(pattern, sign) for pattern, sign in _SPOKEN),
    _rule(rf"(?i)(?<![A-Za-z]-)(?<=[-+*/=<>^])(\s*)({_NUMBER_WORDS})\b", _digits),
    # spaces: none within a term, one around a relation
    _rule(
        r"((?:[\d)'%!]|(?<![A-Za-z])[A-Za-zα-ω])?)\s*(<=|>=|->|[-+*/^=≠<>~∩∪])\s*(?=[\w(√.-])",
        _tightened,
    ),
    _rule(r"(?<=\))\s(?=[b-zA-HJ-Z](?![\w'’.]))", ""),
    _rule(r"(?<=\d)\s+(?=[π√])|(?<=[\d)])\s+(?=\([\d(√]|\([A-Za-z][^A-Za-z])", ""),
    _rule(r"(<=|>=|->|[=≠<>~])", r" \1 "),
)


def plain(text: str) -> str:
    """``text`` without markup, its mathematics in one spelling."""
    for step in _STEPS:
        text = step(text)
    return " ".join(text.split())
