"""Bounds on the metadata of samples."""

import numpy as np

from ldm.data.shards.filters import Filters
from ldm.data.shards.index import SAMPLE


def test_each_filter_is_its_bound_and_unknown_is_as_it_says():
    table = np.zeros(4, dtype=SAMPLE)
    table["width"], table["height"] = [100, 300, 50, np.nan], [100, 100, 200, np.nan]
    table["watermark"], table["unsafe"] = [0.1, 0.9, 0.5, np.nan], [0.9, 0.1, 0.1, np.nan]
    table["similarity"], table["language"] = [0.2, 0.3, 0.4, np.nan], [b"en", b"de", b"en", b""]
    table["nsfw"] = [b"UNLIKELY", b"NSFW", b"UNLIKELY", b""]
    for options, kept in (
        ({"min_size": 100}, [1, 1, 0, 1]),
        ({"max_aspect": 2.0}, [1, 0, 0, 1]),
        ({"max_watermark": 0.5}, [1, 0, 1, 1]),
        ({"max_unsafe": 0.5}, [0, 1, 1, 1]),
        ({"min_similarity": 0.3}, [0, 1, 1, 1]),
        ({"language": ["en"]}, [1, 0, 1, 1]),
        ({"nsfw": ["UNLIKELY"]}, [1, 0, 1, 1]),
        ({"language": ["en"], "keep_unknown": False}, [1, 0, 1, 0]),
        ({"min_size": 1, "keep_unknown": False}, [1, 1, 1, 0]),
    ):
        assert Filters(**options)(table).tolist() == [bool(k) for k in kept], options


def test_no_bounds_keep_every_sample():
    assert Filters(keep_unknown=False)(np.zeros(3, dtype=SAMPLE)).all()


def test_a_sample_must_pass_all_bounds():
    table = np.zeros(4, dtype=SAMPLE)
    table["width"], table["height"] = [100, 100, 10, 10], 100
    table["language"] = [b"en", b"de", b"en", b"de"]
    assert Filters(min_size=50, language=["en"])(table).tolist() == [True, False, False, False]
