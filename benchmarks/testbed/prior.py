"""Measures the embedded model's own priors: where its attention goes whatever is in the picture.

    python -m benchmarks.testbed.prior --images 1000

averages the score of D²Pruner over training scenes and one content-free prompt, once for each layer at
which a pipeline may prune, and writes the maps to where `prior: auto` finds them.
"""

from __future__ import annotations

import argparse
from functools import partial

from PIL import Image
from tqdm import tqdm

import prunekit as pk
from prunekit import hf
from prunekit.calibration import calibrate
from prunekit.prior import cached
from prunekit.testbed import CHECKPOINT, CONTENT_FREE, scene


def picture(seed: int) -> Image.Image:
    """The picture of a training scene."""
    return Image.fromarray(scene(seed, "train").image)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000, help="training scenes to average over")
    images = [partial(picture, seed) for seed in range(parser.parse_args().images)]
    loaded = hf.load("testbed")
    for layer in range(1, loaded.model.config.text_config.num_hidden_layers):
        pipeline = pk.load("d2pruner").swap(at={"layer": layer})
        track = partial(tqdm, desc=f"layer {layer}")
        prior = calibrate(loaded, images, pipeline, prompt=CONTENT_FREE[0], track=track)
        prior.save(cached(str(CHECKPOINT), layer))


if __name__ == "__main__":
    main()
