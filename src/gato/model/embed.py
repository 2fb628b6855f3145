"""Embedding (paper section 2.2, appendix C.2, C.3): tokens by a look-up table, patches by a ResNet block.

token  = table[id] + local position
patch  = ResNet(pixels) + row position + column position + local position
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from gato.model.config import GatoConfig
from gato.sequences.batch import Batch
from gato.tokens.values import NUM_BINS


class GroupNorm(nn.GroupNorm):
    """The same numbers by way of layer norm, which on a CPU is many times faster where a group is as small as of a patch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = x.flatten(2).unflatten(1, (self.num_groups, -1)).flatten(2)
        normed = F.layer_norm(groups, groups.shape[2:], eps=self.eps).view_as(x)
        return torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None])


class ResidualBlock(nn.Module):
    """v2 (pre-activation) residual block: GroupNorm in place of batch norm, GELU in place of ReLU (figure 16)."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(groups, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.gelu(self.norm1(x)))
        return x + self.conv2(F.gelu(self.norm2(h)))


class PatchEmbedder(nn.Module):
    """uint8 (U, 768) patches → (U, D). Pixels to [-1, 1], divided by √16 = 4; a strided stem, residual blocks, and a
    linear map of all that is left, so that spatial detail survives."""

    def __init__(self, config: GatoConfig):
        super().__init__()
        width, stride = config.patch_stem_width, config.patch_stem_stride
        self.stem = nn.Conv2d(3, width, stride, stride)
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, config.num_group_norm_groups) for _ in range(config.num_residual_blocks))
        )
        self.out = nn.Linear(width * (16 // stride) ** 2, config.layer_width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        pixels = patches.view(-1, 16, 16, 3).permute(0, 3, 1, 2).to(self.stem.weight.dtype)
        x = self.stem((pixels / 127.5 - 1.0) / 4.0)
        return self.out(F.gelu(self.blocks(x)).flatten(1))


class LinearPatches(nn.Module):
    """The switch `patch_embedder="linear"`: one matrix per patch, as in ViT. uint8 (U, 768) → (U, D)."""

    def __init__(self, config: GatoConfig):
        super().__init__()
        self.out = nn.Linear(16 * 16 * 3, config.layer_width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.out((patches.to(self.out.weight.dtype) / 127.5 - 1.0) / 4.0)


class Embedding(nn.Module):
    hats: torch.Tensor

    def __init__(self, config: GatoConfig):
        super().__init__()
        d = config.layer_width
        vocabulary = config.vocabulary
        self.table = nn.Parameter(torch.empty(vocabulary.size, d))
        self.local = nn.Parameter(
            torch.empty(config.local_position_encoding_size + 1, d)
        )  # last: the actions' shared one
        self.row = nn.Parameter(torch.empty(config.discretize_depth, d))
        self.column = nn.Parameter(torch.empty(config.discretize_depth, d))
        self.patch = PatchEmbedder(config) if config.patch_embedder == "resnet" else LinearPatches(config)
        if config.encodings == "fixed":
            for table in (self.local, self.row, self.column):
                table.requires_grad_(False)
        if config.position == "learned":
            self.global_position = nn.Parameter(torch.empty(config.token_sequence_length, d))
        self._continuous = vocabulary.continuous
        self._kept: tuple[tuple, torch.Tensor] | None = None
        if config.smooth_bin_rows:
            self.register_buffer("hats", hats(), persistent=False)
            self.smooth = nn.Parameter(torch.zeros(self.hats.shape[1], d))

    def reset(self) -> None:
        for p in (self.table, self.local, self.row, self.column):
            nn.init.normal_(p, std=0.02)
        if hasattr(self, "global_position"):
            nn.init.normal_(self.global_position, std=0.02)
        if not self.local.requires_grad and not self.local.is_meta:
            with torch.no_grad():
                self.local[:-1] = 0.02 * sinusoids(len(self.local) - 1, self.local.shape[1])
                # rows and columns are told apart by a fixed shuffle of the features
                for table, seed in ((self.row, 1), (self.column, 2)):
                    order = torch.randperm(table.shape[1], generator=torch.Generator().manual_seed(seed))
                    table.copy_(0.02 * sinusoids(*table.shape)[:, order])

    def vocabulary(self) -> torch.Tensor:
        """The table (V, D) that embeds and, tied, predicts. With `smooth_bin_rows` neighbouring bins share most of a row.

        An agent asks for it at every token: in evaluation mode, without gradients, it is made once and kept.
        """
        if not hasattr(self, "smooth"):
            return self.table
        kept = not self.training and not torch.is_grad_enabled()
        made_of = (self.table._version, self.smooth._version, self.table.data_ptr(), self.table.dtype)
        if kept and self._kept is not None and self._kept[0] == made_of:
            return self._kept[1]
        c = self._continuous
        rows = self.hats.to(self.smooth.dtype) @ self.smooth
        table = torch.cat([self.table[:c], self.table[c : c + NUM_BINS] + rows, self.table[c + NUM_BINS :]])
        self._kept = (made_of, table) if kept else None
        return table

    def forward(self, batch: Batch, table: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """(N,) tokens → (N, D). `places` (N,), for learned global positions: where in its sequence each token is; a
        batch's segments count from 0."""
        ids = batch.ids
        x = F.embedding(ids, table)
        if batch.blank is not None:
            x = x.masked_fill(batch.blank[:, None], 0.0)
        last = len(self.local) - 1
        index = torch.where(batch.positions < -1, last, batch.positions)
        local = F.embedding(index.clamp(min=0), self.local)
        x = x + torch.where((batch.positions == -1)[:, None], 0.0, local)
        if hasattr(self, "global_position"):
            if places is None:
                places = torch.cat([torch.arange(length, device=ids.device).repeat(n) for n, length, _ in batch.groups])
            x = x + F.embedding(places, self.global_position)
        if len(batch.image_rows):
            patches = self.patch(batch.patches).to(x.dtype)
            places = F.embedding(batch.image_places[:, 0], self.row) + F.embedding(
                batch.image_places[:, 1], self.column
            )
            image = F.embedding(batch.image_index, patches) + places
            # An image row has no id: what the table gave it (id 0) is taken out again.
            x = x.index_add(0, batch.image_rows, image.to(x.dtype) - F.embedding(ids[batch.image_rows], table))
        return x


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Sines and cosines of 0 … length - 1, (length, width), with a norm like that of normal(0, 1) rows."""
    at = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return math.sqrt(2) * torch.cat([at.sin(), at.cos()], dim=1)[:, :width].float()


def hats() -> torch.Tensor:
    """Triangular features of the 1,024 bins at four resolutions, (1024, K): linear interpolation between coarse knots."""
    centre = (torch.arange(NUM_BINS) + 0.5) / NUM_BINS
    scales = []
    for knots in (5, 17, 65, 129):
        at = torch.linspace(0, 1, knots)
        scales.append((1 - (centre[:, None] - at[None]).abs() * (knots - 1)).clamp(min=0) / math.sqrt(4))
    return torch.cat(scales, dim=1)
