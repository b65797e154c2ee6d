"""Words with vectors of their own."""

import pytest
import torch

from ldm.models.learned_words import LearnedWords

TABLE = torch.nn.Embedding(10, 3).requires_grad_(False)
CAT, DOG = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([[7.0, 8.0, 9.0]])


@pytest.fixture
def learned():
    words = LearnedWords(10, 3, longest=4)
    words.add("<cat>", CAT)
    words.add("<dog>", DOG)
    return words


def test_vectors_follow_the_rows_of_the_table(learned):
    assert learned.ids == {"<cat>": (10, 11), "<dog>": (12,)}
    ids = torch.tensor([[1, 10, 11], [12, 2, 9]])
    h = learned.embed(TABLE, ids)
    expected = torch.stack([TABLE.weight[1], *CAT, DOG[0], TABLE.weight[2], TABLE.weight[9]])
    assert torch.equal(h, expected.view(2, 3, 3))
    assert torch.equal(learned.embed(TABLE, ids.clamp(max=9)), TABLE(ids.clamp(max=9)))


def test_words_are_forgotten(learned):
    learned.remove(["<cat>"])
    assert learned.ids == {"<dog>": (10,)}
    learned.remove()
    assert not learned.vectors
    with pytest.raises(ValueError, match="must be one of the learned words"):
        learned.remove(["<cat>"])


@pytest.mark.parametrize(
    ("word", "vectors", "says"),
    [
        ("<CAT>", DOG, "is there already"),
        ("", DOG, "no white space at its ends"),
        ("a ", DOG, "no white space at its ends"),
        ("a", torch.zeros(1, 4), r"must be 3 wide.*\(1, 4\)"),
        ("a", torch.zeros(5, 3), "1 to 4 vectors, got 5"),
        ("a", torch.zeros(0, 3), "1 to 4 vectors, got 0"),
        ("a", DOG * torch.nan, "NaN"),
    ],
)
def test_what_is_no_word_is_refused(word, vectors, says, learned):
    with pytest.raises(ValueError, match=says):
        learned.add(word, vectors)
    assert list(learned.vectors) == ["<cat>", "<dog>"]
