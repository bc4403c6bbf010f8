r"""The protocol of a model, which training, evaluation, distillation and
serving rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.typing import Adj

from torch_promptmm.data import InteractionData, read_graph
from torch_promptmm.loader import Batch, BatchSpec
from torch_promptmm.nn.functional import take
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
        own (dict): What the model's own loss terms need beside.
    """
    ego: Pair | None = None
    own: dict[str, Tensor]

    def __new__(cls, user: Tensor, item: Tensor,
                modalities: Mapping[str, Pair] | None = None,
                ego: Pair | None = None,
                own: Mapping[str, Tensor] | None = None) -> ModelOutput:
        out = super().__new__(cls, user, item, dict(modalities or {}))
        out.ego, out.own = ego, dict(own or {})
        return out


class RankingModel(torch.nn.Module):
    r"""The base class of every recommender: users and items of a graph in,
    embeddings out, whose products are the scores.

    A subclass implements :meth:`forward`. All else has a default; what a
    model overrides is what makes it different:

    - :meth:`rows`, to name the rows that the L2 term falls on;
    - :meth:`own_loss`, for a ranking loss of its own;
    - :meth:`extra_loss`, for loss terms beside the ranking loss;
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
    #: The score function that suits :meth:`own_loss`.
    own_score = 'dot'
    #: Whether :meth:`from_data` passes the widths of the modalities.
    needs_features = False
    #: What :func:`torch_promptmm.train.fit` takes where nothing is given.
    defaults: Mapping[str, Any] = {}
    #: What goes with one ranking loss alone, by its name: other options suit
    #: the loss of a model's paper than suit the one that it has by default.
    loss_defaults: Mapping[str, Mapping[str, Any]] = {}
    #: Whether :func:`torch_promptmm.train.fit` has trained it: a distiller
    #: then takes it as it is.
    trained = False

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
        r"""Builds a model from a graph that is read. A model that computes
        something from the graph overrides it.

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

    @classmethod
    def defaults_of(cls, ranking_loss: str | None = None) -> dict[str, Any]:
        r"""Returns what :func:`torch_promptmm.train.fit` takes where nothing
        is given.

        Args:
            ranking_loss (str, optional): The ranking loss, if it is given.
                (default: that of :obj:`defaults`)
        """
        if ranking_loss is None:
            ranking_loss = cls.defaults.get('ranking_loss', 'softmax')
        return {**cls.defaults, **cls.loss_defaults.get(ranking_loss, {})}

    @property
    def width(self) -> int:
        r"""The width :math:`w` of a row of the output."""
        raise NotImplementedError

    @property
    def needed_score(self) -> str | None:
        r"""The score function that the model needs, whatever it was trained
        with; :obj:`None` is any."""
        return type(self).score

    @property
    def modalities(self) -> list[str]:
        r"""The names of the modalities whose features the model reads."""
        features = self.item_features
        return [] if features is None else features.modalities

    @property
    def prompt(self) -> SoftPrompt | None:
        r"""The prompt that opens the model, if it has one."""
        return None

    @property
    def has_features(self) -> bool:
        r"""Whether the features that the model reads, if any, are there."""
        return self.item_features is None or self.item_features.available

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
        overrides it to return their rows too, for the L2 term.

        Args:
            graph (UserItemGraph): The graph that is trained on.
            user_id (torch.Tensor): Users :math:`(B)`.
            item_id (torch.Tensor): Items :math:`(n)`.
            num_ego (int, optional): How many of the items, from the first,
                the L2 term falls on; with 0, no :obj:`ego` is needed.
                (default: :obj:`0`)
        """
        return as_output(self(graph, user_id, item_id))

    def own_loss(self, batch: Batch, output: ModelOutput) -> Tensor:
        r"""Returns the loss that takes the place of a ranking loss with
        :obj:`ranking_loss="own"`, for the rows of a batch. The batch has no
        negatives but those that :meth:`batch_spec` asks for.

        Raises:
            ValueError: If the model has none.
        """
        raise ValueError(f"'{type(self).__name__}' has no loss of its own: "
                         f"'ranking_loss' must be 'softmax' or 'bpr'")

    def extra_loss(self, batch: Batch,
                   output: ModelOutput) -> dict[str, Tensor]:
        r"""Returns loss terms of the model's own, weights included, for the
        rows of a batch. Their names must be other than those of the task's
        terms, such as :obj:`"rank"`. As a student of lists, a model is given
        a :class:`~torch_promptmm.distill.ListBatch`."""
        return {}

    def batch_spec(self, spec: BatchSpec) -> BatchSpec:
        r"""Returns what a batch must hold, beside what the ranking loss
        asks for."""
        return spec

    def on_epoch_start(self, epoch: int, graph: UserItemGraph) -> None:
        r"""Is called before each epoch, the first of which is 1. What it
        makes anew, such as a graph of items, a model keeps in buffers whose
        shapes stay: at the end, parameters and buffers are those of the best
        epoch, plain attributes those of the last one."""

    def set_features(self, features: Mapping[str, Tensor],
                     masks: Mapping[str, Tensor] | None = None) -> None:
        r"""Sets the raw features of all items, by reference. A model that
        computes something from them overrides it.

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
        r"""Returns those features and masks of a graph that the model reads,
        or raises a :obj:`ValueError`."""
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
        r"""Takes the features that the model reads from a graph, if these
        are others than it has."""
        if self.item_features is None:
            return
        features, masks = self.select_features(view)
        if not self.item_features.holds(features, masks):
            self.set_features(features, masks)

    def cache_features(self, graph: UserItemGraph | None) -> None:
        r"""Spends memory to make steps on a graph cheaper, where the model
        knows a way; :obj:`None` frees it."""

    def keep_score(self, score: str) -> None:
        r"""Writes down the score function that the model is trained
        with."""
        self.score = score

    def keep_trained(self, trained: bool = True) -> None:
        r"""Writes down whether the model is trained."""
        self.trained = trained

    def start_from(self, graph: UserItemGraph, user: Tensor,
                   item: Tensor) -> None:
        r"""Sets the parameters so that the output is near to given tables,
        as a student that starts from its teacher does. A model with tables
        overrides it.

        Args:
            graph (UserItemGraph): What is propagated over.
            user (torch.Tensor): Users :math:`(|\mathcal{U}|, w)`.
            item (torch.Tensor): Items :math:`(|\mathcal{I}|, w)`.
        """
        raise ValueError(f"'{type(self).__name__}' cannot start from given "
                         f"tables: set init='random'")

    def fold_rows(self, graph: UserItemGraph) -> Tensor | None:
        r"""Returns rows of items :math:`(|\mathcal{I}|, w)` whose sum over
        the :math:`n` items of a new user, divided by :math:`\sqrt{n}`, is
        the user's output; :obj:`None` where there are none."""
        return None

    def grow(self, num_users: int, num_items: int) -> None:
        r"""Makes room for users and items that come later, behind the
        others. What a model learned of these stays as it is; rows of new
        ones are zero: propagation alone says what they are. A model with
        tables overrides it.

        Args:
            num_users (int): The number of users, no smaller than before.
            num_items (int): The number of items, no smaller than before.
        """
        raise ValueError(f"'{type(self).__name__}' cannot grow: it has no "
                         f"tables of users and items alone")

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
    if not (_is_pair((user, item)) and isinstance(modalities, Mapping)
            and all(map(_is_pair, modalities.values()))):
        raise TypeError(message)
    return ModelOutput(user, item, modalities)


def _is_pair(value: Any) -> bool:
    return (isinstance(value, (tuple, list)) and len(value) == 2
            and all(isinstance(x, Tensor) for x in value))


def global_ids(
    graph: Any,
    user_id: Tensor | None,
    item_id: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    r"""Returns which of all users and items the given rows of a graph are:
    the same, unless it is the graph of a batch. For models that read tables
    and do not propagate."""
    if not isinstance(graph, UserItemGraph) or not graph.is_batch:
        return user_id, item_id
    assert graph.user_n_id is not None and graph.item_n_id is not None
    return take(graph.user_n_id, user_id), take(graph.item_n_id, item_id)
