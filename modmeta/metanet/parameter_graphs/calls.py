"""How a model is run on variables, whatever framework it is of."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import flax.linen as nn


def run(model: Any, variables: Any, *inputs: Any, **options: Any) -> Any:
    """Outputs of a model.

    Args:
      model: A module of Linen; one of NNX, whose settings count and whose own arrays do
        not; or any function `model(variables, *inputs)`.
      variables: Its variables; parameters alone do for a module of Linen that has no
        other collection. The state of a module of NNX, or its pure dict.
      *inputs: Inputs of the model.
      **options: Keyword arguments of the model.
    """
    if isinstance(model, nn.Module):
        tree = {"params": variables} if is_bare(variables) else variables
        return model.apply(tree, *inputs, **options)
    # Whoever has such a module has imported it already; the import takes a while.
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        if isinstance(variables, Mapping) and not isinstance(variables, nnx.State):
            variables = nnx.State(dict(variables))
        if not isinstance(variables, nnx.State):
            raise TypeError(
                f"variables: found {type(variables).__name__}, expected the state of a "
                "module of NNX, nnx.state(model), or its pure dict"
            )
        return nnx.merge(nnx.graphdef(model), variables)(*inputs, **options)
    return model(variables, *inputs, **options)


def is_bare(variables: Any) -> bool:
    """True if variables came as parameters alone, without collections."""
    if isinstance(variables, dict) or hasattr(variables, "keys"):
        return bool(variables) and not {"params", "batch_stats"} & set(variables)
    return True
