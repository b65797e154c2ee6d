import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from ldm.evaluation.metrics.reconstruction import Reconstruction, psnr


@pytest.mark.parity
def test_psnr_equals_torchmetrics():
    a, b = torch.rand(2, 3, 3, 8, 8) * 2 - 1
    theirs = [peak_signal_noise_ratio(x, y, data_range=2.0) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(psnr(a, b), torch.stack(theirs))


def test_psnr_of_a_constant_error():
    x = torch.zeros(1, 3, 4, 4)
    torch.testing.assert_close(psnr(x + 0.2, x), torch.tensor([20.0]))


class Copy:
    def reconstruct(self, images):
        return images + 0.2

    def validation_images(self):
        return torch.zeros(20, 3, 4, 4)


def test_the_score_is_the_mean_psnr_with_a_picture(tmp_path):
    score = Reconstruction(shown=4)(Copy(), Copy(), tmp_path)
    assert score.values == {"psnr": 20.0, "images": 20}
    assert score.headlines[0].text == "20.0 dB"
    assert (tmp_path / score.pictures[0].file).is_file()
