"""The fast path: many training steps in one call of Lightning's loop, and RMSprop over one flat buffer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer, RMSprop
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_mnist.classifier import Batch, Classifier

FLAT_OPTIONS = {"lr", "alpha", "eps", "weight_decay"}  # the arguments of RMSprop that FlatRMSprop takes


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
        self._steps = 0  # in the state only when that is asked for
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
        self._steps = int(self.state[self._params[0]]["step"])
        for param, square in zip(self._params, self._views(self._squares), strict=True):
            self.state[param]["square_avg"] = square

    def state_dict(self) -> dict[str, Any]:
        """The state, in the form that torch.optim.RMSprop has it."""
        for param in self._params:
            self.state[param]["step"] = torch.tensor(float(self._steps))
        return super().state_dict()

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
        self._steps += 1
        group = self.param_groups[0]
        grads = self._grads
        if group["weight_decay"]:
            grads = grads.add(self._weights, alpha=group["weight_decay"])
        self._squares.mul_(group["alpha"]).addcmul_(grads, grads, value=1 - group["alpha"])
        torch.sqrt(self._squares, out=self._buffer).add_(group["eps"])
        self._weights.addcdiv_(grads, self._buffer, value=-group["lr"])
        return loss


class FastClassifier(Classifier):
    """The classifier, which can take many training steps in one call of Lightning's loop.

    Args:
        steps_per_execution: Training steps taken in one call of Lightning's loop, at least 1. More than 1 is the fast
            path: the same weights bit for bit in less time, on one device, without gradient clipping or accumulation.
            Lightning then counts so many steps as one batch, in --trainer.limit_train_batches, too.
        kwargs: Of `Classifier`.

    Raises:
        ValueError: An argument lies outside its range; the message names it.
    """

    def __init__(self, steps_per_execution: int = 1, **kwargs: Any) -> None:
        if steps_per_execution < 1:
            raise ValueError(f"steps_per_execution: {steps_per_execution} is not at least 1")
        super().__init__(**kwargs)
        self.steps_per_execution = steps_per_execution
        self.automatic_optimization = steps_per_execution == 1

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.trainer.datamodule.batches_at_once = self.steps_per_execution  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.steps_per_execution > 1:
            refuse_what_does_not_combine(self.trainer, self.steps_per_execution)

    def training_step(self, batch: Batch | list[Batch], batch_idx: int) -> Tensor:
        return run_steps(self, batch) if isinstance(batch, list) else super().training_step(batch, batch_idx)

    def make_optimizer(self, options: dict[str, Any]) -> Optimizer:
        if self.steps_per_execution > 1 and self.optimizer == "RMSprop" and options.keys() <= FLAT_OPTIONS:
            return FlatRMSprop(self.parameters(), **options)
        return super().make_optimizer(options)


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
    schedulers: list[Any] = [
        config for config in trainer.lr_scheduler_configs if not isinstance(config.scheduler, ReduceLROnPlateau)
    ]
    loop = trainer.fit_loop.epoch_loop
    progress = loop.manual_optimization.optim_step_progress  # what global_step counts
    if trainer.max_steps > -1 and (beyond := len(batches) - (trainer.max_steps - trainer.global_step)) > 0:
        batches = batches[:-beyond]
        trainer.train_dataloader.position -= beyond  # type: ignore[union-attr]
        loop.batch_progress.increment_by(-1)  # these are not done before a continued fit takes their rest
        loop._skip_next_val = True
    means = []
    for batch in batches:
        optimizer.zero_grad()
        losses, logits = module.losses(batch)
        losses.mean().backward()
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the weights of before this step
        module.uncounted.append((losses.detach(), logits.detach(), batch[1]))
        progress.increment_ready()
        progress.increment_completed()
        for config in schedulers:
            if config.interval == "step":
                config.scheduler.step()
        means.append(losses.detach().mean())
    loop._batches_that_stepped += len(batches) - 1  # the step that loggers write; Lightning adds the last itself
    if trainer.is_last_batch:
        for config in schedulers:
            if config.interval == "epoch":
                config.scheduler.step()
    return torch.stack(means)
