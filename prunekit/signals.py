"""What stages may ask to have captured, as values: the keys of `TokenBatch.signals`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Signal:
    """Something a stage needs captured from the model while it runs; the key of `TokenBatch.signals`.

    Attributes:
        per_token: Whether its last axis is the visual tokens.
        of_text: Whether it depends on the text that follows the image, the question among it.
        told: What it is, in a few words; empty where its name says it.
    """

    per_token: ClassVar[bool] = True
    of_text: ClassVar[bool] = False
    told: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class TextAttention(Signal):
    """The attention that text pays to each visual token: `Float[batch, heads, tokens]`.

    An ordinary softmax over the whole visible sequence, position encoding included, so that a row over
    the visual tokens sums to at most 1.

    Attributes:
        query: `last`, the last prompt token; `mean`, the mean over the text tokens that follow the image.
        layer: `previous`, the layer before the one at whose entry tokens are dropped; `same`, that layer
            itself, on its unpruned input.
    """

    of_text: ClassVar[bool] = True
    told: ClassVar[str] = "attention of the text"

    query: Literal["last", "mean"] = "last"
    layer: Literal["previous", "same"] = "previous"


@dataclass(frozen=True, slots=True)
class TextRows(Signal):
    """The attention that each token of the question pays to each visual token.

    `Float[batch, heads, texts, tokens]`, in the order of `TextFeatures`. A row of zeros is padding.

    Attributes:
        layer: As in `TextAttention`.
    """

    of_text: ClassVar[bool] = True
    told: ClassVar[str] = "attention of each text token"

    layer: Literal["previous", "same"] = "previous"


@dataclass(frozen=True, slots=True)
class TextFeatures(Signal):
    """The features of each token of the question: `Float[batch, texts, dim]`; a row of zeros is padding.

    Attributes:
        of: `cut`, at the place of pruning; `input`, as it entered the language model.
    """

    per_token: ClassVar[bool] = False
    of_text: ClassVar[bool] = True
    told: ClassVar[str] = "features of the text"

    of: Literal["cut", "input"] = "cut"


@dataclass(frozen=True, slots=True)
class InputFeatures(Signal):
    """What each visual token was when it entered the language model: `Float[batch, dim, tokens]`."""

    told: ClassVar[str] = "features that enter the language model"


@dataclass(frozen=True, slots=True)
class VisionAttention(Signal):
    """The attention inside the vision tower to the patch of each visual token: `Float[batch, heads, tokens]`.

    An ordinary softmax over all patches that a patch sees: those of its image, tile or window. A token made
    of several patches has their mean, one made of none (a newline) has 0.

    Attributes:
        layer: The layer of the vision tower; negative ones count from its end, as in lists.
        query: `cls`, the class token; `mean`, the mean of all patches that see the token's, the class token
            among them; `auto`, `cls` for towers that have a class token and else `mean`.
    """

    told: ClassVar[str] = "attention of the vision encoder"

    layer: int = -2
    query: Literal["auto", "cls", "mean"] = "auto"


@dataclass(frozen=True, slots=True)
class VisionKeys(Signal):
    """The keys of the vision tower for each visual token's patch: `Float[batch, heads, dim, tokens]`.

    As attention meets them, normed and rotated. Of several patches the mean, of none 0.

    Attributes:
        layer: The layer of the vision tower; negative ones count from its end, as in lists.
    """

    told: ClassVar[str] = "keys of the vision encoder"

    layer: int = -2


@dataclass(frozen=True, slots=True)
class Distance(Signal):
    """How many positions before the last prompt token each visual token stands: `Float[batch, tokens]`.

    In the positions that the rotary embedding of the place of pruning counts, on one line; never below 0.
    """

    of_text: ClassVar[bool] = True
    told: ClassVar[str] = "how far before the last token of the prompt each stands"


@dataclass(frozen=True, slots=True)
class Sizes(Signal):
    """How many tokens of the image each visual token stands for: `Float[batch, tokens]`; 1 unless merged."""

    told: ClassVar[str] = "how many tokens each stands for"


@dataclass(frozen=True, slots=True)
class PaddedShare(Signal):
    """The share of each token's patch that is padding around the image: `Float[batch, tokens]` in [0, 1]."""

    told: ClassVar[str] = "padding around the image"


@dataclass(frozen=True, slots=True)
class WeightGradient(Signal):
    """The gradient of a loss in a channel's weights, where tokens are channels.

    `Float[batch, layers, width, tokens]`: a channel is written by one layer, or by several whose outputs are
    added. Its features are its weights in each of them in turn, `layers · width` numbers; layers that are
    narrower than the widest are padded with 0.
    """

    told: ClassVar[str] = "gradients of the weights"


@dataclass(frozen=True, slots=True)
class Keys(Signal):
    """The keys of the visual tokens in a decoder layer: `Float[batch, heads, dim, tokens]`.

    Attributes:
        layer: `previous`, the layer before the one at whose entry tokens are dropped; `same`, that layer.
    """

    told: ClassVar[str] = "keys of the decoder"

    layer: Literal["previous", "same"] = "previous"


@dataclass(frozen=True, slots=True)
class TextKeys(Signal):
    """The keys of the tokens of `TextFeatures` in a decoder layer, heads side by side.

    `Float[batch, texts, dim]`, row by row what `TextFeatures` says of the same token.

    Attributes:
        layer: As in `Keys`.
    """

    per_token: ClassVar[bool] = False
    of_text: ClassVar[bool] = True
    told: ClassVar[str] = "keys of the text"

    layer: Literal["previous", "same"] = "previous"


@dataclass(frozen=True, slots=True)
class JointFeatures(Signal):
    """The visual tokens in a space that pictures and words share: `Float[batch, dim, tokens]`.

    Such a space is that of a contrastive image-text model.
    """

    told: ClassVar[str] = "image features of a contrastive model"


@dataclass(frozen=True, slots=True)
class JointTexts(Signal):
    """The texts of the prompt in the space of `JointFeatures`: `Float[batch, texts, dim]`.

    Rows of zeros are padding.
    """

    per_token: ClassVar[bool] = False
    of_text: ClassVar[bool] = True
    told: ClassVar[str] = "text features of a contrastive model"
