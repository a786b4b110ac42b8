"""Draws tests/pictures: small JPEG and PNG files of every kind that people have, and beside each
the values that Pillow's convert("RGB") gives (NAME.rgb, height x width x 3 bytes).

    python tools/pillow_pictures.py

Needs Pillow (the files were drawn by 13.0.0) and numpy.
"""

import pathlib

import numpy as np
from PIL import Image

OUT = pathlib.Path(__file__).parent.parent / "tests" / "pictures"


def drawing():
    y, x = np.mgrid[0:13, 0:17]
    return np.stack([x * 15, y * 19, (x * y * 7) % 256], -1).astype(np.uint8)


def main():
    OUT.mkdir(exist_ok=True)
    rgb = Image.fromarray(drawing())
    alpha = rgb.copy()
    alpha.putalpha(rgb.convert("L"))
    grey_alpha = rgb.convert("L")
    grey_alpha.putalpha(rgb.getchannel(0))
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation, which convert("RGB") does not obey.
    files = {
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "grey.jpg": (rgb.convert("L"), {}),
        "turned.jpg": (rgb, {"exif": turned}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "rgb.png": (rgb, {}),
        "alpha.png": (alpha, {}),
        "grey.png": (rgb.convert("L"), {}),
        "grey-alpha.png": (grey_alpha, {}),
        "palette.png": (rgb.quantize(40), {}),
        "palette-transparent.png": (rgb.quantize(12), {"transparency": 3}),
        "two-bits.png": (rgb.quantize(4), {"bits": 2}),
        "one-bit.png": (rgb.convert("1"), {}),
    }
    for name, (image, options) in files.items():
        image.save(OUT / name, **options)
        (OUT / f"{name}.rgb").write_bytes(Image.open(OUT / name).convert("RGB").tobytes())


if __name__ == "__main__":
    main()
