"""Any model is trained by `fit` and measured by `evaluate`: here LightGCN, by
two ranking losses.

    python examples/train_a_baseline.py

`docs/add_a_model.rst` writes a model of its own that goes the same way.
"""

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate
from torch_promptmm.models import LightGCN
from torch_promptmm.serve import Recommender
from torch_promptmm.train import fit

METRICS = ('recall', 'ndcg', 'precision', 'hit_ratio', 'coverage')

train, val, test = SyntheticMultimodal.preset('small', seed=0)

for ranking_loss in ('bpr', 'softmax'):
    model = LightGCN.from_data(train, hidden_channels=32, num_layers=2, seed=0)
    # Learning rate and L2 are those that suit the loss, unless you give them.
    # The weights of the best epoch on validation are kept.
    history = fit(model, train, val, ranking_loss=ranking_loss, epochs=30,
                  patience=10, metric='ndcg@20', seed=0, progress=False)
    print(f'{ranking_loss}: {len(history)} epochs, the best is '
          f'{history.best_epoch}; scores are {model.score} products')

    values = evaluate(model, test, k=(20, 50), metrics=METRICS)
    for k in (20, 50):
        print('  ' + '  '.join(f'{name}@{k} {values[f"{name}@{k}"]:.4f}'
                               for name in METRICS))

# The last one serves.
recommender = Recommender.from_model(model, train)
items, scores = recommender.recommend([0, 1, 2], k=5)
print(items.tolist())
