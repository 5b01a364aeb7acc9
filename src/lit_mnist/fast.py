"""The fast path: many training steps in one call of Lightning's loop, and RMSprop over one flat buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import RMSprop

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from lit_mnist.classifier import Batch, Classifier

FLAT_OPTIONS = {"alpha", "eps", "weight_decay"}  # the arguments of RMSprop that FlatRMSprop takes beside lr


class FlatRMSprop(RMSprop):
    """torch.optim.RMSprop, bit for bit, in four operations for all parameters together instead of five for each.

    Parameters, gradients and running averages become views of three flat buffers. Its state is that of RMSprop, so
    that either continues from a checkpoint of the other.

    Args:
        params: Parameters of one device and dtype.
        lr: Learning rate.
        alpha: Smoothing of the average of the squared gradient.
        eps: Added to the square root of that average.
        weight_decay: L2 penalty.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay)
        self._params: list[Tensor] = self.param_groups[0]["params"]
        self._weights = self._flatten([p.data for p in self._params])
        self._grads = torch.zeros_like(self._weights)
        self._squares = torch.zeros_like(self._weights)
        self._buffer = torch.zeros_like(self._weights)
        self._grad_views = self._views(self._grads)
        for param, weight, square in zip(
            self._params, self._views(self._weights), self._views(self._squares), strict=True
        ):
            param.data = weight
            self.state[param] = {"step": torch.tensor(0.0), "square_avg": square}

    @staticmethod
    def _flatten(tensors: list[Tensor]) -> Tensor:
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def _views(self, flat: Tensor) -> list[Tensor]:
        pieces = flat.split([param.numel() for param in self._params])
        return [piece.view_as(param) for piece, param in zip(pieces, self._params, strict=True)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of this or of torch.optim.RMSprop."""
        super().load_state_dict(state_dict)
        self._squares.copy_(self._flatten([self.state[param]["square_avg"] for param in self._params]))
        for param, square in zip(self._params, self._views(self._squares), strict=True):
            self.state[param]["square_avg"] = square

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to zero; they are views of one buffer again, whatever ``set_to_none`` says."""
        self._grads.zero_()
        for param, grad in zip(self._params, self._grad_views, strict=True):
            param.grad = grad  # the module's own zero_grad takes them away

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        grads = self._grads
        if group["weight_decay"]:
            grads = grads.add(self._weights, alpha=group["weight_decay"])
        self._squares.mul_(group["alpha"]).addcmul_(grads, grads, value=1 - group["alpha"])
        torch.sqrt(self._squares, out=self._buffer).add_(group["eps"])
        self._weights.addcdiv_(grads, self._buffer, value=-group["lr"])
        for param in self._params:
            self.state[param]["step"] += 1
        return loss


def refuse_what_does_not_combine(trainer: Trainer, steps_per_execution: int) -> None:
    """Raise ValueError where a Trainer is set up for something that needs each step on its own."""
    if trainer.world_size > 1:
        raise ValueError(f"steps_per_execution: {steps_per_execution} works on one device, not on {trainer.world_size}")
    for callback in trainer.checkpoint_callbacks:
        every = getattr(callback, "_every_n_train_steps", 0)
        if every % steps_per_execution:
            raise ValueError(
                f"steps_per_execution: {steps_per_execution} does not divide the {every} steps between checkpoints"
            )


def run_steps(module: Classifier, batches: list[Batch]) -> Tensor:
    """Take one training step per batch and return their losses, (K,) float32.

    What Lightning does around a step of its own happens here for each of them: the step is counted, and the scheduler
    is stepped after it or, at the end of an epoch, after the last.
    """
    trainer = module.trainer
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    schedulers: list[Any] = [config for config in trainer.lr_scheduler_configs if not config.reduce_on_plateau]
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress  # what global_step counts
    if trainer.max_steps > -1:
        batches = batches[: trainer.max_steps - trainer.global_step]
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = module._step(batch, "train").mean()
        loss.backward()
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the weights of before this step
        progress.increment_ready()
        progress.increment_completed()
        for config in schedulers:
            if config.interval == "step":
                config.scheduler.step()
        losses.append(loss.detach())
    if trainer.is_last_batch:
        for config in schedulers:
            if config.interval == "epoch":
                config.scheduler.step()
    return torch.stack(losses)
