"""Sentiment in 16 domains of reviews: one shared encoder, private ones, and an adversary.

  python -m mtl_jax.data.prepare fudan16 --download
  python -m mtl_jax.train --config=configs/fudan16.py --workdir=runs/fudan16

Liu, Qiu & Huang, ACL 2017: a model for each domain (`single`), one shared encoder (FS-MTL), with a
private one beside it for each domain (SP-MTL), with adversary and orthogonality (ASP-MTL), and that
with the unlabelled reviews too. Here by a CNN from scratch; the paper has LSTMs over GloVe vectors.
Mean accuracy on the test split (`results/fudan16/`, seed 0): single 80.81, FS-MTL 83.56 (paper
84.72), SP-MTL 84.39 (85.11), ASP-MTL 84.33 (86.09), with the unlabelled ones 81.80 (5 epochs are as
many steps as 12 without them).
"""

from mtl_jax import config as config_lib

# Error rates of the paper's Table 2: FS-MTL, SP-MTL, ASP-MTL.
ERRORS = {
  'apparel': (15.5, 13.5, 13.0),
  'baby': (12.0, 13.3, 11.8),
  'books': (17.5, 18.8, 16.0),
  'camera_photo': (13.5, 12.0, 10.8),
  'dvd': (16.5, 16.0, 14.5),
  'electronics': (14.3, 15.3, 13.2),
  'health_personal_care': (12.0, 12.8, 11.8),
  'imdb': (17.5, 15.3, 14.5),
  'kitchen_housewares': (14.0, 14.8, 13.8),
  'magazines': (7.5, 8.0, 7.8),
  'mr': (25.3, 24.0, 23.3),
  'music': (18.8, 17.0, 17.5),
  'software': (13.8, 13.0, 12.8),
  'sports_outdoors': (14.5, 12.8, 14.3),
  'toys_games': (15.5, 14.8, 12.0),
  'video': (16.3, 16.8, 15.5),
}


def published(row):
  """Accuracies by column, from error rates."""
  found = {f'{name}.accuracy': 100 - errors[row] for name, errors in ERRORS.items()}
  return found | {'mean': sum(found.values()) / len(found)}


def get_config():
  config = config_lib.default()
  config.name = 'fudan16'
  private = {'sharing.name': 'shared_private'}
  off = {'sharing.shared_private.adversarial': 0.0, 'sharing.shared_private.orthogonality': 0.0}
  config.variants = config_lib.dotted(
    {
      'single': {'sharing.name': 'separate'},
      'fs_mtl': {'sharing.name': 'hard'},
      'sp_mtl': private | off,
      'asp_mtl': private,
      'asp_mtl_unlabelled': private | {'dataset.unlabelled': True, 'train.epochs': 5.0},
    }
  )
  config.tasks = config_lib.tasks({name: {'pooling': 'max', 'dropout': 0.3} for name in ERRORS})
  config.dataset.update(
    name='fudan16', tokenizer='words', lowercase=True, min_count=3, max_length=200, buckets=2
  )
  config.encoder.name = 'cnn'
  config.encoder.embedding.update(features=64, dropout=0.3)
  config.encoder.cnn.update(features=64, widths=(3, 4, 5), dropout=0.3)
  config.balance.name = 'mean_tasks'
  config.optimizer.learning_rate = 2e-3
  config.train.batch_size = 16
  config.train.epochs = 12.0
  config.eval.batch_size = 200
  config.paper = config_lib.dotted(
    {
      'source': 'Liu et al., Adversarial Multi-task Learning for Text Classification, ACL 2017',
      'rows': {'FS-MTL': published(0), 'SP-MTL': published(1), 'ASP-MTL': published(2)},
    }
  )
  return config
