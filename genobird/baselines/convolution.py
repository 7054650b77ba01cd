"""A small convolutional network over bases, shaped as DeepSEA.

DeepSEA is three convolutions (320, 480 and 960 kernels of 8 bp) and a dense layer of 925; this one
has two convolutions, 96 kernels of 17 bp and 128 kernels of 9 positions, and a dense layer of 256:
0.93 million parameters with 242 outputs instead of 53 million with 919. It has batch norms, which
DeepSEA lacks: they cut the training it needs several times. Its strides divide a bin of 200 bp, so
a long window gives every bin's logits with the convolutions shared, and each is what the bin's own
1,000 bp give.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.baselines.network import STEP_BP, Network

_FIRST, _FIRST_POOL, _SECOND, _SECOND_POOL = 17, 8, 9, 5  # with pools of 8 x 5 = 40 = 200 / 5


class ConvolutionConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(1, ge=1, description="Logits per place.")
    input_bp: int = Field(1_000, ge=400, multiple_of=STEP_BP, description="Bases seen by a place.")
    first: int = Field(96, ge=1, description="Kernels of the first convolution.")
    second: int = Field(128, ge=1, description="Kernels of the second convolution.")
    hidden: int = Field(256, ge=1, description="Width of the dense layer.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout before the last two layers.")


class Convolution(Network):
    """Convolution, pooling, convolution, pooling, dense layer, logits.

    A window of `input_bp + 200 (n - 1)` bases gives n places, 200 bp apart; the first one's centre
    is `input_bp / 2`.
    """

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__(config.input_bp, config.input_bp // 2, config.outputs)
        self.config = config
        positions = config.input_bp // (_FIRST_POOL * _SECOND_POOL) - 2  # valid convolutions eat 2
        self.first = nn.Conv1d(4, config.first, _FIRST)
        self.second = nn.Conv1d(config.first, config.second, _SECOND)
        stride = STEP_BP // (_FIRST_POOL * _SECOND_POOL)
        self.dense = nn.Conv1d(config.second, config.hidden, positions, stride=stride)
        self.out = nn.Conv1d(config.hidden, config.outputs, 1)
        self.first_norm = nn.BatchNorm1d(config.first)
        self.second_norm = nn.BatchNorm1d(config.second)
        self.dense_norm = nn.BatchNorm1d(config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def logits(self, codes: Tensor) -> Tensor:
        """Predict all places of the windows with the convolutions shared, [S, n, outputs]."""
        x = self.one_hot[codes.long()].transpose(1, 2)
        x = F.relu(self.first_norm(F.max_pool1d(self.first(x), _FIRST_POOL)))
        x = F.relu(self.second_norm(F.max_pool1d(self.second(x), _SECOND_POOL)))
        x = F.relu(self.dense_norm(self.dense(self.dropout(x))))
        return self.out(self.dropout(x)).transpose(1, 2)  # type: ignore[no-any-return]
