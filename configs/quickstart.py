"""English morphology with few labels: the inflection of a word form, alone and with its lemma.

  python -m mtl_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

12 runs of 600 steps: a character Transformer of 0.08 M parameters learns the inflection (a Penn
tag) from 200 labels, and the lemma (as an edit rule) from 54,544: each alone, both by their plain
sum, and by gradnorm + pcgrad. The tasks share word forms, and every step has a batch of each
(`own_batches`).
Expected on the test split, mean of 3 seeds ± 95% interval, in percent:

                   inflection     lemma          mean           Δm (lower is better)
                   accuracy       accuracy
  single task      39.25 ± 2.50   87.37 ± 0.75   -              0
  sum              49.95 ± 4.08   86.23 ± 1.49   68.09 ± 2.75   -12.99 ± 6.01
  gradnorm_pcgrad  51.22 ± 3.45   87.05 ± 1.64   69.13 ± 2.10   -15.07 ± 4.74
"""

from mtl_jax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'quickstart'
  config.seeds = (0, 1, 2)
  config.variants = config_lib.dotted(
    {
      'inflection_only': {'only': ('inflection',)},
      'lemma_only': {'only': ('lemma',)},
      'sum': {'balance.name': 'sum_tasks'},
      'gradnorm_pcgrad': {'balance.name': 'gradnorm+pcgrad'},
    }
  )
  config.tasks = config_lib.tasks({'inflection': {'train_labels': 200}, 'lemma': {}})
  config.dataset.name = 'english_words'
  config.dataset.own_batches = True  # with the words of all, a batch would have a label or none
  config.dataset.bucket_lengths = (12, 24)  # characters; few lengths, few compilations
  config.encoder.name = 'transformer'
  config.encoder.embedding.features = 64
  config.encoder.transformer.update(features=64, mlp_features=128)
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule.warmup_share = 1 / 12  # 50 steps
  config.train.batch_size = 64
  config.train.steps = 600
  config.train.eval_every = 100
  config.eval.batch_size = 512
  return config
