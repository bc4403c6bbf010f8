"""A teacher, a student and their recommendations in one page.

    python examples/quickstart.py
"""

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal

# Three graphs over one storage of features: users, items, who took what, and
# a matrix of features for each modality of the items.
train, val, test = SyntheticMultimodal.preset('small', seed=0)
print(train)

# Stage 1 trains the teacher and its prompt, stage 2 the student.
distiller = PromptMMDistiller.from_data(train, hidden_channels=32, seed=0)
history = distiller.fit(train, val, epochs=15, seed=0, progress=False)
for stage, epochs in history.items():
    best = epochs[epochs.best_epoch - 1]
    print(f'{stage}: epoch {epochs.best_epoch} is the best on validation, '
          f'Recall@20 {best["recall@20"]:.4f}')

# Every item is ranked for every user. The test is read once.
for model in ('teacher', 'student'):
    values = distiller.evaluate(test, k=20, model=model)
    print(f'{model}: ' + ', '.join(f'{k} {v:.4f}' for k, v in values.items()))

# What serves is two matrices, and what each user has already.
recommender = distiller.recommender()
items, scores = recommender.recommend([0, 1, 2], k=5)
for user, row in enumerate(items.tolist()):
    print(f'user {user}: items {row}')
items, cosines = recommender.similar_items([7], k=5)
print(f'like item 7: items {items[0].tolist()}')
