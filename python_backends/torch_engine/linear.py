"""Linear layers re-packed on CPU, once, after loading.

Layers of one module that read the same input become one matrix: a few large ones stream faster than many small ones.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn

from python_backends.torch_engine.kernels import KERNELS, CompactBf16, Int4Levels, Kernel

# Children of one module that are called one after the other with the same input, in the order of their calls.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# oneDNN's kernel for 1 to 3 rows streams weights slower than the one for 4.
_MIN_ROWS = 4


class PackedLinear(nn.Module):
    """x [..., in] -> [..., out]."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.kernel(x)


class Int4Linear(nn.Module):
    """A layer that the checkpoint has in int4, from loading to packing; it cannot be called.

    levels uint8 [out, in] in 0..15; scales [in / group, out, 2], see `kernels.int4_weight`.
    """

    def __init__(self, levels: torch.Tensor, scales: torch.Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.levels, self.scales = nn.Buffer(levels), nn.Buffer(scales)
        self.bias = bias
        self.out_features, self.in_features = levels.shape


class Part(nn.Module):
    """One of several layers with the same input: the first call computes all, the others take their columns."""

    def __init__(self, shared: Shared, columns: slice) -> None:
        super().__init__()
        self.shared, self.columns = shared, columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared.output(x, self.columns.stop)[..., self.columns]


class Shared:
    """What the parts of one matrix have in common: its kernel, the last input, and what came of it."""

    def __init__(self, kernel: Kernel, width: int) -> None:
        self.kernel, self._width = kernel, width
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    def output(self, x: torch.Tensor, stop: int) -> torch.Tensor:
        if self._input is not x:
            self._input, self._output = x, self.kernel(x)
        assert self._output is not None
        output = self._output
        # After the last part nobody asks again: a large prompt's activations must not stay.
        if stop == self._width:
            self._input = self._output = None
        return output


def pack_linears(root: nn.Module, quantization: str, apart: str = "", rows: int = _MIN_ROWS) -> int:
    """Replace the linear layers below `root` by packed ones; returns how many rows a step should have at least.

    Without quantization only bf16 layers on CPU gain, and all others stay as they are. The layers of modules that are
    named `apart` have inputs of their own, and none of them are joined. Inputs have `rows` rows most often.
    """
    kernels: list[Kernel] = []
    for name, module in list(root.named_modules()):
        for names in _groups(module, quantization, not apart or apart not in name.split(".")):
            kernels.append(_replace(module, names, quantization, rows))
    if kernels:
        _let_go(root)
    return 1 if all(isinstance(kernel, CompactBf16) for kernel in kernels) else _MIN_ROWS


@torch.no_grad()
def _let_go(root: nn.Module) -> None:
    """Give back what the packed layers had before.

    What stays is copied out of the checkpoint's file: as long as one tensor lies there, all of it stays mapped.
    """
    for tensor in {id(each): each for each in (*root.parameters(), *root.buffers())}.values():
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "malloc_trim"):
        c_library.malloc_trim(0)


def _packs(layer: Any, quantization: str) -> bool:
    if type(layer) is Int4Linear:
        return True
    # Exactly a linear layer: a subclass may have a forward of its own.
    if type(layer) is not nn.Linear or layer.weight.device.type != "cpu":
        return False
    if quantization == "none":
        return bool(layer.weight.dtype == torch.bfloat16)
    # What the narrowest kernel can cut evenly; an odd little layer stays as it is.
    return layer.in_features % 32 == 0 and layer.out_features % 16 == 0


def _groups(module: nn.Module, quantization: str, joined: bool) -> Iterator[tuple[str, ...]]:
    """The names of a module's linear children, siblings together if they are `joined`."""
    names = [name for name, child in module.named_children() if _packs(child, quantization)]
    for siblings in _SIBLINGS if joined else ():
        if set(siblings) <= set(names) and _alike([getattr(module, name) for name in siblings]):
            yield siblings
            names = [name for name in names if name not in siblings]
    yield from ((name,) for name in names)


def _alike(layers: list[Any]) -> bool:
    kinds = {(type(layer), layer.in_features, len(getattr(layer, "scales", ()))) for layer in layers}
    return len(kinds) == 1


@torch.no_grad()
def _replace(module: nn.Module, names: tuple[str, ...], quantization: str, rows: int) -> Kernel:
    layers: list[Any] = [getattr(module, name) for name in names]
    kernel = _kernel(layers, quantization, rows)
    if len(layers) == 1:
        setattr(module, names[0], PackedLinear(kernel))
        return kernel
    ends = [0, *accumulate(layer.out_features for layer in layers)]
    shared = Shared(kernel, ends[-1])
    for name, (start, end) in zip(names, pairwise(ends), strict=True):
        setattr(module, name, Part(shared, slice(start, end)))
    return kernel


def _kernel(layers: list[Any], quantization: str, rows: int) -> Kernel:
    """One for all layers, which are alike."""
    biases = [_no_bias(layer) if layer.bias is None else layer.bias for layer in layers]
    bias = torch.cat(biases) if any(layer.bias is not None for layer in layers) else None
    if isinstance(layers[0], Int4Linear):
        levels, scales = [layer.levels for layer in layers], [layer.scales for layer in layers]
        return Int4Levels(torch.cat(levels), torch.cat(scales, dim=1), bias)
    weight = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight
    return KERNELS[quantization](weight.detach(), bias, rows)


def _no_bias(layer: Any) -> torch.Tensor:
    like = layer.scales if isinstance(layer, Int4Linear) else layer.weight
    return like.new_zeros(layer.out_features)
