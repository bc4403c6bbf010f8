r"""From the words of a command line to an exit code."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import torch_promptmm

#: Each is a module of this room: `add_arguments`, `run`, `show`.
COMMANDS = {
    'train': 'from a table and a folder of features to a saved model',
    'evaluate': 'rank the catalogue for held-out interactions',
    'recommend': 'print or write the best items of users',
    'export': 'write what other engines read',
    'info': 'say what a saved model is',
    'serve': 'answer over HTTP',
}
FIRST = """three commands from a table to a service:
  promptmm train orders.csv --features features --out model
  promptmm recommend model --users anna ben
  promptmm serve model"""


def main(argv: Sequence[str] | None = None) -> int:
    r"""Runs a command; returns 0, 1 for an error, 2 for wrong usage.

    Args:
        argv (list of str, optional): The words after :obj:`promptmm`.
            (default: those of the process)
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return _run(words[0], words[1:])
    parser = argparse.ArgumentParser(
        'promptmm', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='A multimodal recommender: train it, ask it, serve it.',
        epilog=f'{FIRST}\n\npromptmm COMMAND --help says more.')
    parser.add_argument('--version', action='version',
                        version=f'promptmm {torch_promptmm.__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    parser.parse_args(words)
    return 0


def _run(name: str, words: list[str]) -> int:
    debug = '--debug' in words  # Even where the words cannot be parsed.
    with warnings.catch_warnings():
        warnings.showwarning = _one_line
        try:
            from torch_promptmm.cli.parser import parse
            command = importlib.import_module(f'torch_promptmm.cli.{name}')
            args = parse(name, command, words)
            result = command.run(args)
            if result is not None:
                print(json.dumps(result, ensure_ascii=False) if args.json
                      else command.show(result), flush=True)
        except BrokenPipeError:  # Whoever reads has read enough: `| head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            if debug:
                traceback.print_exc()
            print(f'promptmm {name}: error: {_text(error)}', file=sys.stderr)
            return 1
    return 0


def _text(error: Exception) -> str:
    text = ' '.join(str(error).split())
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)):
        return text or type(error).__name__
    return f'{type(error).__name__}: {text} (--debug shows where)'


def _one_line(message: Warning | str, category: type[Warning],
              *args: Any, **kwargs: Any) -> None:
    text = ' '.join(str(message).split())
    print(f'promptmm: warning: {text}', file=sys.stderr)
