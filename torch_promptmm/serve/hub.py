r"""Recommenders on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_promptmm.serve.directory import (
    MANIFEST,
    read_directory,
    read_manifest,
    write_directory,
)

_FILES = [MANIFEST, 'tables-*.safetensors']
_CARD = """
# {name}

{description}

| | |
|---|---|
| users | {num_users} |
| items | {num_items} |
| channels | {channels} |
| tables | {dtype} |

{metrics}

## Use

```python
from torch_promptmm.serve import Recommender

recommender = Recommender.from_hub('{repo_id}')
items, scores = recommender.recommend([0, 1], k=20)
```

The score of a user and an item is the inner product of their vectors. No
feature of an item is needed, nor the model that was trained. Nothing in these
files is run when they are read.
"""


def push(repo_id: str, parts: dict[str, Any], api: Any = None,
         private: bool = False, commit_message: str | None = None,
         **card: Any) -> Any:
    r"""Writes a recommender and its card, and uploads both in one commit.

    Args:
        repo_id (str): The repository, :obj:`"owner/name"`, which is made if
            it is not there.
        parts (dict): The arguments of
            :class:`~torch_promptmm.serve.Recommender`.
        api (HfApi, optional): What uploads. (default: a new
            :class:`huggingface_hub.HfApi`)
        private (bool, optional): Whether a new repository is private.
            (default: :obj:`False`)
        commit_message (str, optional): What the commit says.
        **card (optional): Arguments of :func:`model_card`.
    """
    api = api if api is not None else _hub().HfApi()
    with tempfile.TemporaryDirectory() as folder:
        write_directory(folder, parts)
        text = model_card(read_manifest(folder), repo_id, **card)
        Path(folder, 'README.md').write_text(text, 'utf-8')
        api.create_repo(repo_id=repo_id, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id, folder_path=folder,
            commit_message=commit_message or 'Recommender of torch_promptmm',
            delete_patterns=[_FILES[1]])


def pull(repo_id: str, revision: str | None = None, api: Any = None,
         mmap: bool = True, verify: bool = True,
         **kwargs: Any) -> dict[str, Any]:
    r"""Downloads a recommender, and returns its parts.

    Args:
        repo_id (str): The repository.
        revision (str, optional): A branch, a tag or a commit.
            (default: the newest)
        api (HfApi, optional): What downloads. (default: a new
            :class:`huggingface_hub.HfApi`)
        mmap (bool, optional): See
            :meth:`~torch_promptmm.serve.Recommender.load`.
        verify (bool, optional): See
            :meth:`~torch_promptmm.serve.Recommender.load`.
        **kwargs (optional): Arguments of
            :meth:`huggingface_hub.HfApi.snapshot_download`.
    """
    api = api if api is not None else _hub().HfApi()
    folder = Path(api.snapshot_download(
        repo_id=repo_id, revision=revision, allow_patterns=_FILES, **kwargs))
    # In the cache, a snapshot is links to `blobs` beside `snapshots`.
    within = None if 'local_dir' in kwargs else folder.parent.parent
    return read_directory(folder, mmap, verify, within)


def model_card(
    manifest: Mapping[str, Any],
    repo_id: str,
    description: str = '',
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    license: str | None = None,
) -> str:
    r"""Returns the text of a model card.

    Args:
        manifest (dict): What :func:`~torch_promptmm.serve.directory.\
read_manifest` returns.
        repo_id (str): The repository.
        description (str, optional): What was trained, on what, for whom.
        metrics (dict, optional): Values by name, as
            :func:`~torch_promptmm.evaluate.evaluate` returns them.
            (default: :obj:`meta["metrics"]`, if it is there)
        dataset (str, optional): What they were measured on.
            (default: :obj:`meta["dataset"]`, if it is there)
        license (str, optional): The license, by the hub's name for it.
    """
    hub, meta = _hub(), manifest['meta']
    metrics = metrics if metrics is not None else meta.get('metrics') or {}
    dataset = dataset or meta.get('dataset')
    rows = [f'| {name} | {value:.4f} |' for name, value in metrics.items()]
    table = '\n'.join([f"## Metrics{f' on {dataset}' if dataset else ''}", '',
                       'All items are ranked; what a user has is left out.',
                       '', '| metric | value |', '|---|---|', *rows])
    data = hub.ModelCardData(
        license=license, library_name='torch_promptmm',
        model_name=repo_id.rpartition('/')[2],
        tags=['recommendation', 'collaborative-filtering',
              'multimodal'],
        eval_results=[
            hub.EvalResult(
                task_type='recommendation', dataset_type=dataset or 'unnamed',
                dataset_name=dataset or 'unnamed', metric_type=name,
                metric_value=float(value)) for name, value in metrics.items()
        ] or None)
    body = _CARD.format(
        name=repo_id.rpartition('/')[2], repo_id=repo_id,
        description=description or meta.get('description')
        or 'A recommender of torch_promptmm.',
        dtype=manifest['tables']['tensors']['user_emb']['dtype'],
        metrics=table if metrics else 'No metrics were given.',
        **{x: manifest[x] for x in ('num_users', 'num_items', 'channels')})
    return f'---\n{data.to_yaml()}\n---\n{body}'


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("The hub needs huggingface_hub: pip install "
                          "'torch_promptmm[hub]'") from error
    return huggingface_hub
