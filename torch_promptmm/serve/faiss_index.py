r"""Approximate search by faiss."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_promptmm.checks import check_choice, check_int
from torch_promptmm.serve.search import LeftOut

#: What is searched: all items; those along a graph; those in some of the
#: cells that the items are sorted into.
INDICES = ('faiss-flat', 'faiss-hnsw', 'faiss-ivf')
# Of users who are denied more items than this, all items are compared.
_MOST = 2048
_TRAINED_ON = 64  # Items a cell that k-means looks at.


class FaissIndex:
    r"""Finds the items of the largest dot products by `faiss
    <https://faiss.ai>`_ (:obj:`pip install faiss-cpu`).

    What is left out never makes an answer short: for each user as many more
    items are asked for as there are to leave out, and for those with very
    many of these, or with less than :math:`k` items found, all items are
    compared. Others do not wait for them.

    Args:
        item_emb (torch.Tensor): The items' vectors :math:`(I, d)`.
        kind (str): :obj:`"faiss-flat"`, which is exact,
            :obj:`"faiss-hnsw"` or :obj:`"faiss-ivf"`.
        num_links (int, optional): hnsw: the links of an item.
            (default: :obj:`32`)
        ef_construction (int, optional): hnsw: how far is looked for them.
            (default: :obj:`80`)
        ef_search (int, optional): hnsw: how far is looked for an answer.
            (default: :obj:`96`)
        num_cells (int, optional): ivf: the cells.
            (default: :math:`4 \sqrt{I}`)
        num_probes (int, optional): ivf: how many of them are looked through.
            (default: a 64th)
    """
    def __init__(
        self,
        item_emb: Tensor,
        kind: str,
        num_links: int = 32,
        ef_construction: int = 80,
        ef_search: int = 96,
        num_cells: int | None = None,
        num_probes: int | None = None,
    ) -> None:
        self.kind = check_choice('index', kind, (None, *INDICES))
        self.options = {
            'num_links': num_links,
            'ef_construction': ef_construction,
            'ef_search': ef_search,
            'num_cells': num_cells,
            'num_probes': num_probes,
        }
        faiss = _faiss()
        table = np.ascontiguousarray(item_emb.detach().float().cpu().numpy())
        self.num_items, channels = table.shape
        self.ef_search = check_int('ef_search', ef_search, 1)
        if num_cells is None:
            num_cells = max(1, int(4 * self.num_items**0.5))
        # A cell needs items for its centre.
        num_cells = min(check_int('num_cells', num_cells, 1),
                        max(1, self.num_items // 39))
        self.num_probes = min(num_cells, check_int(
            'num_probes', max(1, num_cells // 64)
            if num_probes is None else num_probes, 1))
        metric = faiss.METRIC_INNER_PRODUCT
        if kind == 'faiss-flat':
            self.index = faiss.IndexFlatIP(channels)
        elif kind == 'faiss-hnsw':
            self.index = faiss.IndexHNSWFlat(
                channels, check_int('num_links', num_links, 2), metric)
            self.index.hnsw.efConstruction = check_int('ef_construction',
                                                       ef_construction, 1)
        else:
            self.index = faiss.IndexIVFFlat(faiss.IndexFlatIP(channels),
                                            channels, num_cells, metric)
            self.index.cp.max_points_per_centroid = _TRAINED_ON
            self.index.train(table)
        self.index.add(table)

    def search(
        self,
        query: Tensor,
        k: int,
        left_out: LeftOut,
        exact: Callable[[Tensor, LeftOut], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        r"""Returns items :math:`(B, k)`, best first, and scores; see
        :func:`~torch_promptmm.serve.search.search`.

        Args:
            query (torch.Tensor): The users' vectors :math:`(B, d)`.
            k (int): How many items.
            left_out (LeftOut): What they are not to get.
            exact (callable): How those are searched for whom the index does
                not serve.
        """
        items = torch.full((query.size(0), k), -1, device=query.device)
        scores = query.new_full(items.shape, float('-inf'))
        wanted = left_out.counts() + k
        # Those who need as many, by powers of two, are searched together.
        size = 2 ** (wanted - k).clamp(min=1).double().log2().ceil().long() + k
        short = wanted > min(k + _MOST, self.num_items)
        for num in size[~short].unique().tolist():
            rows = ((size == num) & ~short).nonzero().view(-1)
            found, value, enough = self._search(
                query[rows], min(num, self.num_items), k, left_out.of(rows))
            items[rows], scores[rows] = found, value
            short[rows] = ~enough
        rows = short.nonzero().view(-1)
        if rows.numel() > 0:
            items[rows], scores[rows] = exact(query[rows], left_out.of(rows))
        return items, scores

    def _search(self, query: Tensor, num: int, k: int,
                left_out: LeftOut) -> tuple[Tensor, Tensor, Tensor]:
        r"""The best of :obj:`num` items found, and who has enough of
        them."""
        value, found = self.index.search(
            np.ascontiguousarray(query.float().cpu().numpy()), num,
            params=self._parameters(num))
        item = torch.from_numpy(found).to(query.device)
        score = torch.from_numpy(value).to(query)
        wrong = left_out.has(item)
        # Those that may stay first, in their order.
        order = wrong.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        enough = (~wrong).sum(dim=1) >= k
        return item.gather(1, order), score.gather(1, order), enough

    def _parameters(self, num: int) -> Any:
        faiss = _faiss()
        if self.kind == 'faiss-hnsw':
            return faiss.SearchParametersHNSW(
                efSearch=max(self.ef_search, num))
        if self.kind == 'faiss-ivf':
            return faiss.SearchParametersIVF(nprobe=self.num_probes)
        return None

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.num_items}, {self.kind!r})'


def _faiss() -> Any:
    try:
        return import_module('faiss')
    except ImportError as error:
        raise ImportError("'index' needs faiss: pip install faiss-cpu (or "
                          "torch_promptmm[faiss]); index=None compares all "
                          "items") from error
