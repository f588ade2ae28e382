"""A one-layer transformer for images, cut into patches, and for tokens of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ncfast.experiments.models.protocol import Network

PADDING = 0  # the token that pads short texts


class Patches(nn.Module):
    """Embeds the patches of images: (N, C, H, W) to (N, T, D), with T = (H / p) (W / p).

    Args:
        input_shape: (C, H, W).
        patch: p, must divide H and W.
        width: D.
    """

    def __init__(self, input_shape: Sequence[int], patch: int, width: int) -> None:
        super().__init__()
        channels, height, self.columns = input_shape
        self.patch = patch
        self.count = (height // patch) * (self.columns // patch)
        self.projection = nn.Linear(channels * patch * patch, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The embedded patches; the mask is None."""
        n, c, h, w = x.shape
        p = self.patch
        tiles = x.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
        return self.projection(tiles.reshape(n, self.count, c * p * p)), None


class Tokens(nn.Module):
    """Embeds token ids, (N, L) to (N, L, D), and masks the padding.

    Args:
        length: L.
        vocabulary: number of token ids.
        width: D.
    """

    def __init__(self, length: int, vocabulary: int, width: int) -> None:
        super().__init__()
        self.count = length
        self.table = nn.Embedding(vocabulary, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The embedded tokens, and a mask (N, L) that is True for text and False for padding."""
        return self.table(x), x != PADDING


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: number of heads, divides D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projection_in = nn.Linear(width, 3 * width)
        self.projection_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (N, T, D) to (N, T, D); ``mask`` (N, T) is True for keys that are attended to."""
        n, t, d = x.shape
        split = self.projection_in(x).reshape(n, t, 3, self.heads, d // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        # vmap has no rule for the fused attention on a CPU
        scores = query @ key.transpose(-1, -2) / math.sqrt(d // self.heads)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
        mixed = scores.softmax(-1) @ value
        return self.projection_out(mixed.transpose(1, 2).reshape(n, t, d))


class Encoder(nn.Module):
    """Embeds the input with a class token, applies one pre-norm layer, returns the class token.

    Args:
        embedding: `Patches` or `Tokens`.
        width: D.
        heads: number of attention heads.
        hidden: width of the feed-forward block.
    """

    def __init__(self, embedding: Patches | Tokens, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, embedding.count + 1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, D)."""
        tokens, mask = self.embedding(x)
        start = self.class_token.expand(len(x), -1, -1)
        hidden = torch.cat([start, tokens], 1) + self.positions
        if mask is not None:
            mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        hidden = hidden + self.attention(self.norm1(hidden), mask)
        hidden = hidden + self.feed_forward(self.norm2(hidden))
        return hidden[:, 0]


class Transformer(Network):
    """The one-layer transformer of arXiv 2509.20829: width 128, 4 heads, feed-forward 256.

    Attention and the feed-forward block are preceded by normalisation. No normalisation follows
    them, so the features keep the scale of the feed-forward block.

    Args:
        input_shape: (C, H, W) of an image, or (L,) of a text.
        num_classes: K.
        vocabulary: number of token ids; None for images.
        patch: side length of a patch in pixels.

    Raises:
        ValueError: the input is neither an image nor a text, or the patch does not divide it.

    Example:
        >>> import torch
        >>> Transformer((1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        vocabulary: int | None = None,
        patch: int = 4,
        width: int = 128,
        heads: int = 4,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.linear_layers = ("features.feed_forward", "classifier")
        embedding = _embedding(input_shape, vocabulary, patch, width)
        self.features = Encoder(embedding, width, heads, hidden)
        self.classifier = nn.Linear(width, num_classes)


def _embedding(
    input_shape: Sequence[int], vocabulary: int | None, patch: int, width: int
) -> Patches | Tokens:
    if vocabulary is not None:
        return Tokens(input_shape[0], vocabulary, width)
    if len(input_shape) != 3 or patch < 1 or any(size % patch for size in input_shape[1:]):
        raise ValueError(
            f"Expected images that patches of {patch} x {patch} divide, for the model "
            f"'transformer', but got inputs of shape {tuple(input_shape)}. Choose `patch_size`."
        )
    return Patches(input_shape, patch, width)
