r"""The data contract: reads and checks a graph of users and items."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_int, check_mask
from torch_promptmm.data._edges import (
    EdgeType,
    check_edge_range,
    check_edges,
    difference_edges,
    stored_edges,
    union_edges,
    unique_edges,
)
from torch_promptmm.data.modalities import (
    MASK_SUFFIX,
    check_feature,
    check_rows,
    find_modalities,
)

DEFAULT_EDGE_TYPE: EdgeType = ('user', 'interacts', 'item')
SPLIT_HINT = ("RandomLinkSplit(..., edge_types=[{edge_type}], "
              "split_labels=False, key='edge_label', "
              "neg_sampling_ratio=0.0, add_negative_train_samples=False)")


@dataclass(frozen=True, eq=False)
class InteractionData:
    r"""A graph of the data contract, checked and in plain form.

    Args:
        num_users (int): The number of users :math:`U`.
        num_items (int): The number of items :math:`I`.
        edge_index (torch.Tensor): The known interactions :math:`[2, E]`,
            int64, sorted by (user, item), each one once.
        label_index (torch.Tensor, optional): The positives :math:`[2, P]` of
            :obj:`edge_label_index`, if the graph has them, in the same form.
        features (dict): The features :math:`[I, d_m]` of each modality, by
            reference.
        masks (dict): The masks :math:`[I]` of the modalities that have one.
        edge_type (tuple): Where the interactions were found.
    """
    num_users: int
    num_items: int
    edge_index: Tensor
    label_index: Tensor | None
    features: dict[str, Tensor]
    masks: dict[str, Tensor]
    edge_type: EdgeType


def read_graph(
    data: HeteroData,
    edge_type: EdgeType | None = None,
    modalities: Sequence[str] | None = None,
    *,
    need_features: bool = False,
    check_finite: bool = True,
) -> InteractionData:
    r"""Reads and checks a graph of the data contract. Neither the graph nor
    its features are changed or copied.

    The interactions are read from :obj:`edge_index`, or else, after
    :class:`~torch_geometric.transforms.ToSparseTensor`, from :obj:`adj_t`.

    Args:
        data (HeteroData): Users and items with their interactions.
        edge_type (tuple, optional): The edge type of the
            interactions, from users to items. If :obj:`None`, it is
            :obj:`("user", "interacts", "item")`, or else the only edge type
            there is. (default: :obj:`None`)
        modalities (list of str, optional): The attributes of the items that are
            modalities. If :obj:`None`, these are all two-dimensional
            floating-point attributes. (default: :obj:`None`)
        need_features (bool, optional): If set to :obj:`True`, a graph without
            any modality is an error. (default: :obj:`False`)
        check_finite (bool, optional): If set to :obj:`False`, features are
            not searched for NaN and infinite entries.
            (default: :obj:`True`)

    Raises:
        TypeError: If something is of another type than the contract's.
        ValueError: If sizes, ids or values contradict each other.
    """
    edge_type = find_edge_type(data, edge_type)
    user, _, item = edge_type

    features = _read_features(data, item, modalities, need_features)
    num_users = _num_nodes(data, user, None)
    num_items = _num_nodes(data, item, features)

    masks = {}
    for name, value in features.items():
        path = f"data['{item}'].{name}"
        check_rows(value, path, num_items, check_finite)
        if (mask := data[item].get(name + MASK_SUFFIX)) is not None:
            masks[name] = check_mask(path + MASK_SUFFIX, mask, num_items,
                                     some=True)

    name, edge_index = stored_edges(data, edge_type, (num_users, num_items))
    check_edge_range(name, edge_index, num_users, num_items)
    if edge_index.size(1) == 0:
        raise ValueError(f"'{name}' is empty; a graph needs at least one "
                         f"interaction")
    return InteractionData(
        num_users=num_users,
        num_items=num_items,
        edge_index=unique_edges(edge_index, num_items),
        label_index=_read_labels(data, edge_type, num_users, num_items),
        features=features,
        masks=masks,
        edge_type=edge_type,
    )


def supervision(graph: InteractionData) -> Tensor:
    r"""The interactions to train on :math:`[2, P]`: the positives of
    :obj:`edge_label_index` where there are any labels, else the known
    ones."""
    if graph.label_index is None:
        return graph.edge_index
    if graph.label_index.size(1) == 0:
        raise ValueError("'edge_label_index' of the training graph holds no "
                         "positive interaction; delete it to train on "
                         "'edge_index'")
    return graph.label_index


def known_interactions(graph: InteractionData) -> Tensor:
    r"""What the users of a *training* graph are known to have
    :math:`[2, N]`, sorted: the union of :obj:`edge_index` and the positives
    of :obj:`edge_label_index`. None of it is a negative, or recommended."""
    if graph.label_index is None:
        return graph.edge_index
    return union_edges(graph.edge_index, graph.label_index, graph.num_items)


def held_out(graph: InteractionData) -> Tensor:
    r"""The positives to be predicted :math:`[2, N]`, sorted. Those which are
    known already can never be ranked: they are left out with a warning.

    Raises:
        ValueError: If there is nothing to be predicted.
    """
    if graph.label_index is None or graph.label_index.size(1) == 0:
        found = 'no' if graph.label_index is None else 'an empty'
        raise ValueError(
            f"'data' has {found} 'edge_label_index' for {graph.edge_type}, "
            f"so that there is nothing to be predicted; pass "
            f"edge_label_index= to from_interactions, or split the data with "
            f"{SPLIT_HINT.format(edge_type=graph.edge_type)}")
    index = difference_edges(graph.label_index, graph.edge_index,
                             graph.num_items)
    num_known = graph.label_index.size(1) - index.size(1)
    if index.size(1) == 0:
        raise ValueError(f"All {num_known} positives in 'edge_label_index' "
                         f"are in 'edge_index' too, so that none is left to "
                         f"be predicted; is this the training graph?")
    if num_known > 0:
        warnings.warn(
            f"{num_known} of {graph.label_index.size(1)} positives in "
            f"'edge_label_index' are in 'edge_index' too; they are left out",
            stacklevel=2)
    return index


def check_same_entities(
    a: InteractionData,
    b: InteractionData,
    names: tuple[str, str] = ('train_data', 'val_data'),
) -> None:
    r"""Checks that two graphs, called :obj:`names` in the message, are over
    the same users and items."""
    for kind in ['users', 'items']:
        x, y = getattr(a, f'num_{kind}'), getattr(b, f'num_{kind}')
        if x != y:
            raise ValueError(
                f"'{names[0]}' has {x} {kind} but '{names[1]}' has {y}; the "
                f"splits of a dataset must number the same {kind}, so set "
                f"num_{kind} when you build them")


def warn_identical_splits(val: Tensor | None, test: Tensor | None) -> None:
    r"""Warns if validation and test are the same interactions, sorted, as in
    some published data."""
    if (val is not None and test is not None and val.size(1) > 0
            and torch.equal(val, test)):
        warnings.warn(
            f'Validation and test are the same {val.size(1)} interactions: '
            f'what is picked by the validation fits the test, whose results '
            f'are too good', stacklevel=3)


def check_edge_type(edge_type: Any) -> EdgeType:
    r"""Returns :obj:`edge_type` if it can be one from users to items."""
    if (not isinstance(edge_type, (tuple, list)) or len(edge_type) != 3
            or not all(isinstance(name, str) for name in edge_type)):
        raise TypeError(f"'edge_type' must be a tuple of three names, (user, "
                        f"relation, item) (got {edge_type!r})")
    if edge_type[0] == edge_type[2]:
        raise ValueError(f"'edge_type' must lead from users to items, two "
                         f"different node types (got {edge_type!r})")
    return tuple(edge_type)


def find_edge_type(data: HeteroData, edge_type: Any) -> EdgeType:
    r"""The edge type of the interactions, see :func:`read_graph`."""
    if not isinstance(data, HeteroData):
        raise TypeError(f"'data' must be a torch_geometric.data.HeteroData "
                        f"(got {type(data).__name__}); build one with "
                        f"torch_promptmm.data.from_interactions")
    available = data.edge_types
    if edge_type is not None:
        edge_type = check_edge_type(edge_type)
        if edge_type not in available:
            raise ValueError(f"'edge_type' names {edge_type}, which the data "
                             f"does not have; it has {available}")
        return edge_type
    if DEFAULT_EDGE_TYPE in available:
        return DEFAULT_EDGE_TYPE
    reverse = [(dst, f'rev_{rel}', src) for src, rel, dst in available]
    forward = [x for x in available if x not in reverse]
    if len(forward) != 1:
        raise ValueError(
            f"Cannot tell which edges of 'data' are the interactions (it has "
            f"the edge types {available}); name one with "
            f"edge_type=('user', 'interacts', 'item')")
    return check_edge_type(forward[0])


def _node_attrs(data: HeteroData, kind: str) -> Mapping[str, Any]:
    # Looking up a node type that is not there would create it.
    return data[kind] if kind in data.node_types else {}


def _read_features(data: HeteroData, item: str,
                   modalities: Sequence[str] | None,
                   need_features: bool) -> dict[str, Tensor]:
    attrs = _node_attrs(data, item)
    names = find_modalities(attrs, modalities, f"data['{item}']")
    if need_features and not names:
        raise ValueError(
            f"'data' has no modality, but at least one is needed: set a "
            f"floating-point tensor data['{item}'].<name> of shape "
            f"[num_items, channels] (data['{item}'] has "
            f"{sorted(attrs.keys())}, modalities={modalities})")
    return {name: check_feature(attrs[name], f"data['{item}'].{name}")
            for name in names}


def _num_nodes(data: HeteroData, kind: str,
               features: dict[str, Tensor] | None) -> int:
    attrs = _node_attrs(data, kind)
    path = f"data['{kind}'].num_nodes"
    if 'num_nodes' in attrs:
        value = attrs['num_nodes']
        return check_int(
            path, value.item() if isinstance(value, Tensor) else value, 1)

    tensors = features or {
        name: value for name, value in attrs.items()
        if isinstance(value, Tensor) and value.dim() > 0}
    sizes = {name: value.size(0) for name, value in tensors.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        found = f' (its attributes have the rows {sizes})' if sizes else ''
        raise ValueError(f"'{path}' is missing{found}; set it to the number "
                         f"of nodes, those without an interaction included")
    return next(iter(sizes.values()))


def _read_labels(data: HeteroData, edge_type: EdgeType, num_users: int,
                 num_items: int) -> Tensor | None:
    path = f'data[{edge_type}].edge_label_index'
    store: Mapping[str, Any] = data[edge_type]
    if 'edge_label_index' not in store:
        _check_split_keys(store, edge_type)
        return None

    index = check_edges(path, store['edge_label_index'])
    check_edge_range(path, index, num_users, num_items)
    if 'edge_label' in store:
        label = store['edge_label']
        if not isinstance(label, Tensor):
            raise TypeError(f"'data[{edge_type}].edge_label' must be a "
                            f"tensor (got {type(label).__name__})")
        if label.dim() != 1 or label.size(0) != index.size(1):
            raise ValueError(
                f"'data[{edge_type}].edge_label' must have the shape "
                f"[{index.size(1)}], one label for each column of "
                f"'edge_label_index' (got {list(label.shape)})")
        index = index[:, label > 0]
    return unique_edges(index, num_items)


def _check_split_keys(store: Mapping[str, Any], edge_type: EdgeType) -> None:
    # `RandomLinkSplit` writes both `key` and `key_index`.
    for name in store:
        key = name[:-len('_index')]
        if name.endswith('_index') and name != 'edge_index' and key in store:
            raise ValueError(
                f"'data[{edge_type}]' has its held-out interactions under "
                f"'{name}' instead of 'edge_label_index'; split the data "
                f"with {SPLIT_HINT.format(edge_type=edge_type)}")
