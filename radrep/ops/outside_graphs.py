"""What torch.compile cannot follow, such as kernels on NumPy arrays, kept out of its graphs."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def outside_graphs(function: Function) -> Function:
    """The same function, which a compiled one calls as it is.

    torch.compiler.disable alone would import torch's compiler, two seconds, where nothing compiles.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
