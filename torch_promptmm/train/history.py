from __future__ import annotations

import json
from typing import Any


class History(list):
    r"""One dictionary an epoch: :obj:`epoch`, :obj:`loss` and each term of
    it (means over the epoch), the validation metrics, and :obj:`time`, the
    seconds of training without validation.

    Args:
        records (list of dict, optional): Earlier epochs. (default: none)
        best_epoch (int, optional): The epoch whose weights were kept.
            (default: :obj:`None`)
    """
    def __init__(self, records: Any = (), best_epoch: int | None = None):
        super().__init__(records)
        self.best_epoch = best_epoch
        #: What was chosen on validation after training, if anything was.
        self.chosen: dict[str, Any] = {}

    def values(self, name: str) -> list[float]:
        r"""The values of one entry, in the epochs that have it."""
        return [record[name] for record in self if name in record]

    def state(self) -> str:
        r"""The history as a JSON text."""
        return json.dumps({'records': list(self), 'best': self.best_epoch,
                           'chosen': self.chosen})

    @classmethod
    def from_state(cls, text: str) -> History:
        r"""The history from :meth:`state`."""
        state = json.loads(text)
        out = cls(state['records'], state['best'])
        out.chosen = state.get('chosen', {})
        return out

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(epochs={len(self)}, '
                f'best_epoch={self.best_epoch})')
