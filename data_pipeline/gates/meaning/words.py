"""Words that the gates on meaning know: those that say nothing, numbers, contraries."""

from __future__ import annotations

#: Words that join, or that a thinker says to themselves; keeping them says nothing.
JOINING = frozenset(
    word
    for line in (
        "they them their theirs",
        "the a an of to is are be been being was were its it this that these those we i so",
        "and or for in on at by with as from then therefore thus hence let lets us our my me",
        "you your which can will would have has had having now wait okay ok hmm well just",
        "also but if there here first next last finally again still since because where when",
        "what who how why do does did doing done get gets got give gives given gave make",
        "makes made take takes taking took use using uses used need needs find finding finds",
        "found compute computing computes computed calculate calculating calculates consider",
        "considering check checking checks see look looking going go goes becomes become",
        "means mean meaning write writing written note know known say says let's i'll we'll",
        "that's it's there's equal equals into out up down over under than each both such",
        "some any all one while though however similarly likewise moreover furthermore",
        "additionally alternatively instead otherwise indeed actually simply directly exactly",
        "really very only about yes right good great sure maybe perhaps think try trying",
        "start starting begin step answer result value number hence overall together",
        "respectively obtain obtains obtained yield yields follows following conclude",
        "concludes must should could may might want working work works",
    )
    for word in line.split()
)

NUMBERS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "thirteen": "13",
    "fourteen": "14",
    "fifteen": "15",
    "sixteen": "16",
    "seventeen": "17",
    "eighteen": "18",
    "nineteen": "19",
    "twenty": "20",
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "hundred": "100",
}

#: Numbers that a word may stand for.
SPOKEN: dict[str, tuple[str, ...]] = {
    **{word: (number,) for word, number in NUMBERS.items()},
    "half": ("2", "0.5"),
    "halves": ("2",),
    "quarter": ("4", "0.25"),
    "once": ("1",),
    "twice": ("2",),
    "double": ("2",),
    "doubled": ("2",),
    "both": ("2",),
    "pair": ("2",),
    "thrice": ("3",),
    "triple": ("3",),
    "dozen": ("12",),
    **{
        word: (str(number),)
        for number, word in enumerate(
            ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"), 1
        )
    },
    "thirds": ("3",),
    "hundredth": ("100",),
}

GREEK = dict(
    zip(
        (
            *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota"),
            *("kappa", "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau"),
            *("upsilon", "phi", "chi", "psi", "omega", "varepsilon", "vartheta", "varphi"),
        ),
        "αβγδεζηθικλμνξοπρστυφχψωεθφ",
        strict=True,
    )
)


def stem(word: str) -> str:
    """A word without its commonest endings: enough to match "divides" with "divided"."""
    word = word.removesuffix("'s").replace("'", "")
    for ending in (
        "ations",
        "ation",
        "ings",
        "ing",
        "edly",
        "ed",
        "ies",
        "es",
        "s",
        "ly",
        "e",
        "y",
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


#: Words of which one stands for another only where something else is said: between the bars of a
#: line, any of them; synonyms between bars.
_ALTERNATIVES = """
    even | odd
    positive | negative
    increase rise raise grow gain | decrease fall lower reduce lose drop decline
    up | down
    maximum max greatest largest highest biggest | minimum min least smallest lowest fewest
    more greater larger higher exceed above over beat bigger | less fewer smaller lower below under
    atmost | atleast
    longer | shorter
    longest | shortest
    before earlier | after later
    first | last
    independent | dependent
    possible | impossible
    true | false
    valid | invalid
    correct | incorrect
    rational | irrational
    finite | infinite
    convex | concave
    inside | outside
    acute | obtuse
    prime | composite
    always | never | sometimes
    with | without
    all every each | some | none
    parallel | perpendicular
    left | right
    horizontal | vertical
    equal identical | unequal distinct different
    include | exclude
    sum add plus | product multiply times | difference subtract minus | quotient
    multiply | divide
    numerator | denominator
    square squared | cube cubed
    double twice | triple thrice
    bisect | trisect
    sine sin | cosine cos | tangent tan
    row | column
    union | intersection
    radius | diameter
    area | perimeter | volume
    mean average | median
    clockwise | counterclockwise
    converge | diverge
    symmetric | asymmetric
    succeed work | fail
    reducible | irreducible
    bounded | unbounded
    permutation | combination
    leap | nonleap
    large big huge | small tiny
    high | low
    near nearer close closer | far farther further
    ahead | behind
    win | lose
    agree | disagree
    confirm | refute contradict
    accept | reject
    consistent | inconsistent
    sufficient | insufficient
    necessary | unnecessary
    open | closed
    top | bottom
    north | south
    east | west
    buy | sell
    fast faster | slow slower
    early | late
    young younger | old older
    heavy heavier | light lighter
    hot hotter warm warmer | cold colder cool cooler
    profit gain | loss
    linear | nonlinear
    singular | invertible
    continuous | discontinuous
    ascending | descending
    upstream | downstream
    inscribed | circumscribed
"""

#: Stems of what says no more than that two things fit, or how it is felt.
ASSENT = frozenset(
    stem(word)
    for line in (
        "agree agrees agreement match matches fit fits confirm confirms confirmed consistent",
        "correct plausible reasonable sense fine nice great good perfect expected expect as",
        "way ways argument arguments method methods approach approaches computation",
        "computations calculation calculations count counts two both three verified",
        "verification same thing funny neat hold holds ok seem seems sane sanity",
    )
    for word in line.split()
)

#: Each line as sets of stems.
ALTERNATIVES = [
    [frozenset(map(stem, side.split())) for side in line.split("|")]
    for line in _ALTERNATIVES.strip().splitlines()
]
