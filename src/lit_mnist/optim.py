"""The optimizer of the tutorial."""

from typing import Any

from torch.optim import RMSprop
from torch.optim.optimizer import ParamsT


class KerasRMSprop(RMSprop):
    """torch's RMSprop with Keras' constants; torch's own are lr 1e-2, alpha 0.99 and eps 1e-8.

    Args:
        lr: Learning rate.
        alpha: Smoothing of the average of squared gradients; Keras calls it rho.
        eps: Added to the square root of that average.
        weight_decay: L2 penalty.
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, alpha: float = 0.9, eps: float = 1e-7, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay)

    def step(self, closure: Any = None) -> Any:
        """Called by Lightning for every batch; the closure computes the gradients and returns the loss."""
        for state in self.state.values():
            state["square_avg"] += 1e-33  # far below eps; MKL's square root is up to 20 times slower on zeros
        return super().step(closure)
