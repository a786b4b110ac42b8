"""Draws pictures of every kind that people have, and holds flowreg to Pillow's pixels of them.

    python tools/pillow_pictures.py                   writes tests/pictures (drawn by Pillow 13.0.0)
    python tools/pillow_pictures.py --random 1000     tries so many random pictures, by flowreg-prep
                                     [--seed S] [--bin DIR]

tests/pictures holds NAME, beside it NAME.rgb, the values of convert("RGB") (height x width x 3
bytes), and NAME.exif.rgb, those after ImageOps.exif_transpose, where they differ. tests/pictures/cut
holds pictures that are cut short, and what Pillow gives of them with LOAD_TRUNCATED_IMAGES. Random
pictures are prepared by `flowreg-prep folder` at a size above theirs and held to Pillow's resize, to
the byte, with and without --exif; cut copies of GIFs, BMPs and TIFFs with --lenient. Needs Pillow and
NumPy.
"""

import argparse
import io
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
from PIL import Image, ImageFile, ImageOps

ROOT = pathlib.Path(__file__).parent.parent
OUT = ROOT / "tests" / "pictures"
REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


# ------------------------------------------------------------ writers


def packed(values, bits):
    """Rows of values, `bits` each, the first one in the highest bits; each row in whole bytes."""
    values = np.asarray(values).reshape(len(values), -1)
    if bits == 16:
        return values.astype(">u2").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((values[..., None] >> shifts & 1).reshape(len(values), -1), axis=1).tobytes()


def png(values, colour, bits, chunks=(), interlaced=False, filters=0, after=()):
    """A PNG of `values`: height x width x channels, of this colour type and depth."""
    height, width = values.shape[:2]
    raw, bpp = b"", max(1, values.shape[2] * bits // 8)
    for x, y, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = values[y::dy, x::dx]
        if part.size:
            rows = np.frombuffer(packed(part, bits), np.uint8).reshape(len(part), -1)
            before = np.zeros(rows.shape[1], np.uint8)
            for i, row in enumerate(rows):
                kind = (filters + i) % 5 if filters else 0
                left = np.concatenate([np.zeros(bpp, np.uint8), row])[: len(row)]
                corner = np.concatenate([np.zeros(bpp, np.uint8), before])[: len(row)]
                a, b, c = (v.astype(int) for v in (left, before, corner))
                pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
                paeth = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
                guess = [0 * a, a, b, (a + b) // 2, paeth][kind]
                raw += bytes([kind]) + (row.astype(int) - guess).astype(np.uint8).tobytes()
                before = row

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
        + [chunk(*c) for c in chunks]
        + [chunk(b"IDAT", zlib.compress(raw, 9))]
        + [chunk(*c) for c in after]
        + [chunk(b"IEND", b"")]
    )


def lzw(indices, size, block=255):
    """GIF's LZW without a table: a clear code before it would grow; in blocks of `block` bytes."""
    clear, bits, at, codes = 1 << size, 0, 0, []
    for i, index in enumerate(indices):
        if i % (clear - 2) == 0:
            codes.append(clear)
        codes.append(int(index))
    codes.append(clear + 1)
    for code in codes:
        bits |= code << at
        at += size + 1
    data = bits.to_bytes((at + 7) // 8, "little")
    blocks = [data[i : i + block] for i in range(0, len(data), block)]
    return bytes([size]) + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0"


def gif(screen, palette, frames, block=255):
    """A GIF; a frame is (left, top, indices, own palette, transparent colour, interlaced)."""

    def table(palette):
        return (0x80 | len(palette).bit_length() - 2) if palette is not None else 0

    out = b"GIF89a" + struct.pack("<HHBBB", *screen, table(palette), 0, 0)
    out += b"" if palette is None else palette.tobytes()
    for left, top, indices, own, transparent, interlaced in frames:
        height, width = indices.shape
        if transparent is not None:
            out += b"!\xf9\x04" + struct.pack("<BHB", 1, 5, transparent) + b"\0"
        out += b"," + struct.pack("<HHHHB", left, top, width, height, table(own) | interlaced << 6)
        out += b"" if own is None else own.tobytes()
        order = [y for first, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for y in range(first, height, step)]
        rows = indices[order] if interlaced else indices
        colours = len(own if own is not None else palette)
        out += lzw(rows.ravel(), max(2, colours.bit_length() - 1), block)
    return out + b";"


def bmp(values, bits, palette=None, header=40, top_down=False, compression=0, masks=(), data=None, colours=None):
    """A BMP of `values`: height x width of indices or of packed pixels, or of `data` as it is."""
    height, width = values.shape
    if data is None:
        rows = values if top_down else values[::-1]
        if bits <= 8:
            lines = [packed(row[None], bits) for row in rows]
        else:
            lines = [b"".join(int(v).to_bytes(bits // 8, "little") for v in row) for row in rows]
        data = b"".join(line + bytes(-len(line) % 4) for line in lines)
    table = b""
    if palette is not None:
        bgr = palette[:, ::-1]
        table = bgr.tobytes() if header == 12 else np.pad(bgr, ((0, 0), (0, 1))).tobytes()
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        high = -height if top_down else height
        info = struct.pack("<IiiHHIIiiII", header, width, high, 1, bits, compression, len(data), 0, 0, len(palette) if colours is None and palette is not None else colours or 0, 0)
        info += struct.pack(f"<{len(masks)}I", *masks)
        info += bytes(max(0, header - len(info)))
    start = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + table + data


def runs(indices, nibbles, rng):
    """Run-length encoding of some kind: runs, single pixels, skips."""
    out, (height, width) = b"", indices.shape
    for y in range(height):
        x = 0
        while x < width:
            length = int(min(rng.integers(1, 9), width - x))
            row = indices[y, x : x + length]
            if rng.random() < 0.5 and length >= 3:
                body = packed(row[None], 4 if nibbles else 8)
                out += bytes([0, length]) + body + bytes(len(body) % 2)
            elif rng.random() < 0.2 and y + 1 < height:
                row[:] = 0
                out += bytes([0, 2, length, 0])
            else:
                row[1::2] = row[1 : 2 or None][0] if nibbles and length > 1 else row[0]
                row[::2] = row[0]
                out += bytes([length, int(row[0]) << 4 | int(row[1] if length > 1 else 0) if nibbles else int(row[0])])
            x += length
        out += b"\0\0"
    return out + b"\0\1"


def tiff(values, photometric, bits, extra=(), big=False, tile=None, rows=None, compression=1, predictor=1, planar=False, palette=None, orientation=None, more=(), kind=1, reverse=False, first=False):
    """A TIFF of `values`: height x width x samples; `kind` is the sample format, `reverse` the other
    order of bits, `first` puts the directory before the pixels."""
    e = ">" if big else "<"
    height, width, samples = values.shape
    planes = [values[..., i : i + 1] for i in range(samples)] if planar else [values]
    chunks = []
    for plane in planes:
        if tile:
            for y in range(0, height, tile):
                for x in range(0, width, tile):
                    part = plane[y : y + tile, x : x + tile]
                    chunks.append(np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0))))
        else:
            step = rows or height
            chunks += [plane[y : y + step] for y in range(0, height, step)]
    pieces = []
    for part in chunks:
        part = part.astype({8: "u1", 16: "u2", 32: "f4" if kind == 3 else "u4"}.get(bits, "u1"))
        if predictor == 2:
            part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], 1)
        data = part.astype(part.dtype.newbyteorder(e)).tobytes() if bits >= 16 else packed(part, bits)
        if compression == 8:
            data = zlib.compress(data)
        if compression == 32773:
            data = b"".join(bytes([len(data[i : i + 128]) - 1]) + data[i : i + 128] for i in range(0, len(data), 128))
        pieces.append(data.translate(REVERSED) if reverse else data)
    counts = [len(data) for data in pieces]
    offsets = [8 + sum(n + n % 2 for n in counts[:i]) for i in range(len(counts))]
    body = b"".join(data + bytes(len(data) % 2) for data in pieces)
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples), 259: (3, [compression]), 262: (3, [photometric]), 277: (3, [samples]), 284: (3, [2 if planar else 1]), 317: (3, [predictor])}
    tags |= {322: (3, [tile]), 323: (3, [tile]), 324: (4, offsets), 325: (4, counts)} if tile else {273: (4, offsets), 278: (4, [rows or height]), 279: (4, counts)}
    if extra:
        tags[338] = (3, list(extra))
    if palette is not None:
        tags[320] = (3, [int(v) * 257 for v in palette.T.ravel()])
    if orientation:
        tags[274] = (3, [orientation])
    if kind != 1:
        tags[339] = (3, [kind] * samples)
    if reverse:
        tags[266] = (3, [2])
    tags |= dict(more)
    start = 8 if first else 8 + len(body)
    if first:
        length = 2 + 12 * len(tags) + 4
        for type_, numbers in tags.values():
            size = len(numbers) * {1: 1, 3: 2, 4: 4}[type_]
            length += size + size % 2 if size > 4 else 0
        where = 324 if tile else 273
        tags[where] = (4, [offset + length for offset in offsets])
    entries, beyond, at = b"", b"", start + 2 + 12 * len(tags) + 4
    for tag, (type_, numbers) in sorted(tags.items()):
        data = struct.pack(f"{e}{len(numbers)}{'BHI'[(type_ > 1) + (type_ > 3)]}", *numbers)
        entries += struct.pack(e + "HHI", tag, type_, len(numbers))
        if len(data) <= 4:
            entries += data.ljust(4, b"\0")
        else:
            entries += struct.pack(e + "I", at + len(beyond))
            beyond += data + bytes(len(data) % 2)
    head = (b"MM" if big else b"II") + struct.pack(e + "HI", 42, start)
    directory = struct.pack(e + "H", len(tags)) + entries + bytes(4) + beyond
    return head + (directory + body if first else body + directory)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_of(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def xmp_of(number):
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % number


# ------------------------------------------------------------ random pictures


def noise(rng, height, width, channels, most):
    """Steps, lines and noise of values below `most`."""
    y, x = np.mgrid[0:height, 0:width]
    kind = rng.integers(0, 3)
    planes = []
    for _ in range(channels):
        if kind == 0:
            planes.append(rng.integers(0, most, (height, width)))
        elif kind == 1:
            planes.append((x * int(rng.integers(1, 40)) + y * int(rng.integers(1, 40))) % most)
        else:
            planes.append((x // 5 + y // 4 * int(rng.integers(1, 9))) * most // 11 % most)
    return np.stack(planes, -1)


def random_png(rng, h, w):
    colour = int(rng.choice([0, 2, 3, 4, 6]))
    bits = int(rng.choice({0: [1, 2, 4, 8, 16], 3: [1, 2, 4, 8]}.get(colour, [8, 16])))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    values = noise(rng, h, w, channels, 1 << bits)
    if bits == 16 and rng.random() < 0.5:
        values = values % 400
    chunks, after = [], []
    if rng.random() < 0.3:
        chunks.append((b"gAMA", struct.pack(">I", 45455)))
    if colour == 3:
        n = 1 << bits if rng.random() < 0.6 else int(rng.integers(1, (1 << bits) + 1))
        chunks.append((b"PLTE", rng.integers(0, 256, 3 * n).astype(np.uint8).tobytes()))
        if rng.random() < 0.5:
            chunks.append((b"tRNS", rng.integers(0, 256, int(rng.integers(1, n + 1))).astype(np.uint8).tobytes()))
    elif colour in (0, 2) and rng.random() < 0.4:
        chunks.append((b"tRNS", struct.pack(f">{channels}H", *map(int, values[0, 0]))))
    if rng.random() < 0.4:
        exif = exif_of(int(rng.integers(1, 9))).tobytes()[6:]
        (chunks if rng.random() < 0.5 else after).append((b"eXIf", exif))
    elif rng.random() < 0.2:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_of(int(rng.integers(1, 9)))))
    elif rng.random() < 0.2:
        data = exif_of(int(rng.integers(1, 9))).tobytes()
        text = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
        chunks.append((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)))
    interlaced = rng.random() < 0.4
    return f"png-{colour}-{bits}-{'i' if interlaced else 'n'}", png(values, colour, bits, chunks, interlaced, int(rng.integers(0, 6)), after)


def random_jpeg(rng, h, w):
    image = Image.fromarray(noise(rng, h, w, 3, 256).astype(np.uint8))
    mode = str(rng.choice(["RGB", "L", "CMYK", "RGB"]))
    options = {"quality": int(rng.integers(1, 101)), "progressive": bool(rng.random() < 0.5), "subsampling": int(rng.integers(0, 3)), "optimize": bool(rng.random() < 0.5)}
    if rng.random() < 0.3:
        options["restart_marker_blocks"] = int(rng.integers(1, 4))
    if rng.random() < 0.4:
        options["exif"] = exif_of(int(rng.integers(1, 9)))
    elif rng.random() < 0.3:
        options["xmp"] = xmp_of(int(rng.integers(1, 9)))
    data = saved(image.convert(mode), "JPEG", **options)
    if rng.random() < 0.3:
        data += rng.integers(0, 256, 5000).astype(np.uint8).tobytes() + b"\xff\xda" * 300
    return f"jpeg-{mode}", data


def random_gif(rng, h, w):
    bits = int(rng.integers(1, 9))
    n = 1 << bits
    palette = rng.integers(0, 256, (n, 3)).astype(np.uint8)
    if rng.random() < 0.2:
        palette = np.repeat(np.arange(n, dtype=np.uint8)[:, None], 3, 1)
    own = rng.integers(0, 256, (n, 3)).astype(np.uint8) if rng.random() < 0.4 else None
    left, top = (0, 0) if rng.random() < 0.4 else (int(rng.integers(0, 9)), int(rng.integers(0, 9)))
    frames = []
    for _ in range(int(rng.integers(1, 4))):
        fh, fw = (h, w) if left == 0 == top else (int(rng.integers(1, h + 1)), int(rng.integers(1, w + 1)))
        transparent = int(rng.integers(0, n)) if rng.random() < 0.5 else None
        indices = noise(rng, fh, fw, 1, n)[..., 0]
        frames.append((left, top, indices, own, transparent, bool(rng.random() < 0.4)))
    return f"gif-{bits}", gif((w, h), palette, frames)


def random_bmp(rng, h, w):
    bits = int(rng.choice([1, 4, 8, 16, 24, 32]))
    header = int(rng.choice([12, 40, 52, 56, 64, 108, 124]))
    top_down = header != 12 and bool(rng.random() < 0.4)
    if bits <= 8:
        n = 1 << bits
        values = noise(rng, h, w, 1, n)[..., 0]
        palette = rng.integers(0, 256, (n, 3)).astype(np.uint8)
        palette[0] = 200  # else a grey ramp, which Pillow reads as 8 bits a pixel
        if bits in (4, 8) and header != 12 and rng.random() < 0.5:
            values = values.copy()
            data = runs(values, bits == 4, rng)
            return f"bmp-rle{bits}", bmp(values, bits, palette, max(header, 40), False, 1 if bits == 8 else 2, data=data)
        return f"bmp-{bits}-{header}", bmp(values, bits, palette, header, top_down)
    values = rng.integers(0, 1 << bits, (h, w))
    masks = {16: [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)], 24: [], 32: [(0xFF0000, 0xFF00, 0xFF), (0xFF000000, 0xFF0000, 0xFF00)]}[bits]
    if masks and header in (40, 108, 124) and rng.random() < 0.5:
        chosen = masks[int(rng.integers(0, 2))]
        chosen = chosen if header == 40 else chosen + (0,)
        return f"bmp-{bits}-masks", bmp(values, bits, None, header, top_down, 3, chosen)
    return f"bmp-{bits}-{header}", bmp(values, bits, None, header, top_down)


def random_webp(rng, h, w):
    channels = int(rng.choice([3, 4]))
    image = Image.fromarray(noise(rng, h, w, channels, 256).astype(np.uint8))
    options = {"lossless": bool(rng.random() < 0.4), "quality": int(rng.integers(0, 101)), "method": int(rng.integers(0, 5)), "exact": bool(rng.random() < 0.5)}
    if rng.random() < 0.3:
        options["exif"] = exif_of(int(rng.integers(1, 9))).tobytes()
    elif rng.random() < 0.2:
        options["xmp"] = xmp_of(int(rng.integers(1, 9)))
    name = f"webp-{'lossless' if options['lossless'] else 'lossy'}-{channels}"
    if rng.random() < 0.25:
        others = [Image.fromarray(noise(rng, h, w, channels, 256).astype(np.uint8)) for _ in range(2)]
        return name + "-animated", saved(image, "WEBP", save_all=True, append_images=others, **options)
    return name, saved(image, "WEBP", **options)


def random_tiff(rng, h, w):
    kind, photometric, bits, samples, extra = [
        ("grey", 1, int(rng.choice([1, 2, 4, 8, 16])), 1, ()),
        ("signed", 1, int(rng.choice([8, 16, 32])), 1, ()),
        ("float", int(rng.choice([0, 1])), 32, 1, ()),
        ("inverted", 0, int(rng.choice([1, 2, 4, 8])), 1, ()),
        ("palette", 3, int(rng.choice([1, 2, 4, 8])), 1, ()),
        ("rgb", 2, int(rng.choice([8, 16])), 3, ()),
        ("rgbx", 2, int(rng.choice([8, 16])), 4, (0,)),
        ("rgb-multiplied", 2, int(rng.choice([8, 16])), 4, (1,)),
        ("rgba", 2, int(rng.choice([8, 16])), 4, (2,)),
        ("cmyk", 5, 8, 4, ()),
        ("grey-alpha", 1, 8, 2, (2,)),
    ][int(rng.integers(0, 11))]
    values = noise(rng, h, w, samples, 1 << bits)
    if kind in ("grey", "signed") and bits >= 16 and rng.random() < 0.7:
        values = values % 400 - (100 if kind == "signed" else 0)
    if kind == "float":
        values = values.astype(float) % 4000 / 10 - 50
        values.flat[int(rng.integers(0, values.size))] = rng.choice([np.nan, np.inf, -np.inf, 255.5])
    palette = rng.integers(0, 256, (1 << bits, 3)) if kind == "palette" else None
    compression = int(rng.choice([1, 8, 32773, 5]))
    predictor = 2 if bits >= 8 and compression in (5, 8) and kind not in ("rgbx", "float") and rng.random() < 0.5 else 1
    orientation = int(rng.integers(1, 9)) if rng.random() < 0.3 else None
    if compression == 5:
        # LZW by Pillow itself, of what it can save.
        mode = {("grey", 8): "L", ("grey", 1): "1", ("palette", 8): "P", ("rgb", 8): "RGB", ("rgba", 8): "RGBA", ("cmyk", 8): "CMYK", ("grey", 16): "I;16"}.get((kind, bits))
        if mode:
            array = values.astype("u2" if bits == 16 else "u1")
            image = Image.fromarray((array * 255 if mode == "1" else array).squeeze()) if mode not in ("CMYK", "P") else Image.frombytes(mode, (w, h), array.tobytes())
            image = image.convert("1") if mode == "1" else image
            if mode == "P":
                image.putpalette(palette.astype(np.uint8).tobytes())
            return f"tiff-lzw-{mode}", saved(image, "TIFF", compression="tiff_lzw", tiffinfo={317: predictor})
        compression = 8
    planar = samples > 1 and kind in ("rgb", "rgba") and bits == 8 and compression != 1 and rng.random() < 0.3
    layout = {"tile": 16} if rng.random() < 0.3 and not planar and kind != "rgbx" else {"rows": int(rng.integers(1, h + 1))}
    big = bool(rng.random() < 0.5)
    # Pillow swaps the bytes of these.
    big = big and (compression == 1 or bits == 8 or kind not in ("signed", "float"))
    # Pillow knows the other order of bits of these.
    reverse = not extra and bits <= 8 and kind in ("grey", "palette", "rgb") and bool(rng.random() < 0.3) and (kind, compression) != ("palette", 1)
    first = bool(rng.random() < 0.5)
    name = f"tiff-{kind}-{bits}-{compression}{'-planar' if planar else ''}{'-tiles' if 'tile' in layout else ''}{'-big' if big else ''}"
    return name, tiff(values, photometric, bits, extra, big, compression=compression, predictor=predictor, planar=planar, palette=palette, orientation=orientation, kind={"signed": 2, "float": 3}.get(kind, 1), reverse=reverse, first=first, **layout)


KINDS = [random_png, random_jpeg, random_gif, random_bmp, random_webp, random_tiff]


def compare(rng, count, bin, side=48):
    """Holds flowreg-prep to Pillow on random pictures; prints what differs, by kind."""
    tried, unread, refused, wrong, cut = {}, {}, [], [], 0
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root)
        for label in "ab":
            (folder / "in" / label).mkdir(parents=True)
            (folder / "cut" / label).mkdir(parents=True)
        for i in range(count):
            kind = KINDS[i % len(KINDS)]
            h, w = (int(v) for v in rng.integers(1, 41, 2))
            name, data = kind(rng, h, w)
            try:
                Image.open(io.BytesIO(data)).convert("RGB")
            except Exception as error:
                unread[name] = str(error)
                continue
            tried[kind.__name__[7:]] = tried.get(kind.__name__[7:], 0) + 1
            # Named wrongly on purpose: the kind is what the first bytes say.
            (folder / "in" / "ab"[i % 2] / f"{i}-{name}.jpg").write_bytes(data)
            if kind in (random_gif, random_bmp, random_tiff):
                short = data[: int(rng.integers(len(data) // 2, len(data)))]
                (folder / "cut" / "ab"[i % 6 % 2] / f"{i}-{name}.jpg").write_bytes(short)
        for option, where in ((None, "in"), ("--exif", "in"), ("--lenient", "cut")):
            out = folder / f"out{option}"
            command = [f"{bin}/flowreg-prep", "folder", "--root", folder / where, "--val-share", "0", "--test-share", "0", "--skip-bad", "--size", str(side), "--out", out]
            subprocess.run(list(map(str, command + [option] * bool(option))), check=True, stdout=subprocess.DEVNULL)
            x = np.load(out / "train.x.npy")
            names = json.load(open(out / "train.files.json"))
            if where == "cut":
                cut = len(names)
            else:
                refused += json.load(open(out / "dataset.json"))["skipped"]
            ImageFile.LOAD_TRUNCATED_IMAGES = where == "cut"
            for row, name in zip(x, names):
                # Not by its name: Pillow 13 maps turned grey TIFFs as if they were not turned.
                image = Image.open(io.BytesIO((folder / where / name).read_bytes()))
                image = ImageOps.exif_transpose(image) if option == "--exif" else image
                try:
                    image.load()
                except OSError:
                    # The pixels are all there, and the checksum is not.
                    if where == "in":
                        raise
                    continue
                want = np.asarray(image.convert("RGB").resize((side, side), Image.BILINEAR)).transpose(2, 0, 1).ravel()
                found = np.rint(row * np.float32(255)).astype(np.uint8)
                if (found != want).any():
                    off = abs(found.astype(int) - want)
                    wrong.append(f"{name} {option}: {np.mean(off > 0):.1%} of values differ, by up to {off.max()}")
                    if len(wrong) <= 20:
                        pathlib.Path(tempfile.gettempdir(), f"wrong-{pathlib.Path(name).name}").write_bytes((folder / where / name).read_bytes())
    print("pictures tried, each with and without --exif:", tried, "sum", sum(tried.values()))
    print("cut pictures that --lenient reads:", cut)
    for name, error in unread.items():
        print("  not read by Pillow:", name, error)
    for line in refused + wrong:
        print(" ", line)
    print(f"{len(refused)} refused, {len(wrong)} different")
    return not refused and not wrong


# ------------------------------------------------------------ tests/pictures


def drawing():
    y, x = np.mgrid[0:13, 0:17]
    return np.stack([x * 15, y * 19, (x * y * 7) % 256], -1).astype(np.uint8)


def golden():
    """Name and bytes of each picture of tests/pictures."""
    rng = np.random.default_rng(16)
    values = drawing()
    rgb = Image.fromarray(values)
    alpha = rgb.copy()
    alpha.putalpha(rgb.convert("L"))
    grey_alpha = rgb.convert("L")
    grey_alpha.putalpha(rgb.getchannel(0))
    turned = exif_of(6)
    wide = values.astype(int) * 257 + np.arange(17)[:, None]
    grey = values[..., 2:].astype(int)
    indices = grey // 16
    palette = np.stack([np.arange(16) * 16, np.arange(16)[::-1] * 15, np.arange(16) * 5 + 7], -1).astype(np.uint8)
    yield "cmyk.jpg", saved(rgb.convert("CMYK"), "JPEG")
    yield "grey.jpg", saved(rgb.convert("L"), "JPEG")
    yield "turned.jpg", saved(rgb, "JPEG", exif=turned)
    yield "progressive.jpg", saved(rgb, "JPEG", progressive=True)
    yield "video-behind.jpg", saved(rgb, "JPEG") + b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08" * 60
    yield "turned-by-xmp.jpg", saved(rgb, "JPEG", xmp=xmp_of(8))
    yield "rgb.png", saved(rgb, "PNG")
    yield "alpha.png", saved(alpha, "PNG")
    yield "grey.png", saved(rgb.convert("L"), "PNG")
    yield "grey-alpha.png", saved(grey_alpha, "PNG")
    yield "palette.png", saved(rgb.quantize(40), "PNG")
    yield "palette-transparent.png", saved(rgb.quantize(12), "PNG", transparency=3)
    yield "two-bits.png", saved(rgb.quantize(4), "PNG", bits=2)
    yield "one-bit.png", saved(rgb.convert("1"), "PNG")
    yield "grey-16.png", png(wide[..., 2:] % 500, 0, 16)
    yield "grey-16-transparent.png", png(wide[..., 2:] % 500, 0, 16, [(b"tRNS", b"\0\x80")])
    yield "grey-alpha-16.png", png(wide[..., :2], 4, 16)
    yield "rgb-16.png", png(wide, 2, 16)
    yield "rgb-16-interlaced.png", png(wide, 2, 16, interlaced=True, filters=1)
    yield "alpha-16.png", png(np.concatenate([wide, wide[..., :1]], -1), 6, 16)
    yield "grey-two-bits.png", png(grey // 64, 0, 2, interlaced=True)
    yield "grey-four-bits.png", png(grey // 16, 0, 4, [(b"tRNS", b"\0\x03")])
    yield "palette-short.png", png(indices, 3, 4, [(b"PLTE", palette[:11].tobytes())])
    yield "gamma.png", png(values.astype(int), 2, 8, [(b"gAMA", struct.pack(">I", 45455))], filters=2)
    yield "turned.png", png(values.astype(int), 2, 8, [(b"eXIf", turned.tobytes()[6:])])
    two = exif_of(6).tobytes()[6:].replace(b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00", b"\x12\x01\x03\x00\x02\x00\x00\x00\x06\x00\x03\x00")
    yield "turned-by-two.png", png(values.astype(int), 2, 8, [(b"eXIf", two)])
    yield "turned-behind.png", png(values.astype(int), 2, 8, after=[(b"eXIf", exif_of(5).tobytes()[6:])])
    frame = indices[..., 0]
    yield "palette.gif", gif((17, 13), palette, [(0, 0, frame, None, None, False)])
    yield "interlaced-transparent.gif", gif((17, 13), palette, [(0, 0, frame, None, 3, True)])
    yield "offset.gif", gif((17, 13), palette, [(4, 2, frame[:9, :9], palette[::-1].copy(), 5, False)])
    yield "offset-opaque.gif", gif((17, 13), palette, [(4, 2, frame[:9, :9], None, None, True)])
    yield "screen-too-small.gif", gif((11, 5), palette, [(0, 0, frame, None, None, False), (0, 0, frame // 2, None, None, False)])
    yield "grey-ramp.gif", gif((17, 13), np.repeat(np.arange(16, dtype=np.uint8)[:, None], 3, 1), [(0, 0, frame, None, None, False)])
    pixels = (values.astype(int) << [16, 8, 0]).sum(-1)
    yield "one-bit.bmp", bmp(frame // 8, 1, palette[[3, 12]])
    yield "four-bits.bmp", bmp(frame, 4, palette, top_down=True)
    yield "eight-bits-os2.bmp", bmp(frame, 8, np.tile(palette, (16, 1)), header=12)
    yield "few-colours.bmp", bmp(frame % 9, 8, palette[:9])
    yield "sixteen-bits.bmp", bmp(pixels & 0x7FFF, 16)
    yield "sixteen-bits-masks.bmp", bmp(pixels & 0xFFFF, 16, compression=3, masks=(0xF800, 0x7E0, 0x1F))
    yield "rgb.bmp", bmp(pixels, 24)
    yield "alpha-v5.bmp", bmp(pixels | 0x55000000, 32, header=124, compression=3, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    yield "thirty-two-bits.bmp", bmp(pixels, 32, top_down=True)
    yield "no-last-padding.bmp", bmp(pixels, 24)[:-1]
    eight, four = frame.copy(), frame.copy()
    yield "runs-8.bmp", bmp(eight, 8, palette, compression=1, data=runs(eight, False, rng))
    yield "runs-4.bmp", bmp(four, 4, palette, compression=2, data=runs(four, True, rng))
    yield "lossy.webp", saved(rgb, "WEBP", quality=60)
    yield "lossless.webp", saved(rgb, "WEBP", lossless=True)
    yield "lossy-alpha.webp", saved(alpha, "WEBP", quality=80)
    yield "lossless-alpha.webp", saved(alpha, "WEBP", lossless=True, exact=True)
    yield "animated.webp", saved(alpha, "WEBP", save_all=True, append_images=[alpha.rotate(180)], lossless=True)
    yield "turned.webp", saved(rgb, "WEBP", exif=exif_of(7).tobytes(), quality=50)
    yield "rgb.tif", tiff(values, 2, 8)
    yield "rgb-deflate-tiles.tif", tiff(values, 2, 8, tile=16, compression=8, predictor=2, big=True)
    yield "rgb-planes.tif", tiff(values, 2, 8, rows=5, compression=8, planar=True)
    yield "rgb-lzw.tif", saved(rgb, "TIFF", compression="tiff_lzw")
    yield "rgb-16.tif", tiff(wide, 2, 16, big=True)
    yield "grey-16.tif", tiff(wide[..., 2:] % 500, 1, 16)
    yield "grey-packbits.tif", tiff(grey, 1, 8, rows=3, compression=32773)
    yield "grey-alpha.tif", tiff(values[..., :2], 1, 8, (2,))
    yield "white-is-zero.tif", tiff(grey // 16, 0, 4)
    yield "one-bit.tif", tiff(grey // 128, 1, 1, rows=4)
    yield "palette.tif", tiff(indices, 3, 4, palette=palette.astype(int), compression=8)
    yield "palette-big.tif", tiff(grey, 3, 8, palette=np.tile(palette, (16, 1)).astype(int), big=True)
    yield "alpha.tif", tiff(np.asarray(alpha), 2, 8, (2,))
    yield "multiplied-alpha.tif", tiff(np.asarray(alpha), 2, 8, (1,))
    yield "cmyk.tif", tiff(np.asarray(rgb.convert("CMYK")), 5, 8)
    yield "turned.tif", tiff(values, 2, 8, orientation=8)
    yield "turned-by-two.tif", tiff(values, 2, 8, more=[(274, (3, [6, 3]))])
    yield "bits-reversed.tif", tiff(grey // 128, 0, 1, reverse=True)
    yield "bits-reversed-deflate.tif", tiff(values, 2, 8, compression=8, reverse=True)
    yield "signed.tif", tiff(grey, 1, 8, kind=2)
    yield "signed-16.tif", tiff(grey * 3 - 200, 1, 16, kind=2, big=True)
    yield "whole-32.tif", tiff(grey * 3 - 200, 1, 32, kind=2, compression=8)
    yield "float.tif", tiff(grey * 1.7 - 99.5, 0, 32, kind=3)


def golden_cut():
    """Name and bytes of each picture of tests/pictures/cut."""
    values = drawing()
    grey = values[..., 2:].astype(int)
    frame = grey[..., 0] // 16
    palette = np.stack([np.arange(16) * 16, np.arange(16)[::-1] * 15, np.arange(16) * 5 + 7], -1).astype(np.uint8)
    pixels = (values.astype(int) << [16, 8, 0]).sum(-1)
    plain = gif((17, 13), palette, [(0, 0, frame, None, None, False)], block=20)
    yield "plain.gif", plain[:-50]
    yield "plain-last-block.gif", plain[:-4]
    yield "interlaced-transparent.gif", gif((17, 13), palette, [(2, 1, frame[:11, :13], None, 3, True)], block=20)[:-60]
    yield "rgb.bmp", bmp(pixels, 24)[:-200]
    yield "four-bits.bmp", bmp(frame, 4, palette, top_down=True)[:-30]
    yield "no-pixels.bmp", bmp(frame, 4, palette)[:118]
    yield "rgb.tif", tiff(values, 2, 8, rows=5, first=True)[:-200]
    yield "white-is-zero.tif", tiff(grey, 0, 8, first=True)[:-100]
    yield "tiles.tif", tiff(np.concatenate([values, values], 1)[:, :17], 2, 8, tile=16, first=True)[:-500]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bin", default=ROOT / "target" / "release")
    args = parser.parse_args()
    if args.random:
        sys.exit(not compare(np.random.default_rng(args.seed), args.random, args.bin))
    OUT.mkdir(exist_ok=True)
    for name, data in golden():
        (OUT / name).write_bytes(data)
        image = Image.open(io.BytesIO(data))
        plain = image.convert("RGB").tobytes()
        (OUT / f"{name}.rgb").write_bytes(plain)
        obeyed = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB").tobytes()
        if obeyed != plain:
            (OUT / f"{name}.exif.rgb").write_bytes(obeyed)
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    (OUT / "cut").mkdir(exist_ok=True)
    for name, data in golden_cut():
        (OUT / "cut" / name).write_bytes(data)
        (OUT / "cut" / f"{name}.rgb").write_bytes(Image.open(io.BytesIO(data)).convert("RGB").tobytes())


if __name__ == "__main__":
    main()
