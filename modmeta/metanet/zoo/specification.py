"""What a zoo of trained networks is: groups, their arrays, splits by network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from modmeta.metanet.parameter_graphs.leaves import path_names

ZOO_FORMAT = "modmeta.zoo"
ZOO_VERSION = 1


class ZooError(ValueError):
    """A zoo that cannot be used: names the file, the finding, the need."""


class Leaf(NamedTuple):
    """One array of the variables of a network.

    Attributes:
      path: Names down to the array, joined by slashes.
      shape: Its shape.
    """

    path: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GroupSpec:
    """Networks of one shape.

    Attributes:
      name: Name of letters, digits, "_" and ".", distinct from that of other groups.
      config: What the networks have in common, anything that JSON can hold.
      num_networks: How many there are.
      leaves: Arrays of the variables of one network, in the order of storage.
    """

    name: str
    config: Mapping[str, Any]
    num_networks: int
    leaves: tuple[Leaf, ...]

    @property
    def num_parameters(self) -> int:
        """Numbers in the variables of one network, statistics included."""
        return sum(math.prod(leaf.shape) for leaf in self.leaves)


@dataclasses.dataclass(frozen=True)
class ZooSpec:
    """What a zoo is before anything is trained.

    Attributes:
      config: Full configuration of the generator, anything that JSON can hold.
      groups: Its groups. Networks are numbered through all groups in this order.
      splits: Numbers of the networks of every split, by name; see `split_networks`.
      chunk_size: Networks per file.
    """

    config: Mapping[str, Any]
    groups: tuple[GroupSpec, ...]
    splits: Mapping[str, Sequence[int]]
    chunk_size: int

    def __post_init__(self) -> None:
        """Checks the specification."""
        if self.chunk_size < 1:
            raise ZooError(f"chunk_size: found {self.chunk_size}, expected at least 1")
        names = [group.name for group in self.groups]
        if not names or len(set(names)) != len(names):
            raise ZooError(f"groups: found {names}, expected one or more, distinct")
        for group in self.groups:
            if not re.fullmatch(r"[A-Za-z0-9_.]+", group.name):
                raise ZooError(
                    f"group name: found {group.name!r}, expected letters, digits, "
                    "'_' and '.'"
                )
            if group.num_networks < 1:
                raise ZooError(
                    f"group {group.name}: found {group.num_networks} networks, "
                    "expected at least one"
                )
        total = sum(group.num_networks for group in self.groups)
        owner: dict[int, str] = {}
        for split, members in self.splits.items():
            for number in members:
                if not 0 <= number < total:
                    raise ZooError(
                        f"split {split!r}: found network {number}, expected 0 to "
                        f"{total - 1}"
                    )
                if number in owner:
                    raise ZooError(
                        f"split {split!r}: found network {number}, which is in split "
                        f"{owner[number]!r} already, expected every network once"
                    )
                owner[number] = split

    @property
    def offsets(self) -> tuple[int, ...]:
        """Number of the first network of every group."""
        sizes = [group.num_networks for group in self.groups]
        return tuple(sum(sizes[:index]) for index in range(len(sizes)))

    @functools.cached_property
    def digest(self) -> str:
        """Tells zoos apart: a hash of everything that `zoo.json` holds."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What `zoo.json` holds; `from_json` reads it back."""
        described = {
            "format": ZOO_FORMAT,
            "version": ZOO_VERSION,
            **dataclasses.asdict(self),
            "splits": {name: list(members) for name, members in self.splits.items()},
        }
        # Tuples become lists here as they would in a file.
        return json.loads(json.dumps(described, allow_nan=False))

    @classmethod
    def from_json(cls, found: Any) -> ZooSpec:
        """Reads what `to_json` gives.

        Raises:
          ZooError: If something else is found, or a later version.
        """
        try:
            if found["format"] != ZOO_FORMAT or found["version"] > ZOO_VERSION:
                raise ZooError(
                    f"found format {found['format']!r} version {found['version']}, "
                    f"expected {ZOO_FORMAT!r} version {ZOO_VERSION} or earlier"
                )
            groups = tuple(
                GroupSpec(
                    name=group["name"],
                    config=group["config"],
                    num_networks=group["num_networks"],
                    leaves=tuple(
                        Leaf(path, tuple(shape)) for path, shape in group["leaves"]
                    ),
                )
                for group in found["groups"]
            )
            return cls(found["config"], groups, found["splits"], found["chunk_size"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ZooError(f"found no zoo ({error!r}), expected one") from error


def leaves_of(variables: Any) -> tuple[Leaf, ...]:
    """Describes variables, nested dicts of arrays or of their shapes.

    Raises:
      ZooError: If there is none, or something that is no array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    for path, leaf in leaves:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            name = "/".join(path_names(path)) or "variables"
            raise ZooError(
                f"{name}: found a {type(leaf).__name__}, expected an array or its shape"
            )
    if not leaves:
        raise ZooError("variables: found no arrays, expected those of one network")
    return tuple(
        Leaf("/".join(path_names(path)), tuple(leaf.shape)) for path, leaf in leaves
    )


def flatten(variables: Any) -> np.ndarray:
    """Sets variables with leaves `[n, ...]` as rows `[n, P]`, in JAX's leaf order."""
    leaves = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(variables)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def unflatten(leaves: Sequence[Leaf], parameters: Any) -> dict[str, Any]:
    """Turns rows `[n, P]`, NumPy or JAX, back into variables with leaves `[n, ...]`."""
    variables: dict[str, Any] = {}
    first = 0
    for leaf in leaves:
        *parents, last = leaf.path.split("/")
        owner = variables
        for parent in parents:
            owner = owner.setdefault(parent, {})
        size = math.prod(leaf.shape)
        rows = parameters[:, first : first + size]
        owner[last] = rows.reshape(len(rows), *leaf.shape)
        first += size
    return variables


def split_networks(
    seed: int, num_networks: int, sizes: Mapping[str, int]
) -> dict[str, list[int]]:
    """Deals networks to splits at random.

    Args:
      seed: Seed of the order.
      num_networks: Networks of the zoo, all groups together.
      sizes: How many networks every split gets, by name.

    Returns:
      Numbers of the networks of every split, increasing.

    Raises:
      ZooError: If a size is negative, or the sizes exceed the number of networks.
    """
    if min(sizes.values()) < 0 or sum(sizes.values()) > num_networks:
        raise ZooError(
            f"splits: found sizes {dict(sizes)}, expected at most {num_networks} "
            "networks in all, and none below zero"
        )
    order = np.random.default_rng(seed).permutation(num_networks)
    splits, first = {}, 0
    for name, size in sizes.items():
        splits[name] = sorted(order[first : first + size].tolist())
        first += size
    return splits
