"""Weights in prompts, against the web UI's rules written another way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.models.prompt_weights import Weighted, emphasised, has_weights, plain, weighted


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("((cat)) b", [("cat", 1.1 * 1.1), (" b", 1.0)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("(cat:1.4), b", [("cat", 1.4), (", b", 1.0)]),
        ("(cat:.5)(dog: -1)", [("cat", 0.5), ("dog", -1.0)]),
        ("(a (b:1.5) c:2)", [("a ", 2.0), ("b", 3.0), (" c", 2.0)]),
        ("([a] b)", [("a", 1.1 / 1.1), (" b", 1.1)]),
        (r"a \(b\) \[c\] \\", [(r"a (b) [c] " + "\\", 1.0)]),
        ("a (b", [("a ", 1.0), ("b", 1.1)]),
        ("a [b", [("a ", 1.0), ("b", 1 / 1.1)]),
        ("a) b]", [("a) b]", 1.0)]),
        (":) 16:9, a:1.2)", [(":) 16:9, a:1.2)", 1.0)]),
        ("[a:0.5]", [("a:0.5", 1 / 1.1)]),
        (r"a\b", [("ab", 1.0)]),
        ("a BREAK b", [("a", 1.0), (None, 1.0), ("b", 1.0)]),
        ("a\nBREAK\nBREAK", [("a", 1.0), (None, 1.0), ("", 1.0), (None, 1.0), ("", 1.0)]),
        ("BREAKFAST", [("BREAKFAST", 1.0)]),
        ("(a BREAK b:2)", [("a", 2.0), (None, 2.0), ("b", 2.0)]),
    ],
)
def test_brackets_are_weights(prompt, parts):
    found = weighted(prompt)
    assert [part.text for part in found] == [text for text, _ in parts]
    assert [part.weight for part in found] == pytest.approx([weight for _, weight in parts])


def letters(prompt: str) -> list[tuple[str, float]]:
    """The weight of each letter: the product of the factors of the brackets that it stands in.

    A bracket closes the last one of its kind that is open; one that never closes reaches to the end.
    """
    found: list[tuple[str, list[str]]] = []
    is_open: list[tuple[str, int]] = []  # bracket, letters before it
    for c in prompt:
        partners = [i for i, (bracket, _) in enumerate(is_open) if bracket + c in ("()", "[]")]
        if c in "([":
            is_open.append((c, len(found)))
        elif partners:
            bracket, first = is_open.pop(partners[-1])
            found = found[:first] + [(letter, [*around, bracket]) for letter, around in found[first:]]
        else:
            found.append((c, []))
    for bracket, first in is_open:
        found = found[:first] + [(letter, [*around, bracket]) for letter, around in found[first:]]
    return [(letter, 1.1 ** (around.count("(") - around.count("["))) for letter, around in found]


@given(st.text(alphabet="ab ()[]", max_size=12))
def test_each_letter_has_the_weights_of_all_brackets_around_it(prompt):
    found = [(c, part.weight) for part in weighted(prompt) for c in part.text]
    expected = letters(prompt)
    assert [c for c, _ in found] == [c for c, _ in expected]
    assert [w for _, w in found] == pytest.approx([w for _, w in expected])


@given(st.lists(st.tuples(st.sampled_from(["a", "b c", "("]), st.integers(1, 30)), max_size=4))
def test_what_is_written_with_numbers_is_read_back(parts):
    """Escaped text in brackets, one after another, within brackets of 0.5."""
    escaped = "".join(f"({text.replace('(', chr(92) + '(')}:{tenths / 10})" for text, tenths in parts)
    found = [(c, part.weight) for part in weighted(f"({escaped}:0.5)") for c in part.text]
    expected = [(c, tenths / 20) for text, tenths in parts for c in text]
    assert [c for c, _ in found] == [c for c, _ in expected]
    assert [w for _, w in found] == pytest.approx([w for _, w in expected])


@pytest.mark.parametrize("number", ["1.2.3", ".", "9" * 400])
def test_a_weight_that_is_no_number_is_refused(number):
    with pytest.raises(ValueError, match="must be a number"):
        weighted(f"(cat:{number})")


def test_the_text_without_marks():
    assert plain(r"a (cat:1.2) [b] \(c\)") == "a cat b (c)"
    assert [has_weights(p) for p in ("a cat :)", "(cat)", r"\(cat\)", "a BREAK b")] == [
        False,
        True,
        True,
        True,
    ]
    assert Weighted("a").weight == 1.0


def test_the_mean_is_restored_and_relative_weights_are_those_asked_for():
    """mean(w z) -> mean(z): the states keep their ratios, all equal weights change nothing."""
    h = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) + 1
    w = torch.tensor([1.0, 1.4, 1.0, 0.5, 1.0, 1.0])
    out = emphasised(h, w)
    torch.testing.assert_close(out.mean(), h.mean())
    ratio = out / h
    torch.testing.assert_close(ratio / ratio[0, 0], w[:, None].expand(6, 4))
    assert emphasised(h, torch.ones(6)) is h
    torch.testing.assert_close(emphasised(h, torch.full((6,), 3.0)), h)
    with pytest.raises(ValueError, match="mean to restore"):
        emphasised(h, torch.zeros(6))


def test_states_keep_their_precision():
    h = torch.ones(2, 3, dtype=torch.bfloat16)
    assert emphasised(h, torch.tensor([1.0, 2.0])).dtype == torch.bfloat16
