import torch
from PIL import Image

from ldm.evaluation.metrics.prompts import Prompts


class Grey:
    def images(self, captions, seed):
        count = captions if isinstance(captions, int) else len(captions)
        return torch.full((count, 3, 4, 4), 100 + seed, dtype=torch.uint8)


def test_the_grid_names_its_prompts(folder):
    score = Prompts(captions=["a", "b"], seed=3)(Grey(), None, folder)
    with Image.open(folder / score.pictures[0].file) as image:
        assert image.info["prompts"] == "a\nb"
        assert image.getpixel((2, 2)) == (103, 103, 103)
    assert score.values is None


def test_an_unconditional_model_draws_a_number_of_images(folder):
    score = Prompts(captions=6, columns=3)(Grey(), None, folder)
    with Image.open(folder / score.pictures[0].file) as image:
        assert "prompts" not in image.info
        assert image.width > image.height
