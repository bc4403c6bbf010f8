r"""Answer over HTTP: /recommend, /similar, /history, /health, /metrics, and
/openapi.json, which says what they take.

A new version that is saved over the directory is taken while it runs. The
token is read from a file or from PROMPTMM_TOKEN, never from the command line,
which others on the machine can see.
"""

from __future__ import annotations

import json
import os
import sys
from ipaddress import ip_address
from pathlib import Path

from torch_promptmm.cli.parser import (
    ArgumentParser,
    Namespace,
    add_from,
    add_model,
)
from torch_promptmm.serve.app import create_app
from torch_promptmm.serve.live import LiveModel

USAGE = 'MODEL [options]'
EXAMPLES = """\
  promptmm serve model
  promptmm serve model --port 8080 --workers 2
  promptmm serve model --host 0.0.0.0 --token_file token
  curl localhost:8000/recommend -H 'content-type: application/json' \\
      -d '{"users": ["anna"], "k": 5}'"""

OPTIONS = ('max_queue', 'max_batch', 'max_wait', 'max_body', 'timeout',
           'reload_every')


def add_arguments(parser: ArgumentParser) -> None:
    r"""Adds what the command takes."""
    add_model(parser)
    add = parser.add_argument
    add('--host', type=str, default='127.0.0.1', help='The address to listen '
        'on; the default is reached from this machine only.')
    add('--port', type=int, default=8000, help='The port.')
    add('--workers', type=int, default=1, help='Processes; one that dies is '
        'replaced.')
    add('--token_file', type=str, help='A file with the token that clients '
        'must send.')
    add_from(parser, create_app, OPTIONS)


def run(args: Namespace) -> None:
    r"""Serves until it is told to stop."""
    import uvicorn
    LiveModel(args.model)  # A damaged model is an error, not a dead service.
    if args.token_file is not None:
        os.environ['PROMPTMM_TOKEN'] = Path(args.token_file).read_text(
            'utf-8').strip()
    if not _is_loopback(args.host) and not os.environ.get('PROMPTMM_TOKEN'):
        print(f'promptmm serve: warning: {args.host} can be reached from '
              f'other machines, and no token is asked for', file=sys.stderr)
    os.environ['PROMPTMM_MODEL'] = str(Path(args.model).absolute())
    os.environ['PROMPTMM_OPTIONS'] = json.dumps(
        {name: args[name] for name in OPTIONS})
    uvicorn.run('torch_promptmm.serve.app:from_env', factory=True,
                host=args.host, port=args.port, workers=args.workers,
                access_log=False, timeout_graceful_shutdown=10)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'
