"""What the vision tower shows of visual tokens: attention and keys inside of it, and what leaves it.

Tower (patches) → neck (patches become tokens) → pack (tiles become one canvas) → the tokens of a prompt.
"""

from prunekit.hf.vision.sight import Seen, Sight

__all__ = ["Seen", "Sight"]
