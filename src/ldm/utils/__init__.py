"""Files, images, devices, errors and the builder; imports nothing of ldm, and torch only when it is used."""

from typing import TYPE_CHECKING

from ldm.utils.lazy import lazy

if TYPE_CHECKING:
    from ldm.utils.ema import EMA as EMA
    from ldm.utils.image_io import load_image as load_image
    from ldm.utils.image_io import make_grid as make_grid
    from ldm.utils.image_io import save_image as save_image
    from ldm.utils.seeding import set_seed as set_seed

__all__ = ["EMA", "load_image", "make_grid", "save_image", "set_seed"]

__getattr__, __dir__ = lazy(
    "ldm.utils",
    {
        "EMA": "ldm.utils.ema",
        "load_image": "ldm.utils.image_io",
        "make_grid": "ldm.utils.image_io",
        "save_image": "ldm.utils.image_io",
        "set_seed": "ldm.utils.seeding",
    },
)
