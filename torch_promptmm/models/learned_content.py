from __future__ import annotations

from typing import Any

from torch_promptmm.checks import check_bool
from torch_promptmm.data import InteractionData
from torch_promptmm.models.multimodal_teacher import MultimodalTeacher

# The weight of the modalities beside the ID rows, which others learn too.
FUSION_WEIGHT = 1.0


def learned_content(
    view: InteractionData,
    hidden_channels: int,
    train_content: bool | None,
    prompt: str | None,
    has_content: bool,
    **kwargs: Any,
) -> MultimodalTeacher | None:
    r"""Returns the member of an ensemble that learns content, if it is asked
    for.

    Args:
        view (InteractionData): The training graph.
        hidden_channels (int): The width :math:`d` of an embedding.
        train_content (bool, optional): Whether it is; :obj:`None` is if
            there is a prompt.
        prompt (str, optional): The method of its prompt.
        has_content (bool): Whether the ensemble reads content.
        **kwargs (optional): Arguments of :meth:`MultimodalTeacher.from_view`.
    """
    if train_content is None:
        train_content = prompt is not None
    check_bool('train_content', train_content)
    if prompt is not None and not train_content:
        raise ValueError(f"'prompt' opens the member that learns content: set "
                         f"prompt=None, or train_content=True (got "
                         f"prompt={prompt!r})")
    if not train_content:
        return None
    if not has_content:
        raise ValueError("'train_content' needs content, but there is none, "
                         "or 'use_content' is False")
    return MultimodalTeacher.from_view(view, hidden_channels, prompt,
                                       fusion_weight=FUSION_WEIGHT, **kwargs)
