from __future__ import annotations

from typing import Any

from torch_geometric.data import HeteroData

from .assemble import assemble
from .columns import read_ids, read_ratings, read_times
from .contract import DEFAULT_EDGE_TYPE, EdgeType
from .ids import IdMap
from .report import Report
from .tables import Column, TextFormat, read_table


def read_interactions(
    source: Any,
    user: Column = 'user',
    item: Column = 'item',
    rating: Column | None = None,
    time: Column | None = None,
    min_rating: float | None = None,
    users: Any = None,
    items: Any = None,
    unknown: str = 'error',
    sep: str | None = None,
    encoding: str = 'utf-8',
    header: bool = True,
    quote: str | None = '"',
    decimal: str = '.',
    time_unit: str | None = None,
    time_format: str | None = None,
    id_type: str = 'auto',
    edge_type: EdgeType = DEFAULT_EDGE_TYPE,
) -> HeteroData:
    r"""Reads a table of interactions with ids of any kind.

    CSV and TSV files (packed as :obj:`.gz`, :obj:`.bz2` or :obj:`.xz` too),
    the :obj:`.inter` files of RecBole and MMRec, Parquet files and folders of
    them, and pandas data frames become one graph of the data contract. Its
    rows are numbered in the order in which ids first appear;
    :func:`~torch_promptmm.data.user_ids` and
    :func:`~torch_promptmm.data.item_ids` lead back to the raw ids. Features
    come in by id with :func:`~torch_promptmm.data.add_features`.

    .. code-block:: python

        data = read_interactions('ratings.csv', user='customer',
                                 item='sku', rating='stars', time='when',
                                 min_rating=4)
        item_ids(data).decode([0, 1])   # ['B000F83SZQ', '007-X']

    What is not as it should be is either an error with file and line or, with
    a warning and a count that :obj:`data.report` keeps, put right as follows:

    * A row without user, item, rating (NaN and infinite ones included) or
      time, where that column is asked for, is left out.
    * Of several rows with one user and item the latest stays (without times
      the last one), before :obj:`min_rating` is looked at.
    * White space around an id in a text file is removed.
    * Times count in seconds, milliseconds, microseconds or nanoseconds; each
      number tells which by its size (see :obj:`time_unit`).
    * Byte order marks, CRLF and empty lines have no meaning.

    Ids in text files are text, so that ``007`` keeps its zeros; if all ids of
    a column are plain integers, they become integers.

    Args:
        source (str or pandas.DataFrame): The file, or the table itself.
        user (str or int, optional): The column of the user, by name or
            number. (default: :obj:`"user"`)
        item (str or int, optional): The column of the item.
            (default: :obj:`"item"`)
        rating (str or int, optional): The column of the rating, kept as
            :obj:`data[edge_type].rating`. (default: :obj:`None`)
        time (str or int, optional): The column of the time, kept as
            :obj:`data[edge_type].time` in milliseconds since 1970.
            (default: :obj:`None`)
        min_rating (float, optional): Interactions with a lower rating are
            left out. (default: :obj:`None`)
        users (list or IdMap, optional): All users there are, in the order
            that their rows are to have. If :obj:`None`, these are those with
            an interaction. (default: :obj:`None`)
        items (list or IdMap, optional): All items there are, such as the
            catalogue with its cold items. (default: :obj:`None`)
        unknown (str, optional): What to do with an interaction of a user or
            an item that is not among :obj:`users` or :obj:`items`:
            :obj:`"error"` or :obj:`"drop"`. (default: :obj:`"error"`)
        sep (str, optional): The separator in a text file. If :obj:`None`, a
            comma for :obj:`.csv` and a tab for :obj:`.tsv` and
            :obj:`.inter`. (default: :obj:`None`)
        encoding (str, optional): The encoding of a text file.
            (default: :obj:`"utf-8"`)
        header (bool, optional): If set to :obj:`False`, the first line of a
            text file is data, and columns go by number.
            (default: :obj:`True`)
        quote (str, optional): The character around quoted fields, or
            :obj:`None`. (default: :obj:`'"'`)
        decimal (str, optional): The decimal point. (default: :obj:`"."`)
        time_unit (str, optional): The unit of numeric times, ``"s"``,
            ``"ms"``, ``"us"`` or ``"ns"``. If :obj:`None`, each number's size
            tells. (default: :obj:`None`)
        time_format (str, optional): The format of times that are text, as
            for :meth:`strftime`. If :obj:`None`, ISO 8601.
            (default: :obj:`None`)
        id_type (str, optional): :obj:`"auto"`, :obj:`"str"` or
            :obj:`"int"`. (default: :obj:`"auto"`)
        edge_type (Tuple[str, str, str], optional): The names of users,
            relation and items.
            (default: :obj:`("user", "interacts", "item")`)

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If pandas or pyarrow is not installed.
        ValueError: If the table cannot be read; the message has the file and
            the line.
    """
    _check_arguments(rating, min_rating, unknown, id_type)
    wanted = {'user': user, 'item': item, 'rating': rating, 'time': time}
    table = read_table(
        source,
        {role: col for role, col in wanted.items() if col is not None},
        TextFormat(sep, encoding, header, quote, decimal))
    report = Report()

    users, items = _to_map(users), _to_map(items)
    user_row, user_map = read_ids(table, 'user', _type(id_type, users),
                                  report)
    item_row, item_map = read_ids(table, 'item', _type(id_type, items),
                                  report)
    stars = read_ratings(table)
    times = read_times(table, time_unit, time_format, report)
    missing = None if times is None else times[1]
    where = table.where
    del table  # Its columns are read, and may be large.
    return assemble(
        [user_row, item_row, stars, None if times is None else times[0]],
        [user_map, item_map],
        where,
        report,
        missing_time=missing,
        min_rating=min_rating,
        users=users,
        items=items,
        unknown=unknown,
        edge_type=edge_type,
    )


# Private ######################################################################


def _check_arguments(
    rating: Any,
    min_rating: Any,
    unknown: str,
    id_type: str,
) -> None:
    if min_rating is not None and rating is None:
        raise ValueError(f"'min_rating' is {min_rating}, but no 'rating' "
                         f"column is named")
    if unknown not in ('error', 'drop'):
        raise ValueError(f"'unknown' must be 'error' or 'drop' (got "
                         f"{unknown!r})")
    if id_type not in ('auto', 'str', 'int'):
        raise ValueError(f"'id_type' must be 'auto', 'str' or 'int' (got "
                         f"{id_type!r})")


def _to_map(ids: Any) -> IdMap | None:
    return ids if ids is None or isinstance(ids, IdMap) else IdMap(ids)


def _type(id_type: str, given: IdMap | None) -> str:
    r"""Where all ids are given as text, those of the table are text too."""
    is_text = id_type == 'auto' and given is not None and given.kind == 'str'
    return 'str' if is_text else id_type
