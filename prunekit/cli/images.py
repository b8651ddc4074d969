"""Images named on the command line: files, and folders of files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

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
    from PIL import ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return upright.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{str(file)!r} cannot be read as an image: {error}.") from error
