"""How the visual tokens of the known families lie: a few facts a family, asked after what plugins bring."""

from prunekit.hf.adapters.anyres import LLAVA_NEXT, LLAVA_NEXT_VIDEO, LLAVA_ONEVISION
from prunekit.hf.adapters.family import Family, Layout
from prunekit.hf.adapters.sized import PIXTRAL
from prunekit.hf.adapters.squares import SQUARES

FAMILIES: tuple[Family, ...] = (PIXTRAL, LLAVA_NEXT, LLAVA_NEXT_VIDEO, LLAVA_ONEVISION, *SQUARES)
"""The known families. Those that are told the grid of each picture (Qwen-VL, GLM-V) need no facts."""

__all__ = ["FAMILIES", "Family", "Layout"]
