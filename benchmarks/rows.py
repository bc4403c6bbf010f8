"""The rows of the table of accuracy: how each model is made and trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch_promptmm.distill import Settings

# Which rows are run first, for all seeds.
BASELINES, PARTS, TERMS, WIDER, KEPT = range(5)
BPR, SOFTMAX = 'LightGCN, BPR', 'LightGCN, softmax'
NO_PROMPT: dict[str, Any] = {'prompt': None}
# What stage 2 leaves out, one at a time.
LEFT_OUT: dict[str, dict[str, Any]] = {
    'PairKD': {'pair_weight': 0.0},
    'ListKD': {'list_weight': 0.0},
    'disentangling': {'disentangle': False},
    'EmbKD': {'emb_weight': 0.0},
    'fused terms': {'fused_list_weight': 0.0, 'fused_emb_weight': 0.0},
}


@dataclass(frozen=True)
class ModelRow:
    """A row of the table.

    Args:
        name: What it is called.
        model: 'pyg', 'lightgcn', 'teacher' or 'student'.
        setting: The preset of `Settings`.
        build: Arguments of `PromptMMDistiller.from_data`.
        change: Changes of the preset, in stage 2.
        against: The row of the paired test.
        turn: Rows of an early turn are run first, for all seeds.
        features: How features are kept, a key of `run.FEATURES`.
    """
    name: str
    model: str
    setting: str
    build: dict[str, Any] = field(default_factory=dict)
    change: dict[str, Any] = field(default_factory=dict)
    against: str = ''
    turn: int = BASELINES
    features: str = ''

    @property
    def key(self) -> str:
        return ''.join(c if c.isalnum() else '-' for c in self.name)

    @property
    def shared(self) -> str:
        """What rows have in common that are run together: a teacher."""
        if self.model in ('teacher', 'student'):
            return (f'{self.setting} {sorted(self.build.items())} '
                    f'{self.features}')
        return self.name


def rows_of(planted: bool) -> list[ModelRow]:
    """All rows, baselines first."""
    rows = baselines()
    if planted:
        rows = rows[1:]  # PyG's and ours are the same; once is enough.
    for setting, base in (('default', SOFTMAX), ('faithful', BPR)):
        rows += models(setting, base)
        if planted:
            rows.append(prompt_from_graph(setting))
            continue
        if setting == 'default':
            rows += wide_teacher(setting)
        rows += without_terms(setting)
    return rows if planted else rows + ways_to_keep_features()


def baselines() -> list[ModelRow]:
    wide = {'num_negatives': 1024, 'temperature': 0.25}
    return [
        ModelRow('PyG LightGCN, BPR', 'pyg', 'faithful', against=BPR),
        ModelRow(BPR, 'lightgcn', 'faithful'),
        ModelRow(SOFTMAX, 'lightgcn', 'default', against=BPR),
        ModelRow(f'{SOFTMAX}, 1,024 negatives, temperature 0.25', 'lightgcn',
                 'default', change=wide, against=SOFTMAX, turn=PARTS),
    ]


def models(setting: str, base: str) -> list[ModelRow]:
    """Teacher and student, with and without prompt."""
    teacher, student = f'teacher, {setting}', f'student, {setting}'
    return [
        ModelRow(teacher, 'teacher', setting, against=base),
        ModelRow(f'{teacher}, no prompt', 'teacher', setting, NO_PROMPT,
                 against=teacher, turn=PARTS),
        ModelRow(student, 'student', setting, against=base),
        ModelRow(f'{student}, prompt frozen', 'student', setting,
                 change={'tune_prompt': False}, against=student, turn=PARTS),
        ModelRow(f'{student}, no prompt', 'student', setting, NO_PROMPT,
                 against=student, turn=PARTS),
    ]


def prompt_from_graph(setting: str) -> ModelRow:
    return ModelRow(f'student, {setting}, prompt from the graph, λ1 = 10',
                    'student', setting,
                    {'prompt': 'graph', 'prompt_weight': 10.0},
                    against=f'student, {setting}', turn=PARTS)


def wide_teacher(setting: str) -> list[ModelRow]:
    wide = {'teacher_channels': 128}
    return [
        ModelRow(f'teacher of 128 channels, {setting}', 'teacher', setting,
                 wide, against=f'teacher, {setting}', turn=WIDER),
        ModelRow(f'student of a teacher of 128 channels, {setting}',
                 'student', setting, wide, against=f'student, {setting}',
                 turn=WIDER),
    ]


def without_terms(setting: str) -> list[ModelRow]:
    """A row for each term that the preset has."""
    usual, student = Settings.preset(setting), f'student, {setting}'
    return [
        ModelRow(f'{student}, no {part}', 'student', setting, change=change,
                 against=student, turn=TERMS)
        for part, change in LEFT_OUT.items()
        if any(getattr(usual, k) != v for k, v in change.items())
    ]


def ways_to_keep_features() -> list[ModelRow]:
    once = {'propagate_features': True}
    ways: list[tuple[str, dict[str, Any], str]] = [
        ('features propagated once', once, ''),
        ('features rotated to 64 components', {}, '64 components'),
        ('features and autocast in bfloat16', {}, 'bfloat16'),
    ]
    return [
        ModelRow(f'{model}, default, {name}', model, 'default', build,
                 against=f'{model}, default', turn=KEPT, features=features)
        for name, build, features in ways for model in ('teacher', 'student')
    ]


def groups_of(rows: list[ModelRow]) -> list[list[ModelRow]]:
    r"""ModelRows that share a teacher, and are run in the same turn, belong
    together; those of an early turn come first."""
    out: dict[tuple[int, str], list[ModelRow]] = {}
    for row in sorted(rows, key=lambda row: row.turn):
        out.setdefault((row.turn, row.shared), []).append(row)
    return list(out.values())
