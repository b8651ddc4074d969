"""Images named on the command line: files, and folders of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from prunekit.errors import ConfigError

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def image_files(paths: list[Path]) -> list[Path]:
    """The files, and the image files of the folders, in the order of their names.

    Raises:
        ConfigError: A path does not exist, or a folder holds no images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
            if not inside:
                raise ConfigError(f"The folder {str(path)!r} holds no images ({', '.join(sorted(ENDINGS))}).")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"There is no image file or folder {str(path)!r}.")
    return found


def read_image(file: Path) -> Image.Image:
    """An image as a person sees it: turned as its camera says, without transparency, in RGB.

    Raises:
        ConfigError: The file holds no image, or a broken one.
    """
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return _in_eight_bits(upright).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{str(file)!r} cannot be read as an image: {error}.") from error


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Deep grey images brought to 8 bits; `convert` would clip them."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    top = 1.0 if image.mode == "F" and values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
    return Image.fromarray((255 * (values / top).clip(0, 1)).round().astype(np.uint8))
