"""A ring of keys and values for a fixed number of slots, allocated once.

What a token sees is what one pass over the whole history would show it through a band: keys less than `window` tokens
back and, where `timesteps` is set, of the last so many timesteps only; a slot may have a narrower band than the others. Distances are relative, so an entry is written
once and never touched until it is overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gato.model.config import GatoConfig

FOR_EVER = 2**60  # timesteps


@dataclass
class View:
    """Where one pass reads and writes: rows R, new tokens n, W ring entries (the last is a bin for padding)."""

    slots: torch.Tensor  # (R,)
    run: slice | None  # the same slots, where they are consecutive
    entries: torch.Tensor  # (R, n) ring entry of each new token
    positions: torch.Tensor  # (R, n) position since the slot was cleared
    distances: torch.Tensor | None  # (R, n, W) query position minus key position, where the network asks for it
    bias: torch.Tensor  # (R, n, W) 0 where seen, -inf elsewhere


@dataclass
class Prefix:
    """The first n tokens of a slot, in order: keys and values (layers, H, n, d), timesteps (n,)."""

    keys: torch.Tensor
    values: torch.Tensor
    time: torch.Tensor


class RingCache:
    """`window` keys are kept per slot; a pass may bring at most `most_new` tokens, which get entries of their own."""

    def __init__(
        self, config: GatoConfig, slots: int, window: int, timesteps: int | None = None, *, most_new: int | None = None,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ):  # fmt: skip
        self._relative_attention = config.position == "xl"
        self._shape = (config.num_transformer_blocks, slots, config.num_attention_heads, config.key_value_size)
        self._dtype, self._device = dtype, device
        self.count = torch.zeros(slots, dtype=torch.long, device=device)
        self.band = torch.full((slots,), window, dtype=torch.long, device=device)  # how far each slot sees, in tokens …
        self.span = torch.full_like(self.band, timesteps or FOR_EVER)  # … and in timesteps
        self._allocate(window, most_new or window)

    def see(self, slot: int, window: int, timesteps: int | None) -> None:
        """How far this slot sees: `window` tokens (at most the ring's own), and `timesteps` timesteps where set."""
        assert window <= self.window, f"a band of {window}, a ring of {self.window}"
        self.band[slot], self.span[slot] = window, timesteps or FOR_EVER

    def _allocate(self, window: int, most_new: int) -> None:
        self.window, self.most_new = window, most_new
        self._size = window + most_new
        blocks, slots, heads, width = self._shape
        shape = (blocks, slots, heads, self._size + 1, width)
        self.keys, self.values = (torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(2))
        self.reach = self._size + 1  # distances run from 0 to size
        self.relative: dict[int, torch.Tensor] = {}  # "xl": each layer's projected distances, as fixed as its keys
        self.position = torch.full((slots, self._size + 1), -1, dtype=torch.long, device=self._device)
        self.time = torch.full((slots, self._size + 1), -1, dtype=torch.long, device=self._device)

    def grow(self, window: int, most_new: int) -> None:
        """Make room for a longer window or more tokens at once; what is in the ring stays. Slots that saw as far as the ring
        goes still do."""
        self.band[self.band == self.window] = max(window, self.window)
        keys, values, position, time, size = self.keys, self.values, self.position, self.time, self._size
        self._allocate(max(window, self.window), max(most_new, self.most_new))
        entries = torch.where(position >= 0, position % self._size, self._size)[:, :size]
        rows = torch.arange(len(position), device=position.device)[:, None]
        self.keys[:, rows, :, entries] = keys[:, rows, :, torch.arange(size, device=position.device)[None]]
        self.values[:, rows, :, entries] = values[:, rows, :, torch.arange(size, device=position.device)[None]]
        self.position[rows, entries], self.time[rows, entries] = position[:, :size], time[:, :size]
        self.position[:, self._size], self.time[:, self._size] = -1, -1  # the bin for padding

    @property
    def num_bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def clear(self, slots: list[int]) -> None:
        """Forget everything of these slots."""
        self.position[slots] = -1
        self.time[slots] = -1
        self.count[slots] = 0

    def fork(self, source: int, targets: list[int]) -> None:
        """Give these slots what one slot holds, each its own copy."""
        for entries in (self.keys, self.values):
            entries[:, targets] = entries[:, source : source + 1]
        for entries in (self.position, self.time, self.count, self.band, self.span):
            entries[targets] = entries[source].clone()

    def take(self, slots: torch.Tensor, valid: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take entries for new tokens. valid, times: (R, n). Their positions and the entries, (R, n)."""
        n = valid.shape[1]
        assert n <= self.most_new, f"{n} new tokens, room for {self.most_new}"
        if (
            valid.device.type == "cpu" and valid.numel() == 1 and valid
        ):  # most passes bring one token: fewer calls for it
            slot, position = int(slots), int(self.count[slots])
            entry = position % self._size
            self.position[slot, entry], self.time[slot, entry] = position, int(times)
            self.count[slot] = position + 1
            return torch.tensor([[position]]), torch.tensor([[entry]])
        positions = self.count[slots][:, None] + torch.arange(n, device=valid.device)
        entries = torch.where(valid, positions % self._size, self._size)
        self.position[slots[:, None], entries] = torch.where(valid, positions, -1)
        self.time[slots[:, None], entries] = torch.where(valid, times, -1)
        self.count[slots] += valid.sum(1)
        return positions, entries

    def extend(self, slots: torch.Tensor, valid: torch.Tensor, times: torch.Tensor) -> View:
        """Take entries for new tokens, and see what each sees. valid, times: (R, n)."""
        positions, entries = self.take(slots, valid, times)
        key_position, key_time = self.position[slots][:, None], self.time[slots][:, None]  # (R, 1, W)
        distances = positions[..., None] - key_position
        seen = (key_position >= 0) & (distances >= 0) & (distances < self.band[slots][:, None, None])
        seen &= key_time > (times - self.span[slots][:, None])[..., None]
        seen[..., self._size] = ~valid  # a padding token sees the bin alone, so that its softmax stays finite
        bias = torch.zeros(seen.shape, dtype=self.keys.dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
        first = int(slots[0])
        run = slice(first, first + len(slots)) if slots.tolist() == list(range(first, first + len(slots))) else None
        return View(slots, run, entries, positions, distances if self._relative_attention else None, bias)

    def write(self, layer: int, view: View, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store k, v (R, n, H, d) and return all keys and values of the rows, (R, H, W, d): the ring itself where the rows
        are consecutive slots, else a copy."""
        rows = view.slots[:, None]
        self.keys[layer][rows, :, view.entries] = k
        self.values[layer][rows, :, view.entries] = v
        which = view.slots if view.run is None else view.run
        return self.keys[layer][which], self.values[layer][which]

    def forget(self, slots: torch.Tensor, counts: torch.Tensor) -> None:
        """Take back the last counts[r] tokens of each slot. What they overwrote was out of sight, so nothing else is lost
        as long as no more than `most_new` tokens were fed since the first of them."""
        positions = self.count[slots][:, None] - 1 - torch.arange(self.most_new, device=slots.device)
        gone = torch.arange(self.most_new, device=slots.device) < counts[:, None]
        entries = torch.where(gone, positions % self._size, self._size)  # the bin has position -1 already
        self.position[slots[:, None], entries] = -1
        self.count[slots] -= counts

    def kept(self, slot: int) -> Prefix:
        """A copy of what a slot holds, all of it still in the ring, to begin other slots from."""
        n = int(self.count[slot])
        assert n <= self._size, "the beginning is overwritten"
        return Prefix(
            self.keys[:, slot, :, :n].clone(), self.values[:, slot, :, :n].clone(), self.time[slot, :n].clone()
        )

    def begin(self, slot: int, prefix: Prefix) -> None:
        """Clear a slot and give it what another one held."""
        self.clear([slot])
        n = len(prefix.time)
        self.keys[:, slot, :, :n], self.values[:, slot, :, :n] = prefix.keys, prefix.values
        self.time[slot, :n], self.position[slot, :n] = prefix.time, torch.arange(n, device=self.time.device)
        self.count[slot] = n
