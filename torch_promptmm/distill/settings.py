r"""The hyperparameters of a distillation, with their names and defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_float,
    check_int,
)
from torch_promptmm.loss.score import SCORES
from torch_promptmm.train.objective import RANKING_LOSSES, RankingObjective


@dataclass(frozen=True)
class Settings:
    r"""The hyperparameters of both stages.

    Args:
        ranking_loss (str, optional): :obj:`"softmax"` or :obj:`"bpr"`, for
            teacher and student. (default: :obj:`"softmax"`)
        score (str, optional): :obj:`"cosine"` or :obj:`"dot"`.
            (default: :obj:`"cosine"` for the softmax, :obj:`"dot"` for BPR)
        temperature (float, optional): Temperature of the softmax.
            (default: 0.2 for cosine, 1.0 for dot scores)
        num_negatives (int, optional): Shared negatives of the softmax.
            (default: :obj:`512`)
        warm_negatives (bool, optional): Draw negatives from items with an
            interaction only. (default: :obj:`False`)
        lr (float, optional): Learning rate. (default: 5e-3 for the softmax,
            1e-2 for BPR)
        weight_decay (float, optional): Weight decay of the optimiser.
            (default: :obj:`0.0`)
        l2 (float, optional): L2 on the batch's rows before propagation, in
            the loss. (default: 1e-3 for the softmax, 0.05 for BPR)
        batch_size (int, optional): Interactions in a batch.
            (default: :obj:`2048`)
        modality_weight (float, optional): Weight of each modality's own
            ranking loss in stage 1; :obj:`modality_ranking_weight` is
            another name of it. (default: :obj:`0.1`)
        prompt_ranking_weight (float, optional): Weight of the prompt's own
            ranking loss in stage 1, see
            :class:`~torch_promptmm.distill.PromptedRankingTask`.
            (default: :obj:`0.0`)
        pair_weight (float, optional): :math:`\lambda_2`, PairKD.
            (default: :obj:`0.0`; faithful: :obj:`8.0`)
        list_weight (float, optional): :math:`\lambda_3`, ListKD of each
            modality. (default: :obj:`0.0`; faithful: :obj:`0.1`)
        emb_weight (float, optional): :math:`\lambda_4`, EmbKD of each
            modality. (default: :obj:`0.05`; faithful: :obj:`0.1`)
        fused_list_weight (float, optional): ListKD of the fused scores. The
            loss has a factor :math:`\tau^2`, so that 75 is 3 without it at
            :math:`\tau = 0.2`. (default: :obj:`75.0`; faithful:
            :obj:`0.0`)
        fused_emb_weight (float, optional): EmbKD of the fused vectors.
            (default: :obj:`0.5`; faithful: :obj:`0.0`)
        teacher_weight (float, optional): :math:`\lambda_5`, the teacher's
            own ranking loss with respect to the prompt, in stage 2.
            (default: :obj:`0.0`)
        list_size (int, optional): :math:`K`, the length of a list with BPR.
            (default: :obj:`10`)
        kd_temperature (float, optional): :math:`\tau` of PairKD and ListKD.
            (default: 0.2 for cosine, 1.0 for dot scores)
        alpha (float, optional): Weight of the first part of ListKD.
            (default: :obj:`1.0`)
        beta (float, optional): Weight of the second part of ListKD;
            :obj:`None` is the natural one. (default: :obj:`None`)
        disentangle (bool, optional): If :obj:`False`, ListKD is the plain
            KL divergence. (default: :obj:`True`)
        gamma (float, optional): :math:`\gamma` of EmbKD.
            (default: :obj:`2.0`)
        item_samples (int, optional): Items of the whole catalogue that a
            step places by EmbKD. (default: :obj:`1024`)
        tune_prompt (bool, optional): Tune the prompt in stage 2.
            (default: :obj:`True`)
        knowledge (str, optional): What is distilled: :obj:`"terms"`, by the
            losses of Eq. 12 on batches of interactions, or :obj:`"lists"`,
            the teacher's top items on batches of users, see
            :class:`~torch_promptmm.distill.ListDistillationTask`.
            (default: :obj:`"terms"`; content: :obj:`"lists"`)
        init (str, optional): How the student starts in stage 2:
            :obj:`"random"`, as it is, or :obj:`"compress"`, from the leading
            directions of the teacher. (default: :obj:`"random"`; content:
            :obj:`"compress"`)
        top_items (int, optional): The length of a teacher's list.
            (default: :obj:`200`)
        uniform_items (int, optional): Items drawn uniformly for a batch of
            users. (default: :obj:`1024`)
        top_temperature (float, optional): The temperature of the teacher's
            lists, as a multiple of the mean standard deviation of the scores
            in a list. (default: :obj:`1.0`)
        list_lr (float, optional): Learning rate of lists at width 64; with
            :math:`d` columns it is times :math:`\sqrt{64 / d}`.
            (default: :obj:`0.03`)
        list_epochs (int, optional): Epochs of lists. (default: :obj:`15`)
        user_batch_size (int, optional): Users in a batch of lists.
            (default: :obj:`256`)
        user_weights (tuple, optional): Of the members of an ensemble in
            turn, the :math:`\alpha` with which interactions are drawn in
            proportion to :math:`\deg(u)^{-\alpha}`.
            (default: :obj:`(0.0, 0.5, 1.0, 0.5)`)
        choose_weights (bool, optional): Choose the weights of several
            teachers on validation; if :obj:`False`, they stay as they are:
            equal, if nothing else was given. (default: :obj:`True`)
        propagate_features (bool, optional): Propagate the features once
            before stage 1, which makes its steps cheaper at the price of a
            table in half precision; see
            :class:`~torch_promptmm.models.PropagatedFeatures`.
            (default: :obj:`False`)
        content_map (bool, optional): Learn, after stage 2, where items that
            come later belong by their content alone, see
            :func:`~torch_promptmm.distill.learn_content_map`.
            (default: :obj:`True`)
    """
    ranking_loss: str = 'softmax'
    score: str | None = None
    temperature: float | None = None
    num_negatives: int = 512
    warm_negatives: bool = False
    lr: float | None = None
    weight_decay: float = 0.0
    l2: float | None = None
    batch_size: int = 2048
    modality_weight: float = 0.1
    prompt_ranking_weight: float = 0.0
    pair_weight: float = 0.0
    list_weight: float = 0.0
    emb_weight: float = 0.05
    fused_list_weight: float = 75.0
    fused_emb_weight: float = 0.5
    teacher_weight: float = 0.0
    list_size: int = 10
    kd_temperature: float | None = None
    alpha: float = 1.0
    beta: float | None = None
    disentangle: bool = True
    gamma: float = 2.0
    item_samples: int = 1024
    tune_prompt: bool = True
    knowledge: str = 'terms'
    init: str = 'random'
    top_items: int = 200
    uniform_items: int = 1024
    top_temperature: float = 1.0
    list_lr: float = 0.03
    list_epochs: int = 15
    user_batch_size: int = 256
    user_weights: tuple[float, ...] = (0.0, 0.5, 1.0, 0.5)
    choose_weights: bool = True
    propagate_features: bool = False
    content_map: bool = True

    def __post_init__(self) -> None:
        check_choice('ranking_loss', self.ranking_loss, RANKING_LOSSES)
        if self.score is not None:
            check_choice('score', self.score, SCORES)
        check_choice('knowledge', self.knowledge, ('terms', 'lists'))
        check_choice('init', self.init, ('random', 'compress'))
        for name in ('temperature', 'kd_temperature', 'lr', 'list_lr',
                     'top_temperature'):
            value = getattr(self, name)
            if value is not None:
                check_float(name, value, exclusive=True)
        for name in ('l2', 'weight_decay', 'modality_weight',
                     'prompt_ranking_weight', 'pair_weight', 'list_weight',
                     'emb_weight', 'fused_list_weight', 'fused_emb_weight',
                     'teacher_weight', 'alpha', 'beta'):
            value = getattr(self, name)
            if value is not None or name not in ('l2', 'beta'):
                check_float(name, value)
        if not isinstance(self.user_weights, (tuple, list)) or (
                len(self.user_weights) == 0):
            raise TypeError(f"'user_weights' must be a tuple of numbers (got "
                            f"{self.user_weights!r})")
        # A file gives a list.
        object.__setattr__(self, 'user_weights', tuple(
            check_float('user_weights', x) for x in self.user_weights))
        for name, minimum in (('num_negatives', 1), ('batch_size', 1),
                              ('list_size', 2), ('item_samples', 1),
                              ('top_items', 2), ('uniform_items', 1),
                              ('list_epochs', 0), ('user_batch_size', 1)):
            check_int(name, getattr(self, name), minimum)
        check_float('gamma', self.gamma, minimum=1.0)
        for name in ('warm_negatives', 'disentangle', 'tune_prompt',
                     'choose_weights', 'propagate_features', 'content_map'):
            check_bool(name, getattr(self, name))

    @classmethod
    def preset(cls, setting: str = 'default', **kwargs: Any) -> Settings:
        r"""Returns a preset with some values changed.

        Args:
            setting (str, optional): :obj:`"default"`; :obj:`"faithful"`, the
                paper's losses in their sound form (BPR, dot scores, Eq. 5 to
                13, no fused terms); or :obj:`"content"`, for content that is
                worth much: an :class:`~torch_promptmm.models.Ensemble` as
                teacher, whose top items are distilled.
                (default: :obj:`"default"`)
            **kwargs (optional): Values to change.
        """
        check_choice('setting', setting, tuple(PRESETS))
        for other, name in ALIASES.items():
            if other in kwargs:
                if name in kwargs:
                    raise ValueError(f'{name!r} and {other!r} are two names '
                                     f'of one weight: give one of them')
                kwargs[name] = kwargs.pop(other)
        names = {field.name for field in fields(cls)}
        unknown = sorted(set(kwargs) - names)
        if unknown:
            raise TypeError(f"'{unknown[0]}' is no argument; there are "
                            f'{sorted(names)}')
        return replace(cls(**PRESETS[setting]), **kwargs)

    @property
    def learning_rate(self) -> float:
        r"""The learning rate, or the ranking loss's own."""
        return self.objective().default_lr if self.lr is None else self.lr

    @property
    def ego_l2(self) -> float:
        r"""The L2 weight, or the ranking loss's own."""
        return self.objective().default_l2 if self.l2 is None else self.l2

    def objective(self) -> RankingObjective:
        r"""The ranking loss of teacher and student."""
        return RankingObjective(self.ranking_loss, self.score,
                                self.temperature, self.num_negatives,
                                self.warm_negatives)

    def distillation(self) -> dict[str, Any]:
        r"""The arguments of
        :class:`~torch_promptmm.distill.DistillationTask`."""
        names = ('pair_weight', 'list_weight', 'emb_weight',
                 'fused_list_weight', 'fused_emb_weight', 'teacher_weight',
                 'list_size', 'alpha', 'beta', 'disentangle', 'gamma',
                 'item_samples')
        out = {name: getattr(self, name) for name in names}
        return {**out, 'l2': self.ego_l2, 'temperature': self.kd_temperature}

    def to_dict(self) -> dict[str, Any]:
        r"""The settings as a plain dictionary."""
        return asdict(self)


#: Other names of settings.
ALIASES = {'modality_ranking_weight': 'modality_weight'}
PRESETS: dict[str, dict[str, Any]] = {
    'default': {},
    'faithful': {
        'ranking_loss': 'bpr',
        'pair_weight': 8.0,
        'list_weight': 0.1,
        'emb_weight': 0.1,
        'fused_list_weight': 0.0,
        'fused_emb_weight': 0.0,
    },
    'content': {
        'knowledge': 'lists',
        'init': 'compress',
    },
}
