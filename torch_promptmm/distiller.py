r"""The front door: teacher, prompt and student, and what is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.data import read_graph
from torch_promptmm.distill import Parts, Update, add_items, build, update
from torch_promptmm.distill.distillation import Distillation, Seen
from torch_promptmm.distill.fit import fit_both, fit_stage
from torch_promptmm.evaluate import Metric
from torch_promptmm.loader import Batch
from torch_promptmm.models import RankingModel, as_model
from torch_promptmm.models.door import reset_parameters
from torch_promptmm.nn import SoftPrompt, UserItemGraph
from torch_promptmm.seeding import seeded
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.distiller_file import read_distiller, save_parts
from torch_promptmm.serve.of_model import parts_of_training
from torch_promptmm.train import History, Task


class PromptMMDistiller(torch.nn.Module):
    r"""Distils a multimodal graph teacher, opened by a soft prompt, or any
    teachers, into a LightGCN that serves from ID embeddings alone, after
    `"PromptMM: Multi-Modal Knowledge Distillation for Recommendation with
    Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_.

    .. code-block:: python

        distiller = PromptMMDistiller.from_data(train_data)
        distiller.fit(train_data, val_data)
        distiller.evaluate(test_data, k=(20, 50))
        items, scores = distiller.recommend([0, 1, 2], k=20)

    Most users want :meth:`from_data`; this takes parts of your own.

    Args:
        teacher (torch.nn.Module or list): A
            :class:`~torch_promptmm.models.RankingModel`, or any module whose
            :obj:`teacher(graph)` yields user and item embeddings and perhaps
            those of modalities; a list of these becomes an
            :class:`~torch_promptmm.models.Ensemble`.
        student (RankingModel): The student, which reads no content.
        prompt (SoftPrompt, optional): Another prompt for the teacher.
            (default: its own)
        setting (str, optional): The name of a
            :meth:`~torch_promptmm.distill.Settings.preset`.
            (default: :obj:`"default"`)
        edge_type (tuple, optional): That of the interactions. (default:
            :obj:`("user", "interacts", "item")`, or the only one)
        modalities (list of str, optional): The item attributes that are
            modalities. (default: all)
        **kwargs (optional): :class:`~torch_promptmm.distill.Settings`.
    """
    def __init__(self, teacher: build.Teachers | None, student: RankingModel,
                 prompt: SoftPrompt | None = None, setting: str = 'default',
                 edge_type: tuple[str, str, str] | None = None,
                 modalities: Sequence[str] | None = None,
                 **kwargs: Any) -> None:
        super().__init__()
        self.teacher, self.student = build.as_teacher(teacher, student), student
        model, self.prompt = build.checked_parts(self.teacher, student, prompt)
        settings = build.fitting_settings(model, student, setting, kwargs)
        self.projections = build.build_projections(model, student, settings)
        self.settings, self.objective = settings, settings.objective()
        self._training = Distillation(
            self, Parts(model, student, self.prompt, self.projections,
                        settings, self.objective), edge_type, modalities)
        self.edge_type, self.modalities = (self._training.edge_type,
                                           self._training.modalities)
        self.register_load_state_dict_post_hook(_forget_saved)

    @classmethod
    def from_data(cls, data: HeteroData, hidden_channels: int = 64,
                  num_layers: int = 2, teacher: build.Teachers | None = None,
                  seed: int | None = None,
                  edge_type: tuple[str, str, str] | None = None,
                  modalities: Sequence[str] | None = None,
                  setting: str = 'default',
                  student: str | RankingModel = 'light_gcn',
                  **kwargs: Any) -> PromptMMDistiller:
        r"""Builds teacher, prompt and student from the sizes, features and
        interactions of a training graph.

        Args:
            data (HeteroData): The training graph.
            hidden_channels (int, optional): The width. (default: :obj:`64`)
            num_layers (int, optional): Propagation steps. (default: :obj:`2`)
            teacher (torch.nn.Module or list, optional): One or several of
                your own, trained by :func:`~torch_promptmm.train.fit` or not.
                (default: a :class:`~torch_promptmm.models.MultimodalTeacher`;
                content: an :class:`~torch_promptmm.models.Ensemble`)
            seed (int, optional): Of the initial weights. (default: torch's)
            edge_type (tuple, optional): See the class.
            modalities (list of str, optional): See the class.
            setting (str, optional): See the class.
            student (str or RankingModel, optional): :obj:`"light_gcn"`,
                :obj:`"gcn"`, :obj:`"mlp"`, or one of your own.
                (default: :obj:`"light_gcn"`)
            **kwargs (optional): Arguments of
                :class:`~torch_promptmm.distill.Settings` and of
                :meth:`MultimodalTeacher.from_view()
                <torch_promptmm.models.MultimodalTeacher.from_view>`
                (content: :meth:`Ensemble.from_view()
                <torch_promptmm.models.Ensemble.from_view>`); its sizes are
                :obj:`teacher_channels` and :obj:`teacher_layers`.
        """
        view = read_graph(data, edge_type, check_finite=False)
        with seeded(seed, torch.device('cpu')):
            own, made, kwargs = build.build_models(
                data, view, teacher, student, hidden_channels, num_layers,
                setting, kwargs, edge_type=edge_type, modalities=modalities)
            out = cls(own, made, None, setting, edge_type,
                      as_model(own).modalities or modalities, **kwargs)
        out._training.seen = Seen.of(data, view)
        return out

    @property
    def device(self) -> torch.device:
        r"""Where the student is."""
        return self._training.device

    @property
    def score(self) -> str:
        r"""The score function of the student."""
        return self._training.score('student')

    @property
    def graph(self) -> UserItemGraph:
        r"""The training graph."""
        return self._training.require_seen('graph').graph

    def reset_parameters(self) -> None:
        r"""Starts over: resets all learnable parameters."""
        reset_parameters(self.student, self.teacher, self.prompt,
                         self.projections)
        self._training.forget()

    def train(self, mode: bool = True) -> PromptMMDistiller:
        r"""Sets the mode; in stage 2 the teacher stays in evaluation mode."""
        super().train(mode)
        prepared = self._training.prepared
        if prepared and prepared[0] == 'student' and self.teacher is not None:
            self.teacher.eval()
        return self

    def prepare(self, data: HeteroData, stage: str = 'student',
                device: Any = None) -> Task:
        r"""Builds graph and tables of a stage, freezes what it freezes, and
        returns its :class:`~torch_promptmm.train.Task`, for own loops."""
        return self._training.prepare(data, stage, device)

    def forward(self, batch: Batch,
                stage: str = 'student') -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the loss of a prepared stage and its terms, so that DDP
        and :func:`torch.compile` can wrap the distiller."""
        return self._training.loss(batch, stage)

    def teacher_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the total loss of stage 1 and each term."""
        return self(batch, stage='teacher')

    def student_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the total loss of stage 2 and each term."""
        return self(batch, stage='student')

    def fit(self, train_data: HeteroData, val_data: HeteroData | None = None,
            *, checkpoint: str | os.PathLike | None = None,
            resume: bool = False, **kwargs: Any) -> dict[str, History]:
        r"""Runs both stages: teacher and prompt, then student and prompt
        with the teacher frozen; teachers that came trained, by
        :func:`~torch_promptmm.train.fit`, stay as they are. Returns the
        :class:`~torch_promptmm.train.History` of each stage.

        Args:
            train_data (HeteroData): The training graph.
            val_data (HeteroData, optional): The validation graph, which
                chooses the epochs; without it the last weights are kept.
            checkpoint (str, optional): Where the state is saved.
            resume (bool, optional): Goes on from there.
            **kwargs (optional): :obj:`device`, :obj:`metric`,
                :obj:`retrain=True` (trains such teachers further) and
                arguments of :func:`~torch_promptmm.train.train`.
        """
        return fit_both(self._training, train_data, val_data, checkpoint,
                        resume, **kwargs)

    def fit_teacher(self, train_data: HeteroData,
                    val_data: HeteroData | None = None,
                    **kwargs: Any) -> History:
        r"""Runs stage 1 of :meth:`fit`."""
        return fit_stage(self._training, 'teacher', train_data, val_data,
                         **kwargs)

    def fit_student(self, train_data: HeteroData,
                    val_data: HeteroData | None = None,
                    **kwargs: Any) -> History:
        r"""Runs stage 2 of :meth:`fit`."""
        return fit_stage(self._training, 'student', train_data, val_data,
                         **kwargs)

    def update(self, data: HeteroData | Tensor,
               val_data: HeteroData | None = None, **kwargs: Any) -> Update:
        r"""Takes in new interactions, and users and items that are new, and
        trains the student further, without the teacher; see
        :func:`~torch_promptmm.distill.update`."""
        return update(self._training, data, val_data, **kwargs)

    def add_items(self, features: Mapping[str, Tensor],
                  ids: Iterable[Any] | None = None, **kwargs: Any) -> Tensor:
        r"""Takes in items that nobody has had yet, and returns their numbers;
        see :func:`~torch_promptmm.distill.add_items`."""
        return add_items(self._training, features, ids, **kwargs)

    def recommender(self, model: str = 'student') -> Recommender:
        r"""Returns what serves: a model's embeddings as they are now."""
        return Recommender(**parts_of_training(self._training, model))

    def embeddings(self, model: str = 'student') -> tuple[Tensor, Tensor]:
        r"""Returns user and item embeddings, whose product is the score."""
        return self._training.embeddings(model)

    def predict(self, user_ids: Any, item_ids: Any,
                model: str = 'student') -> Tensor:
        r"""Returns the scores of pairs."""
        return Recommender(**parts_of_training(
            self._training, model, folds=False)).predict(user_ids, item_ids)

    def recommend(self, user_ids: Any, k: int = 20,
                  data: HeteroData | None = None, model: str = 'student',
                  batch_size: int | None = None,
                  raw: bool = False) -> tuple[Any, Tensor]:
        r"""Returns the best items of users, without what they know (in
        :obj:`data`, if given), and their scores. Each call computes the
        embeddings: to ask often, keep a :meth:`recommender`."""
        known = None if data is None else self._training.read(data).edge_index
        return Recommender(**parts_of_training(
            self._training, model, folds=False)).recommend(
                user_ids, k, known=known, batch_size=batch_size, raw=raw)

    def evaluate(self, data: HeteroData, k: int | Sequence[int] = (20, 50),
                 model: str = 'student', batch_size: int | None = None,
                 per_user: bool = False,
                 metrics: Sequence[Metric] = ('recall', 'ndcg')
                 ) -> dict[str, Any]:
        r"""Ranks every item for every user with held-out positives, with a
        model as it stands; see :func:`~torch_promptmm.evaluate.evaluate`."""
        return self._training.evaluate(data, k, model, batch_size=batch_size,
                                       per_user=per_user, metrics=metrics)

    def save(self, path: str | os.PathLike,
             teacher_tables: str = 'full') -> None:
        r"""Saves student, teacher, prompt, known interactions and the final
        embeddings of both models, no raw feature, in one file or not at all.

        Args:
            path (str): The file.
            teacher_tables (str, optional): The teacher's final embeddings,
                as wide as content in an ensemble: :obj:`"full"`,
                :obj:`"half"` precision, or :obj:`"none"`, with which a loaded
                teacher needs the data to rank. (default: :obj:`"full"`)
        """
        save_parts(path, self._training, self.teacher, teacher_tables)

    @classmethod
    def load(cls, path: str | os.PathLike,
             teacher: build.Teachers | None = None,
             student: RankingModel | None = None) -> PromptMMDistiller:
        r"""Loads what :meth:`save` wrote. It recommends and evaluates without
        the features; to train the teacher further takes the data (:meth:`fit`).
        Teachers and students of classes that are not ours are given."""
        parts = read_distiller(path, teacher, student)
        out = cls(parts.teacher, parts.student, parts.prompt,
                  edge_type=parts.edge_type, modalities=parts.modalities,
                  **parts.settings)
        out.projections.restore(parts.projections)
        out._training.restore(parts.seen, parts.finals.get('teacher'),
                              parts.teacher_state, parts.started,
                              parts.growth)
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(\n'
                f'  teacher={self.teacher},\n  student={self.student},\n'
                f'  prompt={self.prompt},\n  objective={self.objective},\n)')


def _forget_saved(distiller: PromptMMDistiller, _: Any) -> None:
    distiller._training.saved = None  # Of other weights.
