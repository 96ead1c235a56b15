"""Every way to share parameters on one task set: English morphology, as in `quickstart`.

  python -m mtl_jax.train --config=configs/sharing.py --workdir=runs/sharing
  python -m mtl_jax.train --config=configs/sharing.py:mmoe --workdir=runs/sharing   # one of them
  python -m mtl_jax.report runs/sharing --costs

The same character Transformer, data, optimizer and plain sum for all; only `sharing` differs. 51
runs, about 33 minutes on 2 cores. Expected: the table in docs/sharing.md (`results/sharing/`).
"""

from mtl_jax import config as config_lib

# Our choice of sizes, so that no architecture has much more than three separate models' parameters.
OPTIONS = {
  'hard': {},
  'separate': {},
  'soft': {'penalty': 'mean', 'strength': 1e-3},
  'hierarchical': {
    'depths': ('pos=1', 'inflection=2', 'lemma=2'),
    'after': ('inflection<pos', 'lemma<pos+inflection'),
  },
  'cross_stitch': {},
  'mmoe': {'experts': 3},
  'cgc': {'shared_experts': 1, 'task_experts': 1},
  'ple': {'shared_experts': 1, 'task_experts': 1},
  'dselect_k': {'experts': 4, 'k': 2},
  'mtan': {},
  'ltb': {
    'straight_through': False,
    'temperature': 5.0,
    'final_temperature': 0.1,
    'temperature_steps': 400,
  },
  # What an earlier search with seed 0 found, trained from scratch.
  'ltb_tree': {'tree': ('pos=3/1', 'inflection=3/1', 'lemma=1/3')},
  'shared_private': {},
  'adapters': {'features': 16},
  'pals': {'features': 16},
  'lora': {'rank': 8},
  'mtl_lora': {'rank': 8},
  'hyper_adapters': {'features': 16},
}


def get_config(name=''):
  config = config_lib.default()
  config.name = 'sharing'
  config.seeds = (0, 1, 2)
  chosen = [name] if name else list(OPTIONS)
  config.variants = config_lib.dotted(
    {
      variant: {'sharing.name': variant.removesuffix('_tree')}
      | {
        f'sharing.{variant.removesuffix("_tree")}.{key}': value
        for key, value in OPTIONS[variant].items()
      }
      for variant in chosen
    }
  )
  config.tasks = config_lib.tasks({'pos': {}, 'inflection': {}, 'lemma': {}})
  config.dataset.name = 'english_words'
  config.dataset.bucket_lengths = (12, 24)
  config.encoder.name = 'transformer'
  config.encoder.embedding.features = 64
  config.encoder.transformer.update(features=64, mlp_features=128)
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule.warmup_share = 1 / 12  # 50 steps
  config.train.batch_size = 64
  config.train.steps = 600
  config.train.eval_every = 200
  config.eval.batch_size = 512
  return config
