r"""The front door: teacher, prompt and student, and the two stages."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import (
    check_bool,
    check_choice,
    check_int,
    check_path,
)
from torch_promptmm.data import id_maps, known_interactions, read_graph
from torch_promptmm.data.contract import check_edge_type
from torch_promptmm.nn import (
    LightGCNStudent,
    MultimodalTeacher,
    SoftPrompt,
    UserItemGraph,
)
from torch_promptmm.nn.functional import modality_key
from torch_promptmm.serve.distiller_file import read_distiller, write_distiller
from torch_promptmm.serve.served import MODELS, Served
from torch_promptmm.train import Settings, seeded
from torch_promptmm.train.stages import FUSED


class PromptMMDistiller(Served):
    r"""Distils a multimodal graph teacher, opened by a soft prompt, into a
    LightGCN that serves from ID embeddings alone, after `"PromptMM:
    Multi-Modal Knowledge Distillation for Recommendation with
    Prompt-Tuning" <https://arxiv.org/abs/2402.17188>`_.

    .. code-block:: python

        distiller = PromptMMDistiller.from_data(train_data)
        distiller.fit(train_data, val_data)
        distiller.evaluate(test_data, k=(20, 50))
        items, scores = distiller.recommend([0, 1, 2], k=20)

    Most users want :meth:`from_data`. This constructor takes parts of your
    own.

    Args:
        teacher (torch.nn.Module): :obj:`teacher(graph)` yields user and item
            embeddings and, optionally, those of modalities, as
            :class:`~torch_promptmm.nn.TeacherOutput` does.
        student (LightGCNStudent): The student.
        prompt (SoftPrompt, optional): The prompt of a
            :class:`~torch_promptmm.nn.MultimodalTeacher`.
            (default: that of the teacher)
        setting (str, optional): :obj:`"default"` or :obj:`"faithful"`, see
            :meth:`~torch_promptmm.train.Settings.preset`.
            (default: :obj:`"default"`)
        edge_type (tuple, optional): The edge type of the interactions.
            (default: :obj:`("user", "interacts", "item")`, or the only one)
        modalities (list of str, optional): The item attributes that are
            modalities. (default: all)
        **kwargs (optional): Arguments of
            :class:`~torch_promptmm.train.Settings`.
    """
    def __init__(
        self,
        teacher: torch.nn.Module | None,
        student: LightGCNStudent,
        prompt: SoftPrompt | None = None,
        setting: str = 'default',
        edge_type: tuple[str, str, str] | None = None,
        modalities: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if teacher is not None and not isinstance(teacher, torch.nn.Module):
            raise TypeError(f"'teacher' must be a torch.nn.Module (got "
                            f"'{type(teacher).__name__}')")
        if not isinstance(student, LightGCNStudent):
            raise TypeError(f"'student' must be a LightGCNStudent (got "
                            f"'{type(student).__name__}')")
        if prompt is not None and not isinstance(prompt, SoftPrompt):
            raise TypeError(f"'prompt' must be a SoftPrompt (got "
                            f"'{type(prompt).__name__}')")
        self.settings = Settings.preset(setting, **kwargs)
        self.objective = self.settings.objective()
        self.teacher, self.student = teacher, student
        if isinstance(teacher, MultimodalTeacher):
            for name in ('num_users', 'num_items'):
                if getattr(teacher, name) != getattr(student, name):
                    raise ValueError(
                        f"'teacher' and 'student' must have the same "
                        f"'{name}' (got {getattr(teacher, name)} and "
                        f"{getattr(student, name)})")
            if prompt is None:
                prompt = teacher.prompt
            elif prompt is not teacher.prompt:
                _inject(prompt, teacher)
        elif prompt is not None:
            raise ValueError("'prompt' needs a MultimodalTeacher, which it "
                             "is injected into")
        self.prompt = prompt
        self.projections = torch.nn.ModuleDict()
        if isinstance(teacher, MultimodalTeacher):
            self._add_projections({
                key: teacher.hidden_channels
                for key in (FUSED, *map(modality_key, teacher.modalities))
            })
        if isinstance(modalities, str):
            raise TypeError(f"'modalities' must be a list of names (got the "
                            f"string {modalities!r})")
        self.edge_type = (None if edge_type is None else
                          check_edge_type(edge_type))
        self.modalities = None if modalities is None else list(modalities)
        # What a file had of a teacher that is not ours and was not given:
        self._teacher_state: dict[str, Tensor] = {}

    # Building ###############################################################

    @classmethod
    def from_data(
        cls,
        data: HeteroData,
        hidden_channels: int = 64,
        num_layers: int = 2,
        teacher_channels: int | None = None,
        teacher_layers: int | None = None,
        fusion_weight: float = 0.1,
        self_weight: float = 1.0,
        prompt: str | None = 'pca',
        prompt_weight: float = 1.0,
        prompt_layers: int = 1,
        normalize: bool | str = 'size',
        standardize: bool = True,
        dropout: float = 0.0,
        seed: int | None = None,
        edge_type: tuple[str, str, str] | None = None,
        modalities: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> PromptMMDistiller:
        r"""Builds teacher, prompt and student from the sizes, features and
        interactions of a training graph.

        Args:
            data (HeteroData): The training graph.
            hidden_channels (int, optional): The width :math:`d` of the
                embeddings. (default: :obj:`64`)
            num_layers (int, optional): Propagation steps of the student.
                (default: :obj:`2`)
            teacher_channels (int, optional): The width of the teacher.
                (default: :obj:`hidden_channels`)
            teacher_layers (int, optional): Propagation steps of the teacher.
                (default: :obj:`num_layers`)
            fusion_weight (float, optional): See
                :class:`~torch_promptmm.nn.MultimodalTeacher`.
                (default: :obj:`0.1`)
            self_weight (float, optional): See
                :class:`~torch_promptmm.nn.MultimodalTeacher`.
                (default: :obj:`1.0`)
            prompt (str, optional): :obj:`"pca"` or :obj:`"graph"`, see
                :meth:`~torch_promptmm.nn.SoftPrompt.from_features`, or
                :obj:`None` for a teacher without prompt.
                (default: :obj:`"pca"`)
            prompt_weight (float, optional): :math:`\lambda_1`.
                (default: :obj:`1.0`)
            prompt_layers (int, optional): Layers of the prompt network.
                (default: :obj:`1`)
            normalize (bool or str, optional): See
                :class:`~torch_promptmm.nn.PromptedReduction`.
                (default: :obj:`"size"`)
            standardize (bool, optional): Standardise the features.
                (default: :obj:`True`)
            dropout (float, optional): Dropout of the reductions in stage 1.
                (default: :obj:`0.0`)
            seed (int, optional): The seed of the initial weights.
                (default: torch's global generator)
            edge_type (tuple, optional): The edge type of the interactions.
                (default: :obj:`("user", "interacts", "item")`, or the only
                one)
            modalities (list of str, optional): The item attributes that are
                modalities. (default: all)
            **kwargs (optional): :obj:`setting` and arguments of
                :class:`~torch_promptmm.train.Settings`.
        """
        check_choice('prompt', prompt, ('pca', 'graph', None))
        setting = kwargs.pop('setting', 'default')
        Settings.preset(setting, **kwargs)  # Says what is wrong at once.
        check_int('hidden_channels', hidden_channels, 1)
        check_int('num_layers', num_layers, 0)
        check_int('prompt_layers', prompt_layers, 1)
        check_bool('standardize', standardize)
        view = read_graph(data, edge_type, modalities, need_features=True)
        graph = UserItemGraph(view.edge_index, view.num_users, view.num_items)
        if teacher_channels is None:
            teacher_channels = hidden_channels
        if teacher_layers is None:
            teacher_layers = num_layers
        check_int('teacher_channels', teacher_channels, 1)
        check_int('teacher_layers', teacher_layers, 0)
        with seeded(seed, torch.device('cpu')):
            student = LightGCNStudent(view.num_users, view.num_items,
                                      hidden_channels, num_layers)
            soft = None
            if prompt is not None:
                soft = SoftPrompt.from_features(view.features,
                                                teacher_channels, prompt,
                                                view.masks, graph,
                                                prompt_layers)
            teacher = MultimodalTeacher(
                view.num_users, view.num_items,
                {name: x.size(1)
                 for name, x in view.features.items()}, teacher_channels,
                teacher_layers, fusion_weight, self_weight, soft,
                prompt_weight=prompt_weight, dropout=dropout,
                normalize=normalize)
            out = cls(teacher, student, soft, setting, edge_type,
                      list(view.features), **kwargs)
        teacher.set_features(view.features, view.masks,
                             standardize=standardize)
        out._graph, out._known = graph, known_interactions(view)
        out._ids = id_maps(data, edge_type)
        return out

    def reset_parameters(self) -> None:
        r"""Starts over: resets all learnable parameters of student, teacher,
        prompt and projections."""
        for module in (self.student, self.teacher, self.prompt,
                       self.projections):
            if module is not None:
                _reset(module)
        self._prepared = None
        self._final = {}

    # Files ##################################################################

    def save(self, path: str | os.PathLike) -> None:
        r"""Saves the distiller in one file (safetensors, with JSON in its
        header), all of it or nothing: student, teacher, prompt, known
        interactions and the final embeddings of both models, without any
        raw feature.

        Args:
            path (str): The file.
        """
        check_path('path', path)
        if self._graph is None or self._known is None:
            raise ValueError("There is nothing to recommend from yet: call "
                             "'fit' before 'save'")
        finals = {}
        for model in MODELS:
            if model == 'student' or self.teacher is not None:
                finals[model] = self._embeddings(model)
            elif model in self._final:
                finals[model] = self._final[model][1]
        write_distiller(path, self, self._graph.edge_index, self._known,
                        finals)

    @classmethod
    def load(cls, path: str | os.PathLike,
             teacher: torch.nn.Module | None = None) -> PromptMMDistiller:
        r"""Loads what :meth:`save` wrote. It recommends and evaluates as
        before, without the features; to train the teacher further, call
        :meth:`fit` with the data.

        Args:
            path (str): The file.
            teacher (torch.nn.Module, optional): A teacher of a class that is
                not ours, which gets its weights back.
                (default: :obj:`None`)
        """
        parts = read_distiller(path, teacher)
        try:
            out = cls(parts.teacher, parts.student, parts.prompt,
                      edge_type=parts.edge_type, modalities=parts.modalities,
                      **parts.settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"'path' {str(path)!r} is damaged: "
                             f"{error}") from error
        for key, layer in parts.projections.items():
            out.projections[key] = layer
        out._graph, out._known = parts.graph, parts.known
        out._teacher_state, out._ids = parts.teacher_state, parts.ids
        for model, embeddings in parts.finals.items():
            out._final[model] = (out._versions(model), embeddings)
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(\n'
                f'  teacher={self.teacher},\n'
                f'  student={self.student},\n'
                f'  prompt={self.prompt},\n'
                f'  objective={self.objective},\n)')


def _reset(module: torch.nn.Module) -> None:
    reset = getattr(module, 'reset_parameters', None)
    if reset is not None:
        reset()
        return
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        warnings.warn(
            f"'{type(module).__name__}' has no 'reset_parameters': its "
            f"parameters {own} stay as they are", stacklevel=3)
    for child in module.children():
        _reset(child)


def _inject(prompt: SoftPrompt, teacher: MultimodalTeacher) -> None:
    r"""Puts another prompt into a teacher, whose statistics depend on it."""
    width = teacher.reduction(teacher.modalities[0]).prompt_channels
    have = (prompt.num_items, prompt.channels)
    if have != (teacher.num_items, width):
        raise ValueError(f"'prompt' must be of {teacher.num_items} items and "
                         f"{width} channels, as the teacher (got {have[0]} "
                         f"and {have[1]})")
    teacher.prompt = prompt
    if teacher.features and prompt.is_affine:
        standardize = any(
            bool((teacher.reduction(name).scale != 1.0).any())
            for name in teacher.modalities)
        teacher.set_features(teacher.features, teacher.masks,
                             standardize=standardize)
