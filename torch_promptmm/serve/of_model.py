r"""What a recommender takes of a model. This needs PyG, serving does not."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.data import HeteroData

from torch_promptmm.data import id_maps
from torch_promptmm.data.contract import known_interactions
from torch_promptmm.evaluate import embed_view, read_for
from torch_promptmm.models import as_model


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
    }
