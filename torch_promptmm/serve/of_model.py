r"""What a recommender takes of a model. This needs PyG, serving does not."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.data import HeteroData

from torch_promptmm.data import id_maps
from torch_promptmm.data.contract import known_interactions
from torch_promptmm.distill.distillation import Distillation
from torch_promptmm.evaluate import embed_view, read_for
from torch_promptmm.models import RankingModel, as_model
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.serve.fold_in import FoldIn


def parts_of_model(
    model: torch.nn.Module,
    data: HeteroData,
    score: str | None,
    edge_type: tuple[str, str, str] | None,
) -> dict[str, Any]:
    r"""Returns the arguments of a
    :class:`~torch_promptmm.serve.Recommender`, see its
    :meth:`~torch_promptmm.serve.Recommender.from_model`."""
    ranked = as_model(model)
    view = read_for(ranked, data, edge_type)
    user, item = embed_view(ranked, view, score)
    return {
        'user_emb': user,
        'item_emb': item,
        'known': known_interactions(view),
        'ids': id_maps(data, view.edge_type),
        'fold': _fold(ranked, UserItemGraph(view.edge_index, view.num_users,
                                            view.num_items),
                      score or ranked.score or 'dot'),
    }


def parts_of_training(training: Distillation, model: str,
                      folds: bool = True) -> dict[str, Any]:
    r"""The same, of a model of a distiller; without what new users are made
    of, which takes another propagation, if nobody asks for them."""
    seen = training.require_seen()
    user, item = training.embeddings(model)
    fold = None
    if folds and (model == 'student' or training.saved is None):
        module = (training.parts.student if model == 'student'
                  else training.teacher)
        fold = _fold(module, seen.graph, training.score(model))
    return {
        'user_emb': user,
        'item_emb': item,
        'known': seen.known,
        'ids': seen.ids,
        'fold': fold,
        'content_map': (training.growth.content_map if model == 'student'
                        else None),
    }


def _fold(model: RankingModel, graph: UserItemGraph,
          score: str) -> FoldIn | None:
    device = next((x.device for x in model.parameters()), None)
    rows = model.fold_rows(graph.to(device))
    if rows is None:
        return None
    return FoldIn(rows, torch.tensor(score == 'cosine', device=rows.device))
