"""Optimizers by name, and which parameters are decayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

Name = Literal["sgd", "adamw", "lars"]


class LARS(Optimizer):
    """SGD with momentum and a learning rate per tensor (You, Gitman & Ginsburg 2017, algorithm 1).

    A matrix or kernel moves by ``lr * trust * |w| / (|g| + weight_decay |w|)`` times its decayed
    gradient; vectors (biases, norms) move as in plain SGD.

    Args:
        params: Parameters or parameter groups.
        lr: Global learning rate.
        momentum: Factor of the running update.
        weight_decay: L2 penalty, added to the gradient before scaling.
        trust: The trust coefficient eta.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; ``closure``, if given, recomputes the loss first and its value is
        returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        update = parameter.grad.add(parameter, alpha=group["weight_decay"])  # type: ignore[union-attr]
        if parameter.dim() > 1:
            size, slope = parameter.norm(), parameter.grad.norm()  # type: ignore[union-attr]
            ratio = group["trust"] * size / (slope + group["weight_decay"] * size)
            # Chosen on the device: reading the norms on the host would stop a GPU at every tensor.
            update = update * torch.where((size > 0) & (slope > 0), ratio, 1.0)
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].mul_(group["momentum"]).add_(update, alpha=group["lr"])
        parameter.sub_(state["momentum_buffer"])


def build_optimizer(
    module: nn.Module,
    name: Name,
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    beta2: float = 0.999,
    decay_all: bool = False,
    lr_scales: Mapping[str, float] | None = None,
) -> Optimizer:
    """Build an optimizer whose groups tell apart matrices and kernels, which are decayed, and
    vectors (biases, norms), which are decayed only if asked for.

    Args:
        module: Its trainable parameters are optimized.
        name: The update rule.
        lr: Learning rate of a group with scale 1.
        weight_decay: Of matrices and kernels.
        momentum: Of sgd and lars; the first beta of adamw.
        beta2: The second beta of adamw.
        decay_all: Whether vectors are decayed too.
        lr_scales: Submodule name -> ``lr_scale`` of its parameters' own groups, by which the loop
            multiplies the learning rate.
    """
    scales = {
        p: scale
        for path, scale in (lr_scales or {}).items()
        for p in module.get_submodule(path).parameters()
    }
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for p in module.parameters():
        if p.requires_grad:
            groups.setdefault((scales.get(p, 1.0), p.dim() > 1 or decay_all), []).append(p)
    listed = [
        {"params": members, "lr_scale": scale, "weight_decay": weight_decay if decayed else 0.0}
        for (scale, decayed), members in sorted(
            groups.items(), key=lambda item: item[0], reverse=True
        )
    ]
    fused = all(p.device.type in {"cpu", "cuda"} for members in groups.values() for p in members)
    if name == "adamw":
        return AdamW(listed, lr=lr, betas=(momentum, beta2), fused=fused)
    if name == "lars":
        return LARS(listed, lr=lr, momentum=momentum)
    return SGD(listed, lr=lr, momentum=momentum, fused=fused)
