r"""The protocol of a model, which training, evaluation, distillation and
serving rely on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import Adj

from torch_promptmm.data import InteractionData, read_graph
from torch_promptmm.loader import Batch, BatchSpec
from torch_promptmm.loss import as_scored
from torch_promptmm.nn.graph import UserItemGraph
from torch_promptmm.nn.item_features import ItemFeatures
from torch_promptmm.nn.prompt import SoftPrompt
from torch_promptmm.seeding import seeded

Pair = tuple[Tensor, Tensor]
Model = TypeVar('Model', bound='RankingModel')


class _Output(NamedTuple):
    user: Tensor
    item: Tensor
    modalities: dict[str, Pair]


class ModelOutput(_Output):
    r"""What a model yields. It unpacks as :obj:`(user, item, modalities)`.

    Attributes:
        user (torch.Tensor): User embeddings :math:`(|\mathcal{U}|, w)`, or
            the rows that were asked for.
        item (torch.Tensor): Item embeddings :math:`(|\mathcal{I}|, w)`.
        modalities (dict): From the name of a modality to its user and item
            embeddings.
        ego (tuple, optional): The rows that the L2 term of a ranking loss
            falls on, of users and of items; where it is :obj:`None`, these
            are :obj:`user` and :obj:`item`.
    """
    ego: Pair | None = None

    def __new__(cls, user: Tensor, item: Tensor,
                modalities: Mapping[str, Pair] | None = None,
                ego: Pair | None = None) -> ModelOutput:
        out = super().__new__(cls, user, item, dict(modalities or {}))
        out.ego = ego
        return out


class RankingModel(torch.nn.Module):
    r"""The base class of every recommender: users and items of a graph in,
    embeddings out, whose products are the scores.

    A subclass implements :meth:`forward`. All else has a default; what a
    model overrides is what makes it different:

    - :meth:`rows`, to name the rows that the L2 term falls on;
    - :meth:`extra_loss`, for loss terms of its own;
    - :meth:`batch_spec`, for what a batch must hold for them;
    - :meth:`on_epoch_start`, for what changes between epochs.

    Args:
        num_users (int): The number of users :math:`|\mathcal{U}|`.
        num_items (int): The number of items :math:`|\mathcal{I}|`.
        item_features (ItemFeatures, optional): The features of the items,
            for models that read content. (default: :obj:`None`)
    """
    #: The score function that the model needs, such as ``'dot'`` where a
    #: cosine is meaningless; None is any. Training writes it down.
    score: str | None = None
    #: Whether :meth:`from_data` passes the widths of the modalities.
    needs_features = False
    #: What :func:`torch_promptmm.train.fit` takes where nothing is given.
    defaults: Mapping[str, Any] = {}

    def __init__(self, num_users: int, num_items: int,
                 item_features: ItemFeatures | None = None) -> None:
        super().__init__()
        self.num_users, self.num_items = num_users, num_items
        self.item_features = item_features

    @classmethod
    def from_data(
        cls: type[Model],
        data: HeteroData,
        hidden_channels: int = 64,
        seed: int | None = None,
        edge_type: tuple[str, str, str] | None = None,
        modalities: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Model:
        r"""Builds a model from the sizes and features of a training graph.

        Args:
            data (HeteroData): The training graph.
            hidden_channels (int, optional): The width :math:`d` of an
                embedding. (default: :obj:`64`)
            seed (int, optional): The seed of the initial weights.
                (default: torch's global generator)
            edge_type (tuple, optional): The edge type of the interactions.
                (default: :obj:`("user", "interacts", "item")`, or the only
                one)
            modalities (list of str, optional): The item attributes that are
                modalities. (default: all)
            **kwargs (optional): Arguments of the model.
        """
        view = read_graph(data, edge_type, modalities,
                          need_features=cls.needs_features)
        with seeded(seed, torch.device('cpu')):
            return cls.from_view(view, hidden_channels, **kwargs)

    @classmethod
    def from_view(cls: type[Model], view: InteractionData,
                  hidden_channels: int, **kwargs: Any) -> Model:
        r"""Builds a model from a graph that was read; a model that computes
        something of it overrides it.

        Args:
            view (InteractionData): The training graph.
            hidden_channels (int): The width :math:`d` of an embedding.
            **kwargs (optional): Arguments of the model.
        """
        sizes: tuple[Any, ...] = (view.num_users, view.num_items)
        if cls.needs_features:
            sizes += ({k: x.size(1) for k, x in view.features.items()}, )
        model = cls(  # type: ignore[call-arg]
            *sizes, hidden_channels, **kwargs)
        model.give_features(view)
        return model

    @property
    def width(self) -> int:
        r"""The width :math:`w` of a row of the output."""
        raise NotImplementedError

    @property
    def modalities(self) -> list[str]:
        r"""The names of the modalities whose features the model reads."""
        features = self.item_features
        return [] if features is None else features.modalities

    @property
    def prompt(self) -> SoftPrompt | None:
        r"""The prompt that opens the model, if it has one."""
        return None

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput | tuple[Any, ...]:
        r"""Returns user and item embeddings, as a :class:`ModelOutput` or a
        plain tuple of users, items and, optionally, the modalities.

        Args:
            graph (torch.Tensor or SparseTensor or UserItemGraph): The
                user-item graph.
            user_id (torch.Tensor, optional): Return these users only.
                (default: :obj:`None`)
            item_id (torch.Tensor, optional): Return these items only.
                (default: :obj:`None`)
        """
        raise NotImplementedError

    def rows(
        self,
        graph: UserItemGraph,
        user_id: Tensor,
        item_id: Tensor,
        num_ego: int = 0,
    ) -> ModelOutput:
        r"""Returns the rows of a training step. A model with tables
        overrides it to name the rows of these, on which the L2 term falls.

        Args:
            graph (UserItemGraph): The graph that is trained on.
            user_id (torch.Tensor): Users :math:`(B)`.
            item_id (torch.Tensor): Items :math:`(n)`.
            num_ego (int, optional): How many of the items, from the first,
                the L2 term falls on; with 0, no :obj:`ego` is needed.
                (default: :obj:`0`)
        """
        return as_output(self(graph, user_id, item_id))

    def extra_loss(self, batch: Batch,
                   output: ModelOutput) -> dict[str, Tensor]:
        r"""Returns loss terms of the model's own, weights included, for the
        rows of a batch."""
        return {}

    def batch_spec(self, spec: BatchSpec) -> BatchSpec:
        r"""Returns what a batch must hold, beside what the ranking loss
        asks for."""
        return spec

    def on_epoch_start(self, epoch: int, graph: UserItemGraph) -> None:
        r"""Is called before each epoch, the first of which is 1."""

    def set_features(self, features: Mapping[str, Tensor],
                     masks: Mapping[str, Tensor] | None = None) -> None:
        r"""Sets the raw features of all items, by reference. A model that
        computes something of them overrides it.

        Args:
            features (dict): Features :math:`(|\mathcal{I}|, d_m)` of each
                modality.
            masks (dict, optional): For some modalities, True where the item
                has it :math:`(|\mathcal{I}|)`. (default: :obj:`None`)
        """
        if self.item_features is None:
            raise ValueError(f"'{type(self).__name__}' reads no features")
        self.item_features.set(features, masks)

    def select_features(
        self, view: InteractionData
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        r"""Returns those features and masks of a graph that the model
        reads.

        Raises:
            ValueError: If one of its modalities is not there.
        """
        for name in self.modalities:
            if name not in view.features:
                raise ValueError(f"'data' lacks the modality {name!r} of the "
                                 f"model (it has {list(view.features)})")
        return ({name: view.features[name] for name in self.modalities},
                {k: v for k, v in view.masks.items() if k in self.modalities})

    def release_features(self) -> None:
        r"""Lets go of the raw features."""
        if self.item_features is not None:
            self.item_features.release()

    def give_features(self, view: InteractionData) -> None:
        r"""Takes the features that the model reads from a graph."""
        if self.modalities:
            self.set_features(*self.select_features(view))

    def cache_features(self, graph: UserItemGraph | None) -> None:
        r"""Computes what makes steps on a graph cheaper at the price of
        memory, where the model knows of such; :obj:`None` lets go of it."""

    def config(self) -> dict[str, Any]:
        r"""Returns plain values: :obj:`cls(**config)` has the same
        shapes."""
        raise NotImplementedError

    @classmethod
    def from_config(cls: type[Model], config: Mapping[str, Any]) -> Model:
        r"""Builds a model from :meth:`config`, without its weights."""
        return cls(**config)

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        raise NotImplementedError


class ForeignModel(RankingModel):
    r"""Any module that yields embeddings, as a :class:`RankingModel`. The L2
    term falls on its output rows.

    Args:
        module (torch.nn.Module): :obj:`module(graph)` yields user and item
            embeddings, and, optionally, those of modalities.
        name (str, optional): What to call it in an error.
            (default: :obj:`"model"`)
    """
    def __init__(self, module: torch.nn.Module, name: str = 'model') -> None:
        super().__init__(0, 0)  # Its sizes are known when it is called.
        self.module, self.name = module, name

    def forward(
        self,
        graph: Adj | UserItemGraph,
        user_id: Tensor | None = None,
        item_id: Tensor | None = None,
    ) -> ModelOutput:
        out = as_output(self.module(graph), self.name)
        return ModelOutput(take(out.user, user_id), take(out.item, item_id), {
            name: (take(user, user_id), take(item, item_id))
            for name, (user, item) in out.modalities.items()
        })


def saved_config(model: torch.nn.Module | None) -> dict[str, Any] | None:
    r"""Returns the name and the configuration of a model whose class is
    ours, and that of all models in it; :obj:`None` of another one."""
    ours = _classes()
    if not isinstance(model, RankingModel) or not all(
            type(x) in ours for x in model.modules()
            if isinstance(x, RankingModel)):
        return None
    return {'class': type(model).__name__, **model.config()}


def model_from_config(config: Mapping[str, Any]) -> RankingModel:
    r"""Builds a model from :func:`saved_config`, without its weights. No
    class but ours is looked up."""
    arguments = dict(config)
    name = arguments.pop('class')
    for cls in _classes():
        if cls.__name__ == name:
            return cls.from_config(arguments)
    raise ValueError(f"'{name}' is no model of torch_promptmm")


def _classes(base: type[RankingModel] = RankingModel
             ) -> list[type[RankingModel]]:
    room = __name__.rpartition('.')[0] + '.'
    out = []
    for cls in base.__subclasses__():
        out += [cls] if cls.__module__.startswith(room) else []
        out += _classes(cls)
    return [cls for cls in out if cls is not ForeignModel]


def as_model(module: Any, name: str = 'model') -> RankingModel:
    r"""Returns a module as a :class:`RankingModel`. This is the one door for
    modules of other classes; nothing behind it asks for a class.

    Raises:
        TypeError: If it is no module.
        ValueError: If it is wrapped for data parallelism, which would be
            left out of the training step.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"'{name}' must be a torch.nn.Module (got "
                        f"'{type(module).__name__}')")
    if isinstance(module, RankingModel):
        return module
    inner = getattr(module, '_orig_mod', None)
    if isinstance(inner, RankingModel):
        warnings.warn(f"'{name}' is compiled; a training step calls it "
                      f"uncompiled. Compile the task instead: "
                      f"torch.compile(RankingTask(...))", stacklevel=3)
        return inner
    if isinstance(module, (torch.nn.DataParallel,
                           torch.nn.parallel.DistributedDataParallel)):
        raise ValueError(f"'{name}' must not be wrapped (got "
                         f"'{type(module).__name__}'): wrap the task or the "
                         f"distiller instead, which compute the loss")
    return ForeignModel(module, name)


def as_output(output: Any, name: str = 'model') -> ModelOutput:
    r"""Returns what a model yields as a :class:`ModelOutput`.

    Raises:
        TypeError: If it is not a tuple of users, items and, optionally, a
            dictionary of modalities.
    """
    if isinstance(output, ModelOutput):
        return output
    message = (f"'{name}' must return (user embeddings, item embeddings, "
               f"{{modality: (user, item)}}), the last of which may be left "
               f"out (got '{type(output).__name__}')")
    if not isinstance(output, (tuple, list)) or len(output) not in (2, 3):
        raise TypeError(message)
    user, item = output[:2]
    modalities = output[2] if len(output) == 3 else {}
    if not (isinstance(user, Tensor) and isinstance(item, Tensor)
            and isinstance(modalities, dict)):
        raise TypeError(message)
    return ModelOutput(user, item, modalities)


def check_output(output: ModelOutput, sizes: tuple[int, int],
                 name: str = 'model') -> ModelOutput:
    r"""Returns what a model yields if there is a row for each user and
    item, of which :obj:`sizes` are the numbers."""
    pairs = {'': (output.user, output.item), **output.modalities}
    for modality, pair in pairs.items():
        of = f' for modality {modality!r}' if modality else ''
        for what, x, rows in zip(('user', 'item'), pair, sizes, strict=True):
            if x.dim() != 2 or x.size(0) != rows:
                raise ValueError(
                    f"'{name}' must yield {what} embeddings of shape "
                    f"[{rows}, channels]{of} (got {list(x.shape)})")
    return output


@torch.no_grad()
def embed(model: torch.nn.Module, graph: UserItemGraph, score: str,
          name: str = 'model') -> tuple[Tensor, Tensor]:
    r"""Returns the user and item embeddings of a model in evaluation mode,
    as the score function sees them: their dot product is the score. They
    share no memory with the model's parameters.

    Args:
        model (torch.nn.Module): The model.
        graph (UserItemGraph): What is propagated over.
        score (str): :obj:`"dot"` or :obj:`"cosine"`.
        name (str, optional): What to call it in an error.
            (default: :obj:`"model"`)
    """
    was_training = model.training
    model.eval()
    try:
        output = as_output(model(graph), name)
    finally:
        model.train(was_training)
    check_output(output, (graph.num_users, graph.num_items), name)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    user, item = (as_scored(x, score).detach()
                  for x in (output.user, output.item))
    return tuple(  # type: ignore[return-value]
        x.clone() if x.untyped_storage().data_ptr() in own else x
        for x in (user, item))


def take(x: Tensor, index: Tensor | None) -> Tensor:
    r"""Returns rows of a table; all of them where no index is given."""
    return x if index is None else x.index_select(0, index)
