"""Packaging of torch_promptmm; tool settings are in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    # Read as text: importing the package would need torch at build time.
    text = (ROOT / 'torch_promptmm' / '__init__.py').read_text('utf-8')
    match = re.search(r'^__version__\s*=\s*[\'"]([^\'"]+)[\'"]', text, re.M)
    if match is None:
        raise RuntimeError(
            "torch_promptmm/__init__.py has no line __version__ = '...'")
    return match.group(1)


core = [
    'torch>=2.4',
    'torch-geometric>=2.6',
    'numpy',
    'scikit-learn',
    'tqdm',
    'safetensors',
    'torchmetrics',
]
tables = ['pandas', 'pyarrow']
# Figures and searches of `benchmarks/`.
plot = ['matplotlib']
tune = ['optuna']
cli = ['jsonargparse>=4.40', 'docstring-parser', 'pyyaml', *tables]
serve = ['fastapi>=0.115', 'starlette>=1.10', 'uvicorn>=0.30',
         'prometheus-client']
onnx = ['onnx', 'onnxscript', 'onnxruntime']
hub = ['huggingface_hub>=0.20']
extras = {
    # `SparseTensor` as an input. Both compile against the installed torch,
    # so build isolation must be off: see `make sparse`.
    'sparse': ['torch-scatter', 'torch-sparse'],
    'faiss': ['faiss-cpu'],
    'text': ['sentence-transformers'],
    'tables': tables,
    'onnx': onnx,
    'hub': hub,
    'plot': plot,
    'tune': tune,
    'cli': cli,
    'serve': serve,
    'docs': ['sphinx>=7', 'furo'],
    'dev': [
        'pytest>=8',
        'pytest-xdist',
        'hypothesis',
        'ruff',
        'mypy',
        'scipy',
        # Reads what is written as Parquet.
        'duckdb',
        *tables,
        *onnx,
        *hub,
        *plot,
        *tune,
        *cli,
        *serve,
        'httpx',
        'schemathesis',
    ],
}

setup(
    name='torch_promptmm',
    version=read_version(),
    description=('Multimodal graph recommenders distilled into a light '
                 'student, for PyTorch Geometric'),
    long_description=(ROOT / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    author='torch_promptmm authors',
    license='MIT',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=['torch_promptmm', 'torch_promptmm.*']),
    package_data={'torch_promptmm': ['py.typed']},
    install_requires=core,
    extras_require=extras,
    entry_points={
        'console_scripts': ['promptmm = torch_promptmm.cli.main:main'],
    },
    keywords=[
        'recommender-systems',
        'graph-neural-networks',
        'knowledge-distillation',
        'multimodal',
        'pytorch-geometric',
    ],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    zip_safe=False,
)
