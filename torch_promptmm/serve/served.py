r"""What a distiller is used for: to evaluate and to recommend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_bool, check_choice, check_ids
from torch_promptmm.data import IdMap, held_out
from torch_promptmm.evaluate import check_k, evaluate_embeddings
from torch_promptmm.loss import as_scored
from torch_promptmm.nn import MultimodalTeacher, UserItemGraph
from torch_promptmm.nn.tables import as_output
from torch_promptmm.serve.recommend import recommend
from torch_promptmm.train.stages import NO_TEACHER, TwoStages

MODELS = ('student', 'teacher')


class Served(TwoStages):
    r"""What :class:`~torch_promptmm.PromptMMDistiller` is asked once it is
    trained, and before."""
    def _versions(self, model: str) -> tuple[tuple[int, int], ...]:
        modules = [self.student] if model == 'student' else [
            self.teacher, self.prompt
        ]
        return tuple((id(p), p._version) for module in modules
                     if module is not None for p in module.parameters())

    @torch.no_grad()
    def _embed(self, model: str,
               graph: UserItemGraph) -> tuple[Tensor, Tensor]:
        if model == 'student':
            user, item = self.student(graph)
        elif self.teacher is None:
            raise ValueError(NO_TEACHER)
        else:
            was_training = self.teacher.training
            self.teacher.eval()
            try:
                output = as_output(self.teacher(graph))
            finally:
                self.teacher.train(was_training)
            self._check_output(output)
            user, item, _ = output
        return as_scored(user, self.score), as_scored(item, self.score)

    def embeddings(self, model: str = 'student') -> tuple[Tensor, Tensor]:
        r"""Returns user and item embeddings on the training graph, as the
        score function sees them: their dot product is the score.

        They are computed once for the weights as they stand.

        Args:
            model (str, optional): :obj:`"student"` or :obj:`"teacher"`.
                (default: :obj:`"student"`)
        """
        user, item = self._embeddings(model)
        return user.clone(), item.clone()

    def _embeddings(self, model: str) -> tuple[Tensor, Tensor]:
        check_choice('model', model, MODELS)
        versions = self._versions(model)
        if model in self._final and self._final[model][0] == versions:
            user, item = self._final[model][1]
            if user.device != self.device:
                user, item = user.to(self.device), item.to(self.device)
        else:
            if self._graph is None:
                raise ValueError("The distiller has seen no training graph "
                                 "yet: call 'fit' or 'prepare', or build it "
                                 "by 'from_data'")
            user, item = self._embed(model, self._graph.to(self.device))
        if not self._in_training:
            self._final[model] = (versions, (user, item))
        return user, item

    def evaluate(
        self,
        data: HeteroData,
        k: int | Sequence[int] = (20, 50),
        model: str = 'student',
        batch_size: int | None = None,
        per_user: bool = False,
    ) -> dict[str, Any]:
        r"""Ranks every item for every user with held-out positives, over the
        graph of :obj:`data`, whose interactions are left out.

        Args:
            data (HeteroData): A graph with :obj:`edge_label_index`.
            k (int or list of int, optional): Cut-offs.
                (default: :obj:`(20, 50)`)
            model (str, optional): :obj:`"student"` or :obj:`"teacher"` as it
                stands. (default: :obj:`"student"`)
            batch_size (int, optional): Users ranked at a time.
                (default: as many as 64 MiB of scores hold)
            per_user (bool, optional): If :obj:`True`, returns the values of
                each user. (default: :obj:`False`)

        Returns:
            :obj:`{'recall@20': ..., 'ndcg@20': ..., ...}`
        """
        check_choice('model', model, MODELS)
        view = self._read(data)
        check_k(k, view.num_items)
        positives = held_out(view)
        if self._is_training_graph(view):
            user, item = self._embeddings(model)
        else:
            if (model == 'teacher'
                    and isinstance(self.teacher, MultimodalTeacher)
                    and not self.teacher.features):
                if model in self._final:
                    raise ValueError(
                        "The loaded teacher has no item features and can be "
                        "evaluated on its training graph alone: call "
                        "'prepare(train_data)' first")
                self._give_features(self._read(data, need_features=True,
                                               check_finite=True))
            graph = UserItemGraph(view.edge_index, view.num_users,
                                  view.num_items)
            user, item = self._embed(model, graph.to(self.device))
        return evaluate_embeddings(user, item, positives, view.edge_index, k,
                                   batch_size, per_user)

    def recommend(
        self,
        user_ids: Any,
        k: int = 20,
        data: HeteroData | None = None,
        model: str = 'student',
        batch_size: int | None = None,
        raw: bool = False,
    ) -> tuple[Any, Tensor]:
        r"""Returns the best items of users, without those they know.

        Args:
            user_ids (torch.Tensor or list): Users :math:`(B)`.
            k (int, optional): How many items, at most the catalogue.
                (default: :obj:`20`)
            data (HeteroData, optional): A graph whose interactions are left
                out, instead of the training graph's. (default: :obj:`None`)
            model (str, optional): :obj:`"student"` or :obj:`"teacher"`.
                (default: :obj:`"student"`)
            batch_size (int, optional): Users ranked at a time.
                (default: as many as 64 MiB of scores hold)
            raw (bool, optional): If :obj:`True`, users are given and items
                returned by the ids of the data's own (see
                :class:`~torch_promptmm.data.IdMap`): items are then a list
                of lists, with :obj:`None` where there is no item left.
                (default: :obj:`False`)

        Returns:
            Items :math:`(B, k)` and scores :math:`(B, k)`, best first. For a
            user with fewer items left, the rest are item -1 with score
            :math:`-\infty`.
        """
        user, item = self._embeddings(model)
        known = self._known if data is None else self._read(data).edge_index
        if not check_bool('raw', raw):
            return recommend(user, item, user_ids, k, known, batch_size)
        user_map, item_map = self._id_map('user'), self._id_map('item')
        items, scores = recommend(user, item, user_map.encode(user_ids), k,
                                  known, batch_size)
        return item_map.decode(items), scores

    def _id_map(self, kind: str) -> IdMap:
        ids = self._ids.get(kind)
        if ids is None:
            raise ValueError(f"'raw=True' needs the {kind}s' own ids, which "
                             f"the data did not have: read it with "
                             f"torch_promptmm.data.read_interactions, or add "
                             f"them with torch_promptmm.data.set_ids")
        return ids

    def predict(self, user_ids: Any, item_ids: Any,
                model: str = 'student') -> Tensor:
        r"""Returns the scores of pairs.

        Args:
            user_ids (torch.Tensor or list): Users :math:`(B)`.
            item_ids (torch.Tensor or list): Items :math:`(B)`.
            model (str, optional): :obj:`"student"` or :obj:`"teacher"`.
                (default: :obj:`"student"`)
        """
        user, item = self._embeddings(model)
        user_ids = check_ids('user_ids', user_ids, user.size(0), 'user')
        item_ids = check_ids('item_ids', item_ids, item.size(0), 'item')
        if user_ids.shape != item_ids.shape:
            raise ValueError(f"'user_ids' and 'item_ids' must be of one "
                             f"length (got {user_ids.numel()} and "
                             f"{item_ids.numel()})")
        user_ids, item_ids = user_ids.to(user.device), item_ids.to(user.device)
        return (user[user_ids] * item[item_ids]).sum(dim=-1)
