"""CLCAE's attention. Every query meets a single key, whose softmax is one, so what remains is linear layers and norms.

Parameter names follow the released files, which also hold the weights of queries and keys; they are accepted and never read.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OneKey(nn.Module):
    """The attention to one key: its value through two linear layers, whatever the query is."""

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, inputs) / inputs**0.5)  # of query, key and value
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.value = slice(2 * width, None)

    def forward(self, value: Tensor) -> Tensor:
        """[N, inputs] -> [N, width]."""
        attended: Tensor = self.out_proj(F.linear(value, self.in_proj_weight[self.value], self.in_proj_bias[self.value]))
        return attended


class AttentionBlock(nn.Module):
    """A layer of a transformer's decoder, the norms behind each part. `inputs`: the width of the value."""

    def __init__(self, width: int, hidden: int, inputs: int) -> None:
        super().__init__()
        self.multihead_attn = OneKey(width, inputs)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))  # the first is not read

        self.dropout = 0.0  # of what each part gives, in training

    def forward(self, query: Tensor, attended: Tensor) -> Tensor:
        """query [..., C], what `multihead_attn` made of the value -> [..., C]."""
        x = self.norm2(query + self._dropped(attended))
        hidden = self._dropped(F.relu(self.linear1(x)))
        y: Tensor = self.norm3(x + self._dropped(self.linear2(hidden)))
        return y

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
