"""The table of rules: which function turns a call of a layer into a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from modmeta.metanet.parameter_graphs.builder import Builder
from modmeta.metanet.parameter_graphs.errors import UnsupportedLayerError
from modmeta.metanet.parameter_graphs.signals import Signal, Table


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of a layer, as its rule sees it.

    Attributes:
      module: The module; its fields are the layer's settings.
      path: Path of the module, "MLP/Dense_0" without the root.
      parameters: Name -> `Table` of parameter indices in the shape of the leaf;
        nested for submodules.
      statistics: The same for the collection "batch_stats".
      args: Positional arguments of the call, arrays replaced by `Signal` or `Table`.
      kwargs: Keyword arguments, likewise.
      outputs: Tree of `jax.ShapeDtypeStruct` of what the call returned.
    """

    module: nn.Module
    path: str
    parameters: dict[str, Any]
    statistics: dict[str, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    @property
    def signal(self) -> Signal:
        """The first argument; UnsupportedLayerError unless it depends on the input."""
        value = self.args[0] if self.args else next(iter(self.kwargs.values()))
        if isinstance(value, Table):
            raise UnsupportedLayerError(
                f"{type(self.module).__name__} of a constant or a parameter"
            )
        return value

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """An argument by name or position; `None` counts as not given."""
        value = self.kwargs.get(name)
        if value is None and len(self.args) > position:
            value = self.args[position]
        return default if value is None else value


Rule = Callable[[Builder, LayerCall], Any]


class Registration(NamedTuple):
    """A rule and what it stands for.

    Attributes:
      rule: The rule.
      layer: The class that it was registered for.
      defaults: Names of fields that the rule takes to have their default.
      passes_axes: Whether the rule passes listed axes on.
    """

    rule: Rule
    layer: type[nn.Module]
    defaults: tuple[str, ...] = ()
    passes_axes: bool = False

    def plain(self, module: nn.Module) -> nn.Module:
        """A module of the class itself, outside of any model, with given fields."""
        fields = {field.name: field for field in dataclasses.fields(self.layer)}
        defaults = {
            name: fields[name].default for name in self.defaults if name in fields
        }
        if type(module) is self.layer:
            return module.clone(parent=None, **defaults)
        values = {
            name: getattr(module, name)
            for name, field in fields.items()
            if field.init and name not in ("parent", "name")
        }
        return self.layer(**(values | defaults), parent=None)


_RULES: dict[type[nn.Module], Registration] = {}


def register_rule(
    *layers: type[nn.Module],
    defaults: Sequence[str] = (),
    passes_axes: bool = False,
) -> Callable[[Rule], Rule]:
    """Registers the rule of one or more layers; the last registration counts.

    The decorated function gets a `Builder` and a `LayerCall` and returns a `Signal`,
    or a tree of them shaped like the output of the layer. It raises
    `UnsupportedLayerError` for settings it does not cover.

    The rule is used for calls that compute what the class computes, operation by
    operation. A call that a subclass, a hook or one of `defaults` made something else
    of is read by its operations, as if there was no rule.

    Args:
      *layers: Module classes. A subclass that keeps `__call__` has the same rule.
      defaults: Names of fields that the rule takes to have their default, such as a
        function that replaces a product.
      passes_axes: Whether the rule takes signals with listed axes
        (`Builder.listed`); others get a unit per place instead.
    """

    def register(rule: Rule) -> Rule:
        for layer in layers:
            _RULES[layer] = Registration(rule, layer, tuple(defaults), passes_axes)
        return rule

    return register


def unregister_rule(*layers: type[nn.Module]) -> None:
    """Forgets the rules of layers, whose bases' rules count again.

    Args:
      *layers: Module classes that have a rule of their own.
    """
    for layer in layers:
        del _RULES[layer]


def find_rule(layer: type[nn.Module]) -> Registration | None:
    """The rule of a module class, or None."""
    for base in layer.__mro__:
        if base in _RULES and base.__call__ is layer.__call__:
            return _RULES[base]
    return None
