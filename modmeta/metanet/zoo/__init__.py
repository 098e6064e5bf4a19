"""Zoos: thousands of small trained networks, for metanetworks to read."""

from modmeta.metanet.zoo.folders import import_folders as import_folders
from modmeta.metanet.zoo.folders import import_table as import_table
from modmeta.metanet.zoo.specification import GroupSpec as GroupSpec
from modmeta.metanet.zoo.specification import Leaf as Leaf
from modmeta.metanet.zoo.specification import ZooError as ZooError
from modmeta.metanet.zoo.specification import ZooSpec as ZooSpec
from modmeta.metanet.zoo.specification import flatten as flatten
from modmeta.metanet.zoo.specification import leaves_of as leaves_of
from modmeta.metanet.zoo.specification import split_networks as split_networks
from modmeta.metanet.zoo.specification import unflatten as unflatten
from modmeta.metanet.zoo.storage import ZOO_FILE as ZOO_FILE
from modmeta.metanet.zoo.storage import Chunk as Chunk
from modmeta.metanet.zoo.storage import NetworkGroup as NetworkGroup
from modmeta.metanet.zoo.storage import Zoo as Zoo
from modmeta.metanet.zoo.storage import generate_zoo as generate_zoo
from modmeta.metanet.zoo.storage import load_zoo as load_zoo
from modmeta.metanet.zoo.storage import read_spec as read_spec
from modmeta.metanet.zoo.training import TrainedNetworks as TrainedNetworks
from modmeta.metanet.zoo.training import ZooTask as ZooTask
from modmeta.metanet.zoo.training import network_keys as network_keys
from modmeta.metanet.zoo.training import train_networks as train_networks
from modmeta.metanet.zoo.weights import fill as fill
from modmeta.metanet.zoo.weights import read_weights as read_weights
