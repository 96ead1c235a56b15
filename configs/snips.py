"""SNIPS: intent and slots of spoken requests, by a BiLSTM over words and their characters.

python -m mtl_jax.data.prepare snips --download
python -m mtl_jax.train --config=configs/snips.py --workdir=runs/snips

Expected on the test split, mean of 3 seeds ± half-width of the 95% interval (`results/snips/`):
intent accuracy 98.29 ± 0.35, slot F1 92.78 ± 0.96, sentences with both right 83.71 ± 0.71.
"""

from mtl_jax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'snips'
  config.seeds = (0, 1, 2)
  config.tasks = config_lib.tasks(
    {
      'intent': {'pooling': 'max', 'dropout': 0.0},
      'slots': {'dropout': 0.0},
    }
  )
  config.dataset.name = 'snips'
  config.dataset.tokenizer = 'words'
  config.dataset.lowercase = True
  config.dataset.pieces = 'characters'
  config.dataset.word_dropout = 1.0
  config.dataset.buckets = 4
  config.encoder.name = 'bilstm'
  config.encoder.embedding.update(
    features=128, pieces_embedding=32, pieces_features=64, dropout=0.4
  )
  config.encoder.bilstm.update(features=128, layers=2, dropout=0.4)
  config.optimizer.learning_rate = 2e-3
  config.optimizer.schedule.cosine.final = 0.02
  config.train.batch_size = 32
  config.train.epochs = 20.0
  config.train.early_stopping.metric = 'joint.exact_match'
  config.paper = config_lib.dotted(
    {
      'source': 'Goo et al., Slot-Gated Modeling for Joint Slot Filling and Intent Prediction, '
      'NAACL 2018',
      'rows': {
        'Slot-Gated (full attention)': {
          'slots.f1': 88.8,
          'intent.accuracy': 97.0,
          'exact_match': 75.5,
        },
      },
    }
  )
  return config
