"""Sphinx configuration."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch_promptmm

project = 'torch_promptmm'
author = 'torch_promptmm authors'
copyright = author
release = version = torch_promptmm.__version__

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.mathjax',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
exclude_patterns = ['_build']
default_role = 'py:obj'

html_theme = 'furo'
html_title = f'torch_promptmm {release}'
html_show_copyright = False

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # types stand in the `Args:` blocks, as in PyG
autosummary_generate = False  # tables only: api.rst documents each name once
napoleon_numpy_docstring = False
napoleon_use_ivar = True
math_number_all = False

# The API page: each room of the package, what it exports, how it is
# documented.
ROOMS = [
    ('torch_promptmm', 'The front door'),
    ('torch_promptmm.models', 'Models'),
    ('torch_promptmm.train', 'Training'),
    ('torch_promptmm.evaluate', 'Evaluation'),
    ('torch_promptmm.serve', 'Serving'),
    ('torch_promptmm.distill', 'Distillation'),
    ('torch_promptmm.nn', 'Layers'),
    ('torch_promptmm.loss', 'Losses'),
    ('torch_promptmm.loader', 'Batches and negatives'),
    ('torch_promptmm.data', 'The data contract'),
    ('torch_promptmm.datasets', 'Datasets'),
]


def exported(module: Any) -> list[str]:
    """Public names of a module in the order of its own list."""
    for attribute in ['classes', '__all__']:
        names = getattr(module, attribute, None)
        if names:
            return list(names)
    return [
        name for name, value in vars(module).items()
        if not name.startswith('_')
        and getattr(value, '__module__', None) == module.__name__
    ]


def directive(value: Any) -> str | None:
    if inspect.ismodule(value):
        return None
    if inspect.isclass(value):
        is_error = issubclass(value, BaseException)
        return 'autoexception' if is_error else 'autoclass'
    if inspect.isroutine(value):
        return 'autofunction'
    return 'autodata'


def describe(path: str) -> dict[str, Any]:
    module = importlib.import_module(path)
    entries = []
    for name in exported(module):
        value = getattr(module, name)
        kind = directive(value)
        # One place for each object: the first room that exports it.
        if kind is None or name.startswith('__') or id(value) in described:
            continue
        described.add(id(value))
        entries.append({'name': name, 'directive': kind})
    return {'path': path, 'entries': entries}


described: set[int] = set()
rooms = [{'title': title, **describe(path)} for path, title in ROOMS]


def render_page(app: Any, docname: str, source: list[str]) -> None:
    """Renders the API page as a Jinja template over `rooms`."""
    if docname == 'api':
        source[0] = app.builder.templates.render_string(
            source[0], {'rooms': rooms})


def setup(app: Any) -> None:
    app.connect('source-read', render_page)
