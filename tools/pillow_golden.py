"""Print the table of src/data/resample.rs: what Pillow's resize gives for made images.

The image of w x h pixels holds the low bytes of MT19937's outputs, seeded with 1.
Needs numpy and Pillow (the table was made with Pillow 13.0).
"""

import hashlib

import numpy as np
from PIL import Image

SHAPES = [(1, 1, 5), (2, 3, 7), (500, 667, 128), (333, 500, 64), (128, 500, 128), (500, 128, 128),
          (64, 64, 64), (7, 1000, 33), (1000, 7, 33), (129, 127, 128), (17, 19, 1), (64, 64, 128)]

for w, h, size in SHAPES:
    rng = np.random.MT19937()
    rng._legacy_seeding(1)
    values = (rng.random_raw(w * h * 3) & 0xFF).astype(np.uint8).reshape(h, w, 3)
    out = Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR)
    planes = np.ascontiguousarray(np.asarray(out).transpose(2, 0, 1))
    digest = hashlib.sha256(planes.tobytes()).hexdigest()
    print(f'({w}, {h}, {size}, "{digest[:32]}"),')
