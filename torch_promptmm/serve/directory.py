r"""The directory of a recommender: `recommender.json`, which says what is in
it, and one file of tables that it names. The JSON is what counts: a reader
sees the tables that it names, whole, and a writer swaps it last."""

from __future__ import annotations

import json
import os
import re
import stat
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from torch_promptmm import __version__
from torch_promptmm.checks import check_bool
from torch_promptmm.files import alone, atomic_path
from torch_promptmm.serve.fields import (
    ANEW,
    SYMBOLS,
    Held,
    check_contents,
    check_field,
    dtype_name,
    pack,
    unpack,
)

MANIFEST = 'recommender.json'
FORMAT, VERSION = 'torch_promptmm.Recommender', 1
_KEYS = ('format', 'version', 'written_by', *SYMBOLS, 'tables', 'meta',
         'crc32')
_TABLE_KEYS = ('file', 'bytes', 'crc32', 'tensors')
_NAME = re.compile(r'tables-[0-9a-f]{8}\.safetensors')
# The last one is what safetensors writes first, and leaves if it is killed.
_LEFT = re.compile(rf'{_NAME.pattern}|\.tables-[0-9a-f]{{32}}\.tmp|'
                   r'\.tmp[0-9A-Za-z]{6}')
_MAX_MANIFEST = 2**24
_BLOCK = 2**20


def write_directory(path: str | os.PathLike, parts: dict[str, Any]) -> None:
    r"""Writes a directory, or swaps what it holds. Until the last step, which
    renames one file, readers see the old one; an error leaves it as it was.

    Args:
        path (str): The folder, which is made if it is not there. Files of
            other names in it stay.
        parts (dict): The arguments of
            :class:`~torch_promptmm.serve.Recommender`.
    """
    folder = _folder(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'path' must name a folder, but {str(folder)!r} is "
                         f"a file; choose another name, or remove it")
    held = pack(parts)
    for name, tensor in held.tensors.items():
        check_field('The recommender', name, dtype_name(tensor),
                    list(tensor.shape), held.sizes)
    check_contents('The recommender', held.tensors, held.sizes)
    try:
        held = held._replace(
            meta=json.loads(json.dumps(held.meta, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'meta' must hold plain values that JSON has, and "
                         f"finite numbers ({error})") from error
    made = [x for x in (folder, *folder.parents) if not x.exists()]
    try:
        with alone(folder) as locked:
            _swap(folder, held, locked)
    except BaseException:
        for parent in made:
            with suppress(OSError):  # Not empty: someone else's by now.
                parent.rmdir()
        raise


def _swap(folder: Path, held: Held, locked: bool) -> None:
    before = {x for x in os.listdir(folder) if _LEFT.fullmatch(x)}
    temporary = folder / f'.tables-{uuid.uuid4().hex}.tmp'
    name = None
    try:
        # Clones: one tensor may be both tables, which safetensors refuses.
        save_file({key: x.detach().cpu().contiguous().clone()
                   for key, x in held.tensors.items()}, temporary)
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())
        crc = _crc32(temporary)
        tables = {
            'file': f'tables-{crc}.safetensors',
            'bytes': temporary.stat().st_size,
            'crc32': crc,
            'tensors': {
                key: {'dtype': dtype_name(x), 'shape': list(x.shape)}
                for key, x in sorted(held.tensors.items())
            },
        }
        manifest = {
            'format': FORMAT,
            'version': VERSION,
            'written_by': f'torch_promptmm {__version__}',
            **held.sizes,
            'tables': tables,
            'meta': held.meta,
        }
        manifest['crc32'] = _manifest_crc32(manifest)
        with atomic_path(folder / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=1) + '\n', 'utf-8')
            name = str(tables['file'])
            os.replace(temporary, folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if name is not None and name not in before:
            (folder / name).unlink(missing_ok=True)
        raise
    if locked:  # No other writer's that is not named yet.
        for old in before - {name}:
            with suppress(OSError):  # Windows keeps what is mapped.
                (folder / old).unlink()


def read_directory(path: str | os.PathLike, mmap: bool = True,
                   verify: bool = True,
                   within: str | os.PathLike | None = None
                   ) -> dict[str, Any]:
    r"""Reads what :func:`write_directory` wrote: the arguments of
    :class:`~torch_promptmm.serve.Recommender`.

    Args:
        path (str): The folder.
        mmap (bool, optional): Map the tables into memory instead of reading
            them. (default: :obj:`True`)
        verify (bool, optional): Read the tables once, in blocks, and check
            their checksum, and that all numbers are finite and in range.
            Names, sizes, types and the length of the file are checked in any
            case. (default: :obj:`True`)
        within (str, optional): The folder that no link may lead out of.
            (default: :obj:`path`)

    Raises:
        ValueError: If there is no such directory, or it is damaged, or of a
            version that is not read; it names the file, the field and what
            to do.
    """
    folder = _folder(path)
    check_bool('mmap', mmap)
    check_bool('verify', verify)
    root = folder if within is None else _folder(within)
    while True:
        stamp = _stamp(folder)
        manifest = read_manifest(folder, root)
        try:
            return _read(folder, manifest, mmap, verify, root)
        except (ValueError, FileNotFoundError):
            # A writer may have taken the tables away in between.
            if _stamp(folder) == stamp:
                raise


def _stamp(folder: Path) -> tuple[int, int] | None:
    r"""Which writing the JSON is of."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def read_manifest(path: str | os.PathLike,
                  within: str | os.PathLike | None = None) -> dict[str, Any]:
    r"""The checked contents of `recommender.json` in a folder, without the
    tables: sizes, their types, and :obj:`meta`."""
    folder = _folder(path)
    if not folder.is_dir():
        raise ValueError(f"'path' must name the folder of a recommender, but "
                         f"{str(folder)!r} is {_instead(folder)}")
    if not os.path.lexists(folder / MANIFEST):
        raise _wrong(folder / MANIFEST, 'file', 'is missing',
                     'name a folder that Recommender.save wrote to its end')
    file = _inside(folder / MANIFEST, folder if within is None
                   else _folder(within))
    if (size := file.stat().st_size) > _MAX_MANIFEST:
        raise _wrong(file, 'file', f'has {size} bytes, more than any')
    try:
        manifest = json.loads(file.read_text('utf-8'),
                              parse_constant=_no_constant,
                              object_pairs_hook=_no_duplicate)
    except (ValueError, RecursionError) as error:
        raise _wrong(file, 'file', f'is no JSON ({error})') from error
    _check_manifest(file, manifest)
    return manifest


def _check_manifest(file: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict):
        raise _wrong(file, 'file', f'holds a JSON '
                     f'{type(manifest).__name__} instead of an object')
    if manifest.get('format') != FORMAT:
        raise _wrong(file, 'format', f"is {manifest.get('format')!r} instead "
                     f"of {FORMAT!r}", 'name the folder of a recommender')
    version = manifest.get('version')
    if type(version) is not int or version < 1:
        raise _wrong(file, 'version', f'is {version!r}, which no version of '
                     f'torch_promptmm wrote')
    if version > VERSION:
        raise _wrong(file, 'version', f'is {version}, newer than {VERSION}, '
                     f'the last one that is read here',
                     'upgrade torch_promptmm')
    _check_keys(file, 'the object', manifest, _KEYS)
    if manifest['crc32'] != _manifest_crc32(manifest):
        raise _wrong(file, 'crc32', 'does not match the rest, which was '
                     'changed')
    for name in SYMBOLS:
        if type(manifest[name]) is not int or manifest[name] < 0:
            raise _wrong(file, name, f'is {manifest[name]!r} instead of a '
                         f'number of at least 0')
    tables = manifest['tables']
    _check_keys(file, 'tables', tables, _TABLE_KEYS)
    if not (isinstance(tables['file'], str)
            and _NAME.fullmatch(tables['file'])):
        raise _wrong(file, 'tables.file', f"is {tables['file']!r}, not a name "
                     f"like 'tables-0123abcd.safetensors'")
    if type(tables['bytes']) is not int:
        raise _wrong(file, 'tables.bytes', f"is {tables['bytes']!r} instead "
                     f"of a number")
    if not isinstance(tables['tensors'], dict):
        raise _wrong(file, 'tables.tensors', 'is no object')
    if not isinstance(manifest['meta'], dict):
        raise _wrong(file, 'meta', 'is no object')
    for name, entry in tables['tensors'].items():
        _check_keys(file, f'tables.tensors.{name}', entry,
                    ('dtype', 'shape'))
        check_field(f'{_path(file)}, tables.tensors', name, entry['dtype'],
                    entry['shape'], manifest, ANEW)
    for name in ('user_emb', 'item_emb'):
        if name not in tables['tensors']:
            raise _wrong(file, f'tables.tensors.{name}', 'is missing')


def _read(folder: Path, manifest: dict[str, Any], mmap: bool, verify: bool,
          root: Path) -> dict[str, Any]:
    tables = manifest['tables']
    if not os.path.lexists(folder / tables['file']):
        raise _wrong(folder / MANIFEST, 'tables.file',
                     f"names {tables['file']!r}, which is missing")
    file = _inside(folder / tables['file'], root)
    size = file.stat().st_size
    if size != tables['bytes']:
        raise _wrong(file, 'file', f"has {size} bytes instead of "
                     f"{tables['bytes']}: it is cut off, or another")
    if verify and _crc32(file) != tables['crc32']:
        raise _wrong(file, 'file', f"does not match the checksum "
                     f"{tables['crc32']}: it is damaged")
    tensors = {}
    try:
        with safe_open(file, framework='pt') as opened:
            names = set(opened.keys())
            for name in names & tables['tensors'].keys():
                tensors[name] = opened.get_tensor(name)
    except Exception as error:  # A damaged file fails in many ways.
        raise _wrong(file, 'file', f'is no safetensors file '
                     f'({str(error).splitlines()[0]})') from error
    for name, entry in tables['tensors'].items():
        if name not in names:
            raise _wrong(file, name, 'is missing')
        found = {'dtype': dtype_name(tensors[name]),
                 'shape': list(tensors[name].shape)}
        if found != entry:
            raise _wrong(file, name, f'is {found} instead of {entry}')
    if more := names - tables['tensors'].keys():
        raise _wrong(file, sorted(more)[0], f'is not in {MANIFEST}')
    sizes = {name: manifest[name] for name in SYMBOLS}
    check_contents(_path(file), tensors, sizes, verify, ANEW)
    if not mmap:
        tensors = {name: x.clone() for name, x in tensors.items()}
    return unpack(_path(file), Held(sizes, tensors, manifest['meta']))


def _folder(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"'path' must be the path of a folder (got {path!r} "
                        f"of type '{type(path).__name__}')")
    if '\0' in os.fspath(path):
        raise ValueError(f"'path' must not have a zero byte (got {path!r})")
    return Path(path)


def _path(file: Path) -> str:
    return f"'path': {str(file)!r}"


def _wrong(file: Path, field: str, why: str, fix: str = ANEW) -> ValueError:
    return ValueError(f"{_path(file)}, '{field}' {why}; {fix}")


def _instead(path: Path) -> str:
    if path.is_file():
        return ('a file; those of a distiller and of a student are read by '
                'PromptMMDistiller.load and load_student, and '
                'distiller.recommender().save(folder) writes a folder')
    return 'not there; name one that Recommender.save wrote'


def _inside(file: Path, root: Path) -> Path:
    r"""The file itself, behind links that do not lead out of the root."""
    try:
        real, top = file.resolve(strict=True), root.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _wrong(file, 'file', f'is a link to nothing ({error})'
                     ) from error
    if not real.is_relative_to(top):
        raise _wrong(file, 'file', 'is a link that leads out of the folder',
                     'put the file itself there')
    if not stat.S_ISREG(real.stat().st_mode):
        raise _wrong(file, 'file', 'is no ordinary file')
    return real


def _check_keys(file: Path, where: str, found: Any,
                wanted: tuple[str, ...]) -> None:
    if not isinstance(found, dict):
        raise _wrong(file, where, 'is no object')
    if lost := [x for x in wanted if x not in found]:
        raise _wrong(file, where, f'has no {lost[0]!r}')
    if more := [x for x in found if x not in wanted]:
        raise _wrong(file, where, f'has {more[0]!r}, which is unknown')


def _no_constant(value: str) -> Any:
    raise ValueError(f'{value} is no number of JSON')


def _no_duplicate(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError('a name occurs twice in one object')
    return out


def _manifest_crc32(manifest: dict[str, Any]) -> str:
    rest = {key: x for key, x in manifest.items() if key != 'crc32'}
    text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
    return f'{zlib.crc32(text.encode()):08x}'


def _crc32(file: Path) -> str:
    crc, block = 0, bytearray(_BLOCK)
    view = memoryview(block)
    with open(file, 'rb', buffering=0) as opened:
        while size := opened.readinto(block):
            crc = zlib.crc32(view[:size], crc)
    return f'{crc:08x}'
