"""What all likelihoods have in common: the shape of their parameters, and how a network's outputs take it."""

from __future__ import annotations

__all__ = ["Likelihood"]

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution


@dataclasses.dataclass(frozen=True)
class Likelihood(ABC):
    r"""A map from the outputs of a network to :math:`p(x | z)`.

    Arguments:
        event_shape: The shape of one datum.
    """

    event_shape: tuple[int, ...]

    exact_kinds: ClassVar[tuple[str, ...]] = ()
    relaxed_kinds: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of all parameters of one datum; for images it ends in height and width."""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Distribution:
        """Returns p(x | z) from unbounded parameters.

        Arguments:
            parameters: The parameters, with shape (*, parameter shape).

        Returns:
            A distribution with batch shape (*,) and the event shape.
        """

    @abstractmethod
    def bias(self, mean: Tensor) -> Tensor:
        """Returns the parameters with which p(x) has about the mean of the data, with the parameter shape.

        Arguments:
            mean: The mean of the training data, with the event shape.
        """

    @property
    def num_parameters(self) -> int:
        """The number of outputs of a network whose outputs are vectors."""
        return math.prod(self.parameter_shape)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """The shape (C', H, W) of the outputs of a network whose outputs are maps."""
        height, width = self.event_shape[-2:]
        return self.num_parameters // (height * width), height, width

    def __call__(self, outputs: Tensor) -> Distribution:
        """Returns p(x | z) from a network's outputs.

        Arguments:
            outputs: The outputs: vectors of shape (*, number of parameters), or maps of shape (*, C', H, W). Where both
                fit, as for one row of pixels with one parameter each, they are maps, but (1, 1, W) is a single vector.

        Raises:
            ValueError: If the outputs have another shape.
        """
        is_vector = outputs.shape[-1:] == (self.num_parameters,)
        is_map = len(self.event_shape) == 3 and outputs.shape[-3:] == self.map_shape
        if is_map and not (is_vector and outputs.dim() == 3):
            return self.distribution(outputs.unflatten(-3, self.parameter_shape[:-2]))
        if is_vector:
            return self.distribution(outputs.unflatten(-1, self.parameter_shape))
        raise ValueError(
            f"The decoder's network must give {self.num_parameters} outputs per datum of shape {self.event_shape}, "
            f"but gave shape {tuple(outputs.shape)}: change its last layer."
        )
