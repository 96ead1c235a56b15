"""Multi-MNIST: two overlaid digits, by LeNet, after the protocol of Kurin et al. 2022.

python -m mtl_jax.data.prepare multi_mnist --download
python -m mtl_jax.train --config=configs/multi_mnist.py --workdir=runs/multi_mnist
"""

from mtl_jax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'multi_mnist'
  config.seeds = (0, 1, 2)
  config.variants = config_lib.dotted(
    {
      'hard': {},
      'separate': {'sharing.name': 'separate'},
      'cross_stitch': {'sharing.name': 'cross_stitch'},
      'mmoe': {'sharing.name': 'mmoe'},
    }
  )
  config.tasks = config_lib.tasks(
    {side: {'hidden': 50, 'dropout': 0.5} for side in ('left', 'right')}
  )
  config.dataset.name = 'multi_mnist'
  config.encoder.name = 'lenet'
  config.encoder.lenet.dropout = 0.5
  config.sharing.mmoe.experts = 2
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-2
  config.optimizer.clip_norm = 0.0
  config.optimizer.schedule.name = 'exponential'
  config.optimizer.schedule.exponential.update(rate=0.95, every=195)  # steps, an epoch
  config.train.batch_size = 256
  config.train.epochs = 100.0
  config.train.log_every = 195
  config.paper = config_lib.dotted(
    {
      'source': 'Kurin et al., In Defense of the Unitary Scalarization, NeurIPS 2022, Fig. 7(c)',
      'rows': {'unitary scalarization': {'mean': 94.76}},
    }
  )
  return config
