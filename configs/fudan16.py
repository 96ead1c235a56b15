"""Sentiment in 16 domains of reviews: one shared encoder, private ones, and an adversary.

  python -m mtl_jax.data.prepare fudan16 --download
  python -m mtl_jax.train --config=configs/fudan16.py --workdir=runs/fudan16

Liu, Qiu & Huang, ACL 2017: a model for each domain (`single`), one shared encoder (FS-MTL), with a
private one beside it for each domain (SP-MTL), with adversary and orthogonality (ASP-MTL), and that
with the unlabelled reviews too. Here by a CNN from scratch; the paper has LSTMs over GloVe vectors.
"""

from mtl_jax import config as config_lib

DOMAINS = (
  *('apparel', 'baby', 'books', 'camera_photo', 'dvd', 'electronics', 'health_personal_care'),
  *('imdb', 'kitchen_housewares', 'magazines', 'mr', 'music', 'software', 'sports_outdoors'),
  *('toys_games', 'video'),
)
# Error rates of the paper's Table 2 in the order of its columns.
COLUMNS = (
  *('books', 'electronics', 'dvd', 'kitchen_housewares', 'apparel', 'camera_photo'),
  *('health_personal_care', 'music', 'toys_games', 'video', 'baby', 'magazines', 'software'),
  *('sports_outdoors', 'imdb', 'mr'),
)
FS_MTL = (
  17.5,
  14.3,
  16.5,
  14.0,
  15.5,
  13.5,
  12.0,
  18.8,
  15.5,
  16.3,
  12.0,
  7.5,
  13.8,
  14.5,
  17.5,
  25.3,
)
SP_MTL = (
  18.8,
  15.3,
  16.0,
  14.8,
  13.5,
  12.0,
  12.8,
  17.0,
  14.8,
  16.8,
  13.3,
  8.0,
  13.0,
  12.8,
  15.3,
  24.0,
)
ASP_MTL = (
  16.0,
  13.2,
  14.5,
  13.8,
  13.0,
  10.8,
  11.8,
  17.5,
  12.0,
  15.5,
  11.8,
  7.8,
  12.8,
  14.3,
  14.5,
  23.3,
)


def published(errors):
  """Accuracies by column, from error rates."""
  found = {f'{name}.accuracy': 100 - e for name, e in zip(COLUMNS, errors, strict=True)}
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
  config.tasks = config_lib.tasks({name: {'pooling': 'max', 'dropout': 0.3} for name in DOMAINS})
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
      'rows': {
        'FS-MTL': published(FS_MTL),
        'SP-MTL': published(SP_MTL),
        'ASP-MTL': published(ASP_MTL),
      },
    }
  )
  return config
