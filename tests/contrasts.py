"""What the tests of contrastive models share: a toy graph in which some nodes
have no edge, its features, and a batch that is made by hand.
"""

from __future__ import annotations

import numpy as np
import reference
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.loader import Batch
from torch_promptmm.models import RankingModel, embed
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import fit

U, I = 4, 5
EDGES = torch.tensor([[0, 0, 1, 3, 3, 3], [0, 1, 1, 0, 2, 3]])  # Not u2, i4.
WIDTHS = {'visual': 6, 'textual': 3}
MASK = torch.tensor([1, 1, 0, 1, 1]).bool()  # Of the second modality.
GRAPH = UserItemGraph(EDGES, U, I, dtype=torch.double)
BATCH = Batch(
    user=torch.tensor([0, 3, 0]), positive=torch.tensor([0, 2, 1]),
    negative=torch.tensor([[2, 3], [1, 1], [3, 2]]),
    negative_mask=torch.tensor([[1, 1], [1, 0], [1, 1]]).bool(),
    shared=torch.tensor([1, 3, 2]),
    shared_mask=torch.tensor([[0, 1, 1], [1, 0, 0], [0, 1, 1]]).bool(),
    item=torch.empty(0).long())
# As a training step asks for them: positives, own negatives, shared ones.
ITEMS = torch.tensor([0, 2, 1, 2, 1, 3, 3, 1, 2, 1, 3, 2])


def features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: 3 + 2 * torch.randn(I, width, generator=generator)
            for name, width in WIDTHS.items()}


def make(cls: type[RankingModel], **kwargs) -> RankingModel:
    """A model in double precision, whose weights are all random."""
    torch.manual_seed(1)
    model = cls(U, I, WIDTHS, 4, **kwargs).double()
    model.set_features(features(), {'textual': MASK})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def unit_features(standardize: bool = True) -> dict[str, np.ndarray]:
    out = {}
    for name, x in features().items():
        mask = MASK.numpy() if name == 'textual' else np.ones(I, bool)
        array = (reference.standardise(x.numpy(), mask) if standardize else
                 x.double().numpy() * mask[:, None])
        out[name] = reference.unit_rows(array)
    return out


def array(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


def linear(module: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ array(module.weight).T + array(module.bias)


def light_gcn(user: np.ndarray, item: np.ndarray,
              num_layers: int) -> tuple[np.ndarray, np.ndarray]:
    matrix = reference.adjacency(EDGES.numpy(), U, I)
    out = reference.polynomial(matrix, np.concatenate([user, item]),
                               [1 / (num_layers + 1)] * (num_layers + 1))
    return out[:U], out[U:]


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def planted(seed: int = 0) -> tuple[HeteroData, HeteroData, HeteroData]:
    """Data whose features say much of the tastes, and whose test is partly of
    items that no one knows.
    """
    return tuple(SyntheticMultimodal(
        num_users=300, num_items=200, num_interactions=3600,
        features={'visual': 24, 'textual': 16}, informative=0.6,
        cold_fraction=0.15, seed=seed))


def shuffled(data: HeteroData) -> HeteroData:
    """The same, with the features of other items."""
    data = data.clone()
    perm = torch.randperm(data['item'].num_nodes,
                          generator=torch.Generator().manual_seed(9))
    for name in ('visual', 'textual'):
        data['item'][name] = data['item'][name][perm]
    return data


def planted_recall(cls: type[RankingModel], data: HeteroData, val: HeteroData,
                   test: HeteroData, **kwargs) -> tuple[float, float]:
    """Recall@20 of a model that is trained on planted data, over all items,
    and recall@5 over those without an interaction alone.
    """
    model = cls.from_data(data, hidden_channels=16, seed=0,
                          **kwargs.pop('build', {}))
    fit(model, data, val, seed=0, progress=False, **kwargs)
    edges = data['user', 'interacts', 'item'].edge_index
    held = test['user', 'interacts', 'item'].edge_label_index
    size = data['user'].num_nodes, data['item'].num_nodes
    user, item = embed(model, UserItemGraph(edges, *size), model.score)
    cold = torch.ones(size[1], dtype=torch.bool)
    cold[edges[1]] = False
    number = cold.cumsum(0) - 1
    wanted = held[:, cold[held[1]]]
    wanted = torch.stack([wanted[0], number[wanted[1]]])
    return (evaluate_embeddings(user, item, held, edges, 20)['recall@20'],
            evaluate_embeddings(user, item[cold], wanted, k=5)['recall@5'])

