from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_promptmm.checks import check_float, check_int, check_matrix
from torch_promptmm.nn.functional import (
    checked_masks,
    masked_rows,
    modality_key,
    unit_rows,
)
from torch_promptmm.nn.standard_rows import StandardRows

_BLOCK_SIZE = 2**22  # Elements of a block: 32 MiB in double precision.


class ContentMap(torch.nn.Module):
    r"""An affine map from the content of items to embeddings,

    .. math::
        f(i) = \ell \, (\mathbf{W}^{\top} \mathbf{z}_i + \mathbf{b}), \qquad
        \mathbf{z}_i = \big\Vert_m \sqrt{d_m} \, \frac{\mathbf{D}_m
        (\mathbf{x}^m_i - \mu_m)}{\| \mathbf{D}_m (\mathbf{x}^m_i - \mu_m)
        \|},

    which keeps the means :math:`\mu_m` and the deviations
    :math:`\mathbf{D}_m^{-1}` of the items that it was fitted to, so that
    items that come later are placed as those were. A modality that an item
    lacks is zero in :math:`\mathbf{z}_i`. It is fitted in closed form, by
    :class:`RidgeFit`; nothing of it is trained.

    Args:
        in_channels (dict): The width :math:`d_m` of each modality.
        width (int): The width :math:`w` of an embedding.

    Shapes:
        - **input:** features :math:`(n, d_m)` of modalities, masks
          :math:`(n)` *(optional)*
        - **output:** embeddings :math:`(n, w)`
    """
    bias: Tensor
    level: Tensor

    def __init__(self, in_channels: Mapping[str, int], width: int) -> None:
        super().__init__()
        if not isinstance(in_channels, Mapping) or len(in_channels) == 0:
            raise ValueError(f"'in_channels' must have the width of at least "
                             f"one modality (got {in_channels!r})")
        self.in_channels = {name: check_int('in_channels', value, 1)
                            for name, value in in_channels.items()}
        self.width = check_int('width', width, 1)
        self.parts = torch.nn.ModuleDict({
            modality_key(name): _Part(value, width)
            for name, value in self.in_channels.items()})
        self.register_buffer('bias', torch.zeros(width))
        # A factor of all rows: how high they rise. A calibration sets it.
        self.register_buffer('level', torch.ones(()))

    def config(self) -> dict[str, Any]:
        r"""Returns plain values: :obj:`cls(**config)` has the same
        shapes."""
        return {'in_channels': self.in_channels, 'width': self.width}

    @torch.no_grad()
    def forward(self, features: Mapping[str, Tensor],
                masks: Mapping[str, Tensor] | None = None,
                calibrate: bool = True) -> Tensor:
        r"""Returns the embeddings of items.

        Args:
            features (dict): Features :math:`(n, d_m)` of one or more of the
                modalities, in any floating-point type, on any device.
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(n)`. (default: :obj:`None`)
            calibrate (bool, optional): If :obj:`False`, :math:`\ell` is 1.
                (default: :obj:`True`)
        """
        num_items = self.check(features)
        masks = checked_masks(masks, dict.fromkeys(features, num_items))
        out = self.bias.repeat(num_items, 1)
        for name, x in features.items():
            part = self.parts[modality_key(name)]
            out += part(x, masks.get(name))
        if not bool(out.isfinite().all()):
            raise ValueError("'features' must be finite where an item has "
                             "the modality")
        return out * self.level if calibrate else out

    def check(self, features: Any) -> int:
        r"""Returns the number of items of given features.

        Raises:
            ValueError: If they are not such as the map was fitted to.
        """
        if not isinstance(features, Mapping) or len(features) == 0:
            raise ValueError(f"'features' must map at least one of the "
                             f"modalities {list(self.in_channels)} to a "
                             f"tensor (got {features!r:.80})")
        sizes = {}
        for name, x in features.items():
            if name not in self.in_channels:
                raise ValueError(f"'features' has {name!r}, but the "
                                 f"modalities are {list(self.in_channels)}")
            sizes[name] = check_matrix(f'features[{name!r}]', x,
                                       self.in_channels[name]).size(0)
        if len(set(sizes.values())) > 1:
            raise ValueError(f"'features' must have a row for each item in "
                             f"all modalities (got {sizes} rows)")
        return next(iter(sizes.values()))

    def __repr__(self) -> str:
        widths = ', '.join(f'{k}={v}' for k, v in self.in_channels.items())
        return (f'{self.__class__.__name__}({widths}, width={self.width}, '
                f'level={float(self.level):.3g})')


def new_items(
    content_map: ContentMap | None,
    old_ids: Any,
    features: Mapping[str, Tensor],
    ids: Iterable[Any] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    calibrate: bool = True,
) -> tuple[Tensor, Any]:
    r"""Returns the embeddings of new items, and the raw ids of all.

    Args:
        content_map (ContentMap, optional): The map.
        old_ids (IdMap, optional): The raw ids of the items that are there.
        features (dict): Features :math:`(n, d_m)` of modalities.
        ids (Iterable, optional): The raw ids of the new ones.
            (default: :obj:`None`)
        masks (dict, optional): Where they have a modality.
            (default: :obj:`None`)
        calibrate (bool, optional): See :class:`ContentMap`.
            (default: :obj:`True`)

    Raises:
        ValueError: If there is no map, or ids or features do not fit.
    """
    if content_map is None:
        raise ValueError("There is no map from content to items: fit a "
                         "distiller whose teacher reads content "
                         "('content_map=True')")
    rows = content_map(features, masks, calibrate)
    if old_ids is None:
        if ids is not None:
            raise ValueError("'ids' are raw ids, but the old items have none")
        return rows, None
    given = list(ids or ())
    if len(given) != rows.size(0):
        raise ValueError(f"'ids' must be the raw ids of the {rows.size(0)} "
                         f"new items (got {len(given)})")
    return rows, type(old_ids)([*old_ids, *given])


class _Part(torch.nn.Module):
    r"""One modality's part of the map."""
    mean: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('scale', torch.ones(channels))
        self.register_buffer('weight', torch.zeros(channels, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = (x.to(self.mean) - self.mean) * self.scale
        return unit_rows(masked_rows(x, mask), x.size(1)**0.5) @ self.weight


class _Sums(NamedTuple):
    r"""Weighted sums over items, in double precision."""
    gram: Tensor
    cross: Tensor
    z: Tensor
    row: Tensor
    weight: Tensor

    def add_(self, z: Tensor, rows: Tensor, weight: Tensor) -> None:
        c = weight.view(-1, 1)
        # What is not fitted may be anything, NaN too.
        y = torch.where(c > 0, rows.to(weight.dtype), 0.0)
        weighted = c * z
        self.gram.addmm_(z.t(), weighted)
        self.cross.addmm_(weighted.t(), y)
        self.z.add_(weighted.sum(dim=0))
        self.row.add_((c * y).sum(dim=0))
        self.weight.add_(weight.sum())


class RidgeFit:
    r"""Fits a :class:`ContentMap` to the embeddings of items, by a weighted
    ridge regression with an intercept,

    .. math::
        \min_{\mathbf{W}, \mathbf{b}} \sum_i c_i \left\| \mathbf{e}_i -
        \mathbf{W}^{\top} \mathbf{z}_i - \mathbf{b} \right\|^2 + \lambda
        \bar{c} \, \| \mathbf{W} \|^2,

    where :math:`\bar{c}` is the mean of the weights. It is solved by the
    normal equations in double precision; the features are read once for
    their statistics and once for the sums.

    Args:
        features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
            modality, in any floating-point type, on any device.
        masks (dict, optional): For some modalities, True where the item has
            it :math:`(|\mathcal{I}|)`.
        rows (torch.Tensor): Embeddings :math:`(|\mathcal{I}|, w)`.
        weight (torch.Tensor): The weight :math:`c_i` of each item
            :math:`(|\mathcal{I}|)`, such as the root of its number of
            interactions; with 0 its row is not looked at.
        l2 (float, optional): :math:`\lambda`, above zero.
            (default: :obj:`30.0`)
        held (torch.Tensor, optional): True where an item can be left out
            :math:`(|\mathcal{I}|)`, see :meth:`solve`.
            (default: :obj:`None`)

    Raises:
        ValueError: If there is no modality, the sizes differ, or no item
            has a weight above zero.
    """
    @torch.no_grad()
    def __init__(
        self,
        features: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None,
        rows: Tensor,
        weight: Tensor,
        l2: float = 30.0,
        held: Tensor | None = None,
    ) -> None:
        _check(features, rows, weight)
        self.l2 = check_float('l2', l2, exclusive=True)
        masks = checked_masks(masks, dict.fromkeys(features, rows.size(0)))
        self.dtype, like = rows.dtype, rows.new_empty(0, dtype=torch.double)
        self.standard = {name: StandardRows(x, masks.get(name), like)
                         for name, x in features.items()}
        self.num_items, self.width = rows.shape
        self._mean_weight = float(weight.mean())
        self._parts = [self._sums(like)]
        if held is not None:
            self._parts.append(self._sums(like))
        weight = weight.to(like)
        for block, z in self._blocks():
            if held is None:
                self._parts[0].add_(z, rows[block], weight[block])
                continue
            out = held[block].to(z.device)
            for part, chosen in zip(self._parts, (~out, out), strict=True):
                part.add_(z[chosen], rows[block][chosen],
                          weight[block][chosen])

    @torch.no_grad()
    def solve(self, leave_out: bool = False) -> ContentMap:
        r"""Returns the map, in double precision.

        Args:
            leave_out (bool, optional): Leaves out the items of :obj:`held`.
                (default: :obj:`False`)
        """
        parts = self._parts[:1] if leave_out else self._parts
        gram, cross, z, row, total = (
            sum(x[1:], start=x[0].clone())
            for x in zip(*parts, strict=True))
        z, row = z / total, row / total
        gram.addr_(z, z * total, alpha=-1.0)
        cross.addr_(z, row * total, alpha=-1.0)
        gram.diagonal().add_(self.l2 * self._mean_weight)
        matrix = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
        out = ContentMap({name: part.x.size(1)
                          for name, part in self.standard.items()},
                         self.width).to(gram)
        out.bias.copy_(row - z @ matrix)
        sizes = list(out.in_channels.values())
        for (name, standard), weight in zip(
                self.standard.items(), matrix.split(sizes), strict=True):
            part, statistics = (out.parts[modality_key(name)],
                                standard.statistics)
            assert isinstance(part, _Part) and statistics is not None
            part.mean.copy_(statistics.mean)
            part.scale.copy_(statistics.scale)
            part.weight.copy_(weight)
        return out

    def _sums(self, like: Tensor) -> _Sums:
        num = sum(part.x.size(1) for part in self.standard.values())
        return _Sums(like.new_zeros(num, num),
                     like.new_zeros(num, self.width), like.new_zeros(num),
                     like.new_zeros(self.width), like.new_zeros(()))

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for block in blocks_of(self.standard, self.num_items, self.width):
            yield block, torch.cat([
                part.x.size(1)**0.5 * part(block)
                for part in self.standard.values()
            ], dim=1)


def blocks_of(parts: Mapping[str, Any], num_items: int,
              width: int) -> Iterator[slice]:
    r"""Yields slices of items, whose features take some memory together."""
    channels = sum(getattr(x, 'x', x).size(1) for x in parts.values())
    step = max(1, _BLOCK_SIZE // max(channels, width))
    for start in range(0, num_items, step):
        yield slice(start, start + step)


def _check(features: Mapping[str, Tensor], rows: Tensor,
           weight: Tensor) -> None:
    if not isinstance(features, Mapping) or len(features) == 0:
        raise ValueError(f"'features' must map at least one modality name to "
                         f"its features (got {features!r:.80})")
    num_items = check_matrix('rows', rows).size(0)
    for name, x in features.items():
        if check_matrix(f'features[{name!r}]', x).size(0) != num_items:
            raise ValueError(f"'features[{name!r}]' must have a row for each "
                             f"of the {num_items} rows of 'rows' (got shape "
                             f"{list(x.shape)})")
    if not isinstance(weight, Tensor) or list(weight.shape) != [num_items]:
        raise ValueError(f"'weight' must be a tensor of shape [{num_items}] "
                         f"(got {getattr(weight, 'shape', weight)})")
    if (not bool((weight.isfinite() & (weight >= 0)).all())
            or not bool((weight > 0).any())):
        raise ValueError("'weight' must be finite and not negative, and above "
                         "zero for at least one item")
