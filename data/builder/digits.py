"""The 1,797 real handwritten digits that scikit-learn ships (UCI, 8×8 pixels, 17 grey levels).

The labels of two thirds are hidden to make the pool. The others are a small labelled set, like the
sets for which people ask how many labels they need.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

from semigrid.data.builder.write import StoredImage
from semigrid.data.splits import seeded_order, split_labeled

VERSION = 1
SEED = 0
LABELED = 597
# the paper's 75/15/10 would give 60 test images, too few to tell two models apart
VAL_SHARE, TEST_SHARE = 0.25, 0.34

DESCRIPTION: dict[str, Any] = {
    "name": "digits",
    "classes": [str(digit) for digit in range(10)],
    "license": "CC BY 4.0",
    "source": "Optical Recognition of Handwritten Digits, UCI, as shipped by scikit-learn",
    "order_seed": SEED,
    "pool_unit": 300,  # the pool of 1,200 is 400 %
    "rows_per_group": 64,
}


def rows() -> list[StoredImage]:
    """All digits: 597 labelled ones in three splits, and 1,200 in the pool."""
    from sklearn.datasets import load_digits  # here, since it takes 2 s to import

    digits = load_digits()
    ids = [f"digit-{i:04d}" for i in range(len(digits.target))]
    labeled = seeded_order(ids, SEED)[:LABELED]
    splits = split_labeled(
        [int(digits.target[i]) for i in labeled],
        [ids[i] for i in labeled],
        num_classes=10,
        seed=SEED,
        val_share=VAL_SHARE,
        test_share=TEST_SHARE,
    )
    split_of = dict(zip(labeled, splits, strict=True))
    return [
        StoredImage(
            image_id=ids[i],
            image=_png(digits.images[i]),
            label=int(digits.target[i]) if i in split_of else None,
            split=split_of.get(i, "pool"),
            group=ids[i],
        )
        for i in range(len(ids))
    ]


def _png(pixels: np.ndarray) -> bytes:
    """An 8-bit grey PNG, stored uncompressed: its bytes do not depend on the machine's zlib."""
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(buffer, "png", compress_level=0)
    return buffer.getvalue()
