"""The gates on what a text says: small cases, and floors on the labelled ones."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.meaning import blocks, changed_ends, changes, outputs, rewritings
from sglang_multiverse.data_pipeline.gates import check_borrowed, check_ends
from sglang_multiverse.data_pipeline.gates.meaning.faithful import (
    check_concluded,
    check_faithful,
    check_outlined,
    value,
)
from sglang_multiverse.data_pipeline.gates.meaning.spelling import plain
from sglang_multiverse.data_pipeline.gates.meaning.statements import statements
from sglang_multiverse.data_pipeline.gates.text.located import locate

from .mutations import synthetic

SOURCE = (
    "So the width is w and the length is w + 7. The area is 60, hence w(w + 7) = 60. "
    "Factoring gives (w + 12)(w - 5) = 0, so w = 5 because a width is not negative."
)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (r"$\frac{3}{4}x^{2}$", "(3/4)x²"),
        (r"$\frac{16}{3}$", "16/3"),
        (r"$\frac{35}{3} / \frac{7}{3}$", "(35/3)/(7/3)"),
        (r"$\sigma(16)\,\varphi(4)$", "sigma(16)phi(4)"),
        (r"$6\pi - 9\sqrt3$", "6 pi - 9√3"),
        (r"$v_1 v_3$", "v1v3"),
        (r"$\mathrm{H_2O}$", "H2O"),
        (r"$4! = 24$", "4! = 24"),
        (r"$a \ne b$", "a != b"),
        (r"$\int_0^\infty f(x)\,dx$", "from 0 to infinity of f(x)"),
        (r"$0.\overline{076923}$", "0.076923"),
        (r"$(1,180)$", "(1, 180)"),
        (r"\(\frac34 \cdot 5\)", "3/4 × 5"),
        ("x squared plus 1", "x^2 + 1"),
        (r"$a \le 1{,}000$", "a ≤ 1000"),
        (r"$120^\circ$", "120 degrees"),
        (r"\sqrt{16} = 4", "sqrt 16 = 4"),
        ("forty-two", "42"),
    ],
)
def test_one_spelling_of_mathematics(one: str, two: str) -> None:
    assert plain(one).replace(" ", "") == plain(two).replace(" ", "")


@pytest.mark.parametrize(
    "text",
    [
        SOURCE,
        r"""Let the width be $w$; then the length is $w+7$, and from the area $60$ we have
        $w(w+7) = 60$. This factors as $(w+12)(w-5) = 0$. A width is not negative: $w = 5$.""",
        SOURCE.replace("So the", "The").replace("hence", "so that"),
    ],
)
def test_what_says_the_same_passes(text: str) -> None:
    assert check_faithful(SOURCE, text) == []


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("w = 5", "w = 6", "new-number"),
        ("area is 60, hence w(w + 7) = 60", "area gives w(w + 7)", "lost-number"),
        ("(w - 5)", "(w + 5)", "new-formula"),
        ("The area is 60, hence w(w + 7) = 60. ", "", "lost-statement"),
        ("w = 5", "w > 5", "changed-relation"),
        ("is not negative", "is negative", "changed-negation"),
        ("negative.", "negative. The perimeter of the garden is known.", "new-statement"),
    ],
)
def test_what_says_something_else_is_told(old: str, new: str, code: str) -> None:
    assert old in SOURCE
    assert code in {one.code for one in check_faithful(SOURCE, SOURCE.replace(old, new))}


@pytest.mark.parametrize("text", ["", "   ", "?!", "\\frac{", "(" * 500, "$" * 99, "x" * 3000])
def test_no_text_makes_one_raise(text: str) -> None:
    check_faithful(text, SOURCE, text)
    check_faithful(SOURCE, text)
    check_concluded(text, text)
    check_outlined(text, text, [text])
    statements(text)


def test_a_sum_of_its_own_must_be_right() -> None:
    said = "The first pile holds 12 coins. The second holds 30 coins."
    assert check_concluded(said, "Together 12 + 30 = 42 coins.") == []
    assert "false-sum" in {one.code for one in check_concluded(said, "Together 12 + 30 = 43.")}


@pytest.mark.parametrize(
    ("side", "wanted"),
    [
        ("2*3+4", 10),
        ("1/2", Fraction(1, 2)),
        ("2^10", 1024),
        ("9^9999", None),
        ("x+1", None),
        ("1/0", None),
    ],
)
def test_values_of_sides(side: str, wanted: Fraction | None) -> None:
    assert value(side) == wanted


BLOCK = """Two radii are needed.
<Parallel>
<Goal>
<Outline>
1: the area
</Outline>
<Outline>
2: the radius
</Outline>
</Goal>
<Path>
1: Let M be the area. By Heron it is 84.
</Path>
<Path>
2: {second}
</Path>
<Conclusion>
Both are known.
</Conclusion>
</Parallel>"""


@pytest.mark.parametrize(
    ("second", "codes"),
    [
        ("The radius is 84/21 = 4.", ["sibling-value"]),
        ("It is M over the semiperimeter.", ["sibling-name"]),
        ("By Heron the area is 84, and 84/21 = 4.", []),
        ("Let M be the area. Then the radius is M over 21.", []),
    ],
)
def test_what_a_path_takes_from_its_sibling(second: str, codes: list[str]) -> None:
    located = locate(BLOCK.format(second=second))
    question = "A triangle has sides 13, 14, 15 and semiperimeter 21. Find r."
    assert [one.code for one in check_borrowed(located, question)] == codes


#: Least share of a kind that is found fault with.
#: Cases the gates were made with, then those they were made without.
FLOORS = {
    "last-number": (0.90, 0.86),
    "all-numbers": (0.97, 0.97),
    "sign": (0.88, 0.73),
    "operator": (0.82, 0.69),
    "dropped-first": (0.86, 0.76),
    "dropped-middle": (0.94, 0.92),
    "dropped-last": (0.95, 0.95),
    "every-second": (0.97, 0.97),
    "invented": (0.91, 0.92),
    "negated": (0.71, 0.66),
    "variable": (0.33, 0.40),
}
#: Share of honest rewritings that may be faulted or doubted.
HONEST = 0.05


@pytest.mark.parametrize(("which", "name"), list(enumerate(("rewrites", "rewrites-unseen"))))
def test_floors_on_the_labelled_rewritings(which: int, name: str) -> None:
    counts, _ = rewritings(name)
    for kind, floors in FLOORS.items():
        fault, doubt, whole = counts[f"dishonest: {kind}"]
        assert fault + doubt >= floors[which] * whole, (kind, fault, doubt, whole)
    fault, doubt, whole = counts["honest"]
    assert fault <= 0.02 * whole
    assert fault + doubt <= HONEST * whole


CASE = "If the first die shows {}, the second must be even to win the round."


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Now x = 3s + 4 holds.", "Now x = 3 + 4 holds."),
        ("It takes place in 30s on the track.", "It takes place in 30 minutes on the track."),
        ("We get dy / dx = 3 at the point.", "We get dx / dy = 3 at the point."),
        ("We need f(x) = 0 for this.", "We need f(x)!=0 for this."),
        ("We need (n-1)!=0 for this.", "We need (n-1)=0 for this."),
        (r"The value is $P(\overline{A})$ here.", "The value is $P(A)$ here."),
        (
            "The root x is not prime, but the root y is prime.",
            "The root x is prime, but the root y is not prime.",
        ),
        ("The total is no less than 5 apples.", "The total is less than 5 apples."),
        ("The point is (2, -5) on the line.", "The point is (-2, 5) on the line."),
        (f"{CASE.format(3)} {CASE.format(5)} It is 3 or 5.", f"{CASE.format(3)} It is 3 or 5."),
        (r"So $x \in A$ holds for it.", r"So $x \notin A$ holds for it."),
        (r"Take $\lfloor x \rfloor = 3$ now.", r"Take $\lceil x \rceil = 3$ now."),
        (r"We have $2^{3}5$ as a factor.", "We have $2^{35}$ as a factor."),
        (r"The height is $h \sin x$ there.", r"The height is $h \cos x$ there."),
    ],
)
def test_a_spelling_hides_no_change(old: str, new: str) -> None:
    assert check_faithful(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Then 4s = 20, so s = 5.", "Then 4s = 20 gives s = 5, and 4s - 20 = 0."),
        (r"Here $d \cdot t = 12$ holds.", "Here d*t = 12 holds."),
        ("The total is 1,234 in all.", r"The total is \boxed{1,234} in all."),
        ("Take (100,200,300) as the point.", "Take (100, 200, 300) as the point."),
        ("So x1x2 = 6 holds here.", "So x_1 x_2 = 6 holds here."),
        (r"It is $2^{3}5^{2} = 200$.", r"It is $2^3 \cdot 5^2 = 200$."),
        (r"It is $\log_{2}8 = 3$ then.", r"It is $\log_2 8 = 3$ then."),
        (r"Then $x = \pm 3$ follows.", "Then x = ±3 follows."),
    ],
)
def test_a_spelling_alone_is_no_change(old: str, new: str) -> None:
    assert check_faithful(old, new) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1" + " = 1" * 2000,
        "The value 3 of x is" + " " * 20000 + "4.",
        "x^" + " " * 20000,
        "x = " + "(" * 5000 + "1" + ")" * 5000,
        "neither " * 3000,
        "\\begin{pmatrix}" * 3000,
        "\\[ " * 9000,
        "so (((9^63)^63)^63)^63 = 1",
    ],
)
def test_no_text_takes_long(text: str) -> None:
    begun = time.process_time()
    check_faithful(text, f"{text} Then x = 3.")
    assert time.process_time() - begun < 3


def test_floors_on_changed_paths_of_real_outputs(shared_dir: Path) -> None:
    texts = outputs(shared_dir / "traces" / "wellformed.jsonl")
    for kind, (fault, doubt, whole) in changes(texts, most=60).items():
        assert fault + doubt >= 0.9 * whole, (kind, fault, doubt, whole)
    for kind, (_, doubt, whole) in changed_ends(texts).items():
        if kind.endswith("as it is"):
            assert doubt <= 0.2 * whole, (kind, doubt, whole)
        else:
            assert doubt >= 0.69 * whole, (kind, doubt, whole)


def test_floors_on_the_labelled_blocks() -> None:
    counts, _ = blocks()
    dependent = [pair for kind, pair in counts.items() if kind.startswith("dependent")]
    independent = [pair for kind, pair in counts.items() if kind.startswith("independent")]
    assert sum(one[2] for one in dependent) == sum(one[2] for one in independent) == 110
    assert sum(found for found, *_ in dependent) >= 30
    assert sum(found for found, *_ in independent) <= 17


def test_every_conclusion_is_doubted_where_asked_those_of_inner_blocks_too() -> None:
    located = locate(synthetic(0))
    conclusions = {one.conclusion.inner for one in located.walk() if one.conclusion}
    assert len(conclusions) > len(located.blocks) > 0
    doubted = {
        finding.span
        for block in located.blocks
        for finding in check_ends(located, block, "", every=True)
        if finding.message.startswith("the conclusion: ")
    }
    assert doubted == conclusions
