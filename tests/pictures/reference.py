"""Writes the pictures of the end-to-end test, and what Pillow and numpy make of them.

    python3 -m venv .venv && .venv/bin/pip install -r tests/pictures/requirements.txt
    .venv/bin/python tests/pictures/reference.py

Each line of `expected.json` is a configuration of the image classifier and a picture with the bytes
that the model's input is to have before scale, mean and standard deviation, in hexadecimal, in the
layout of the configuration; or part of the error that the picture is to be refused with.
"""

import io
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

FOLDER = Path(__file__).parent
BILINEAR = Image.Resampling.BILINEAR


def photograph(width, height, seed):
    """Soft colours at several scales, edges and grain, as a camera has them."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells, weight in (2, 80), (5, 50), (11, 25), (40, 10):
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += weight * np.asarray(smooth, float)
    total = 20 + 215 * (total - total.min()) / np.ptp(total)
    picture = Image.fromarray(total.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = random.integers(0, width), random.integers(0, height)
        colour = tuple(int(value) for value in random.integers(30, 226, 3))
        draw.ellipse((x, y, x + width // 5, y + height // 4), fill=colour)
    grained = np.asarray(picture, float) + random.normal(0, 1.5, (height, width, 3))
    return Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8))


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def pictures():
    """Names and bytes."""
    photo = photograph(161, 107, 1)
    odd = photograph(97, 131, 2)
    yield "420.jpg", encoded(photo, "JPEG", quality=90, subsampling="4:2:0")
    yield "422.jpg", encoded(odd, "JPEG", quality=90, subsampling="4:2:2")
    yield "444.jpg", encoded(photo, "JPEG", quality=90, subsampling="4:4:4")
    yield "progressive.jpg", encoded(odd, "JPEG", quality=85, progressive=True)
    yield "restarts.jpg", encoded(photo, "JPEG", quality=80, restart_marker_rows=1)
    yield "grey.jpg", encoded(photo.convert("L"), "JPEG", quality=90)
    yield "one.jpg", encoded(photograph(1, 1, 3), "JPEG", quality=90)
    yield "thin.jpg", encoded(photograph(3, 200, 4), "JPEG", quality=95, subsampling="4:4:4")
    yield "rgb.png", encoded(odd, "PNG", optimize=True)
    yield "grey.png", encoded(odd.convert("L"), "PNG", optimize=True)
    alpha = odd.resize((49, 33))
    alpha.putalpha(Image.fromarray(np.tile(np.arange(49, dtype=np.uint8) * 5, (33, 1))))
    yield "rgba.png", encoded(alpha, "PNG")
    yield "grey-alpha.png", encoded(alpha.convert("LA"), "PNG")
    yield "palette.png", encoded(odd.quantize(40), "PNG")
    yield "palette-transparent.png", encoded(odd.quantize(40), "PNG", transparency=3)
    yield "bits.png", encoded(odd.convert("1"), "PNG")
    deep = np.asarray(odd.convert("L"), np.uint16) * 256 + np.arange(97, dtype=np.uint16)
    yield "grey-16.png", encoded(Image.fromarray(deep), "PNG")
    colours = np.asarray(odd.resize((40, 30)), np.uint16) * 256 + 200
    yield "rgb-16.png", png_of_16_bits(colours)
    yield "lossy.webp", encoded(photo, "WEBP", quality=80)
    yield "lossless.webp", encoded(alpha.convert("RGB"), "WEBP", lossless=True)
    yield "alpha.webp", encoded(alpha, "WEBP", quality=90)
    small = photograph(46, 31, 5)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif-{orientation}.jpg", encoded(small, "JPEG", quality=92, exif=exif)
    yield "exif-6.png", encoded(small, "PNG", exif=exif_of(6))
    yield "exif-8.webp", encoded(small, "WEBP", quality=90, exif=exif_of(8))
    cmyk = small.convert("CMYK")
    yield "cmyk.jpg", encoded(cmyk, "JPEG")
    whole = encoded(photo, "JPEG", quality=90)
    yield "truncated.jpg", whole[: len(whole) * 2 // 3]
    whole = encoded(odd, "PNG")
    yield "truncated.png", whole[: len(whole) // 2]
    whole = encoded(photo, "WEBP", quality=80)
    yield "truncated.webp", whole[: len(whole) // 2]
    yield "picture.gif", encoded(small.quantize(16), "GIF")


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_of_16_bits(values):
    """Pillow reads RGB of 16 bits and does not write it."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return len(data).to_bytes(4) + kind + data + check.to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([16, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


REFUSED = {
    "cmyk.jpg": "a JPEG in CMYK is not taken",
    "truncated.jpg": "the JPEG cannot be read",
    "truncated.png": "the PNG cannot be read",
    "truncated.webp": "the WebP cannot be read",
    "picture.gif": "no JPEG, PNG or WebP",
}

CONFIGURATIONS = {
    "stretch": {"width": 32, "height": 24},
    "crop": {"width": 20, "height": 20, "resize": "crop", "resize_short": 23},
    "nearest": {"width": 32, "height": 24, "antialias": False},
    "grey": {"width": 24, "height": 24, "channels": "grey"},
    "nhwc": {"width": 17, "height": 29, "layout": "nhwc", "resize": "crop"},
    "larger": {"width": 120, "height": 150, "channels": "grey"},
}


def plain_bilinear(pixels, width, height):
    """The four nearest pixels of each, whatever lies between."""

    def axis(source, length):
        at = np.clip((np.arange(length) + 0.5) * source / length - 0.5, 0, source - 1)
        first = np.floor(at).astype(int)
        return first, np.minimum(first + 1, source - 1), at - first

    pixels = pixels.astype(float).reshape(*pixels.shape[:2], -1)
    top, bottom, down = axis(pixels.shape[0], height)
    left, right, across = axis(pixels.shape[1], width)
    down, across = down[:, None, None], across[None, :, None]
    rows = pixels[top] * (1 - down) + pixels[bottom] * down
    values = rows[:, left] * (1 - across) + rows[:, right] * across
    return np.floor(values + 0.5).astype(np.uint8)


def reference(name, data, configuration):
    picture = Image.open(io.BytesIO(data))
    if picture.mode.startswith("I"):
        # Pillow clips 16 bits of grey to white; the upper eight are taken, as it does for colours.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture = ImageOps.exif_transpose(picture)
    grey = configuration.get("channels") == "grey"
    picture = picture.convert("RGB")
    if grey:
        picture = picture.convert("L")
    width, height = configuration["width"], configuration["height"]
    if configuration.get("resize") == "crop":
        # As torchvision's Resize and CenterCrop.
        short = configuration.get("resize_short", max(width, height))
        wide, high = picture.size
        if wide <= high:
            size = (short, int(short * high / wide))
        else:
            size = (int(short * wide / high), short)
        picture = picture.resize(size, BILINEAR)
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        values = np.asarray(picture.crop((left, top, left + width, top + height)))
    elif not configuration.get("antialias", True):
        values = plain_bilinear(np.asarray(picture), width, height)
    else:
        values = np.asarray(picture.resize((width, height), BILINEAR))
    values = values.reshape(height, width, -1)
    return values if configuration.get("layout") == "nhwc" else values.transpose(2, 0, 1)


def main():
    folder = FOLDER / "files"
    folder.mkdir(exist_ok=True)
    lines = []
    for name, data in pictures():
        (folder / name).write_bytes(data)
        for kind, configuration in CONFIGURATIONS.items():
            line = {"picture": name, "kind": kind}
            if name in REFUSED:
                line["refused"] = REFUSED[name]
            else:
                if kind == "larger" and name not in ("422.jpg", "grey.png", "lossy.webp"):
                    continue
                values = reference(name, data, configuration)
                line["bytes"] = values.tobytes().hex()
            lines.append(line)
            if name in REFUSED:
                break
    expected = {"configurations": CONFIGURATIONS, "pictures": lines}
    text = json.dumps(expected, indent=None).replace('{"picture"', '\n{"picture"')
    (FOLDER / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
