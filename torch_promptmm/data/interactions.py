r"""Graphs of the data contract from arrays."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_choice, check_int, check_mask
from torch_promptmm.data._edges import (
    check_edge_range,
    check_edges,
    union_edges,
    unique_edges,
)
from torch_promptmm.data.contract import (
    DEFAULT_EDGE_TYPE,
    EdgeType,
    check_edge_type,
    warn_identical_splits,
)
from torch_promptmm.data.modalities import (
    MASK_SUFFIX,
    check_feature,
    check_rows,
)

Array = Any  # A numpy array, a torch tensor, or nested lists of ids.


def from_interactions(
    edge_index: Array,
    features: Mapping[str, Array],
    num_users: int | None = None,
    num_items: int | None = None,
    edge_label_index: Array | None = None,
    masks: Mapping[str, Array] | None = None,
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
) -> HeteroData:
    r"""Builds a checked graph of the data contract from arrays.

    Features are held by reference, whatever their precision: no copy is made
    of an array in native byte order, a memory-mapped one included. Duplicate
    interactions are dropped.

    .. code-block:: python

        data = from_interactions(
            edge_index,  # [2, E]: user row, item row
            features={'visual': visual, 'textual': textual},
        )

    Args:
        edge_index (numpy.ndarray or torch.Tensor): The known interactions
            :math:`[2, E]`, user row and item row.
        features (dict): The item features :math:`[I, d_m]` of each modality,
            :class:`numpy.ndarray` or :class:`torch.Tensor`. An empty one
            makes a graph for models that need no features.
        num_users (int, optional): The number of users. If :obj:`None`, it is
            the highest user id plus one. (default: :obj:`None`)
        num_items (int, optional): The number of items. If :obj:`None`, it is
            the number of feature rows. (default: :obj:`None`)
        edge_label_index (numpy.ndarray or torch.Tensor, optional): The
            interactions to be predicted :math:`[2, P]`.
            (default: :obj:`None`)
        masks (dict, optional): For the modalities that some items lack, a
            boolean :math:`[I]` which is :obj:`True` where the item has it.
            (default: :obj:`None`)
        edge_type (tuple, optional): The names of users, relation and items.
            (default: :obj:`("user", "interacts", "item")`)
    """
    index = {'edge_index': edge_index}
    if edge_label_index is not None:
        index['edge_label_index'] = edge_label_index
    data, edges = _build(index, features, num_users, num_items, masks,
                         edge_type)
    for name, value in edges.items():
        data[edge_type][name] = value
    return data


def from_splits(
    train: Array,
    val: Array,
    test: Array,
    features: Mapping[str, Array],
    num_users: int | None = None,
    num_items: int | None = None,
    masks: Mapping[str, Array] | None = None,
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
    known: str = 'train',
) -> tuple[HeteroData, HeteroData, HeteroData]:
    r"""Builds the three graphs of a split dataset over *one* feature storage.

    :obj:`train`, :obj:`val` and :obj:`test` are interactions :math:`[2, E]`,
    user row and item row. The graphs for validation and test have those of
    the training as :obj:`edge_index`, and those to be predicted as
    :obj:`edge_label_index`. With :obj:`known="train+val"` the test graph
    knows of the interactions of the validation as well: they are propagated
    over, and not recommended. The other arguments are those of
    :func:`from_interactions`; the highest ids are those of any split.
    """
    check_choice('known', known, ('train', 'train+val'))
    nodes, edges = _build({'train': train, 'val': val, 'test': test},
                          features, num_users, num_items, masks, edge_type)
    warn_identical_splits(edges['val'], edges['test'])
    edge_index = edges['train']
    out = []
    for name, label_index in edges.items():
        data = copy.copy(nodes)  # Shallow: all three share the features.
        data[edge_type].edge_index = edge_index
        if name != 'train':
            data[edge_type].edge_label_index = label_index
        if name == 'val' and known == 'train+val':
            edge_index = union_edges(edge_index, label_index,
                                     nodes[edge_type[2]].num_nodes)
        out.append(data)
    return out[0], out[1], out[2]


def _to_tensor(value: Any, name: str) -> Tensor:
    r"""Wraps an array without a copy wherever torch can hold it."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"'{name}' must be a numpy array or a torch tensor "
                        f"(got {type(value).__name__})")
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder('='))
    if any(stride < 0 for stride in value.strides):
        value = np.ascontiguousarray(value)
    try:
        with warnings.catch_warnings():  # Read-only: we never write.
            warnings.filterwarnings('ignore', message='.*not writable.*')
            return torch.from_numpy(value)
    except TypeError as error:
        raise TypeError(f"'{name}' must hold numbers that torch knows (got "
                        f"dtype {value.dtype})") from error


def _to_edges(value: Any, name: str) -> Tensor:
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value)
        except ValueError as error:  # Rows of different lengths.
            raise ValueError(f"'{name}' must have the shape [2, E], user row "
                             f"and item row ({error})") from error
    if isinstance(value, np.ndarray) and value.dtype.kind == 'u':
        if value.size > 0 and int(value.max()) >= 2**63:
            raise ValueError(f"'{name}' has the id {value.max()}, which does "
                             f"not fit into 64 bits; renumber the ids")
        value = value.astype(np.int64)
    return check_edges(name, _to_tensor(value, name)).contiguous()


def _build(
    index: dict[str, Array],
    features: Mapping[str, Array],
    num_users: int | None,
    num_items: int | None,
    masks: Mapping[str, Array] | None,
    edge_type: EdgeType,
) -> tuple[HeteroData, dict[str, Tensor]]:
    r"""The checked nodes of a graph with the features of the items, and its
    checked interactions, of which the first ones must not be empty."""
    check_edge_type(edge_type)
    edges = {name: _to_edges(value, name) for name, value in index.items()}
    first = next(iter(edges))
    if edges[first].size(1) == 0:
        raise ValueError(f"'{first}' is empty (got shape [2, 0]); a graph "
                         f"needs at least one interaction")

    tensors = _to_features(features)
    num_rows = {name: value.size(0) for name, value in tensors.items()}
    if num_items is None and len(set(num_rows.values())) > 1:
        raise ValueError(f"'features' must have one row an item in every "
                         f"modality (got the rows {num_rows})")
    highest = torch.cat(list(edges.values()), dim=1).amax(dim=1).tolist()
    if num_users is None:
        num_users = highest[0] + 1
    if num_items is None:
        num_items = next(iter(num_rows.values()), highest[1] + 1)
    num_users = check_int('num_users', num_users, 1)
    num_items = check_int('num_items', num_items, 1)
    for name, value in edges.items():
        check_edge_range(name, value, num_users, num_items)
        edges[name] = unique_edges(value, num_items)

    data = HeteroData()
    user, item = data[edge_type[0]], data[edge_type[2]]
    user.num_nodes, item.num_nodes = num_users, num_items
    for name, value in tensors.items():
        check_rows(value, f"features['{name}']", num_items)
        item[name] = value
    for name, value in (masks or {}).items():
        if name not in tensors:
            raise ValueError(f"'masks' names the modality '{name}', which "
                             f"'features' does not have; it has "
                             f"{list(tensors)}")
        path = f"masks['{name}']"
        item[name + MASK_SUFFIX] = check_mask(path, _to_tensor(value, path),
                                              num_items, some=True)
    return data, edges


def _to_features(features: Any) -> dict[str, Tensor]:
    if not isinstance(features, Mapping):
        fix = ('for a graph without features, pass an empty one'
               if features is None else "pass {'visual': features}")
        raise TypeError(f"'features' must be a dictionary from the name of a "
                        f"modality to its matrix (got "
                        f"{type(features).__name__}); {fix}")
    out = {}
    for name, value in features.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"'features' must have the names of modalities "
                            f"as keys (got {name!r})")
        if name == 'num_nodes' or name.endswith(MASK_SUFFIX):
            raise ValueError(f"'features' cannot call a modality '{name}', "
                             f"which has another meaning; masks go into "
                             f"'masks'")
        path = f"features['{name}']"
        out[name] = check_feature(_to_tensor(value, path), path)
    return out
