import pytest
import torch

from ldm.evaluation.ranks import ranks


def test_a_reference_retrieves_itself():
    references = torch.randint(0, 255, (300, 3, 4, 4), dtype=torch.uint8)
    found = ranks(references, references, torch.arange(300))
    assert torch.equal(found.nearest, torch.arange(300))
    assert found.top1 == found.top5 == 1.0


def test_rank_counts_the_nearer_references():
    references = torch.arange(10.0).view(10, 1, 1, 1)
    found = ranks(torch.tensor([0.1, 0.1, 0.1]).view(3, 1, 1, 1), references, torch.tensor([0, 3, 7]))
    assert found.nearest.tolist() == [0, 0, 0]
    assert found.rank.tolist() == [0, 3, 7]
    assert found.top1 == torch.tensor(1 / 3).item()
    assert found.top5 == torch.tensor(2 / 3).item()


def test_another_size_is_an_error_that_names_both():
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), got \(3, 4, 4\)"):
        ranks(torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 8, 8), torch.tensor([0, 1]))
