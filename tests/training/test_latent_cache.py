import torch

from ldm.training.latent_cache import LatentCache


def batch(keys):
    keys = torch.tensor(keys)
    image = (keys[:, None, None, None] + 1.0).expand(-1, 3, 8, 8)
    return {"image": image, "caption": [str(k) for k in keys.tolist()], "key": keys}


def test_cached_latents_equal_encoded_ones_and_are_encoded_once_and_alone():
    """Alone, so that a latent's last bits do not tell in which batch a run saw it first."""
    cache, seen = LatentCache(), []

    def encode(image):
        seen.append(len(image))
        return 2 * image

    first, second = batch([0, 1, 1]), batch([1, 2, 0])
    assert torch.equal(cache(encode, first), 2 * first["image"])
    assert torch.equal(cache(encode, second), 2 * second["image"])
    assert seen == [1, 1, 1]
