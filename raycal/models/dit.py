"""A diffusion transformer over time (Peebles and Xie 2023, arXiv 2212.09748), with norms and positions of today."""
from __future__ import annotations

from torch import Tensor, nn

from raycal.models.attention import Attention
from raycal.models.blocks import padded, run, zeroed


class Block(nn.Module):
    """Attention, then a perceptron; the embedding scales both inputs and gates both outputs.

    The gates begin at 0, so that a new network of any depth is the identity (adaLN-Zero, arXiv 2212.09748, section 3).
    """

    def __init__(self, width: int, heads: int, embedding: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.RMSNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(4 * width, width))
        self.modulation = zeroed(nn.Linear(embedding, 4 * width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, gate, mlp_scale, mlp_gate = self.modulation(embedding)[:, None].chunk(4, dim=-1)
        x = x + gate * self.attention(self.attention_norm(x) * (1.0 + scale))
        return x + mlp_gate * self.mlp(self.mlp_norm(x) * (1.0 + mlp_scale))


class DiT(nn.Module):
    """(b, C, L) and an embedding (b, E) -> (b, C, L); a token is `patch` frames.

    checkpointing: keep no activations inside a block but compute them again in the backward pass. Raise UserError
    for a window shorter than a patch.
    """

    def __init__(self, width: int, depth: int = 4, heads: int = 4, patch: int = 1, embedding: int = 128,
                 dropout: float = 0.0, checkpointing: bool = False):
        super().__init__()
        self.downsample, self.checkpointing = patch, checkpointing
        self.patches = nn.Conv1d(width, width, patch, patch)
        self.blocks = nn.ModuleList(Block(width, heads, embedding, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.scale = zeroed(nn.Linear(embedding, width))
        self.frames = nn.ConvTranspose1d(width, width, patch, patch)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        tokens = self.patches(padded(x, self.downsample)).mT
        for block in self.blocks:
            tokens = run(block, self.checkpointing and self.training, tokens, embedding)
        tokens = self.norm(tokens) * (1.0 + self.scale(embedding)[:, None])
        return self.frames(tokens.mT)[..., :x.shape[-1]]
