"""Multi-MNIST with deeper encoders: a small ResNet, MTAN's attention over its layers, and a ViT.

python -m mtl_jax.data.prepare multi_mnist --download
python -m mtl_jax.train --config=configs/multi_mnist_mtan.py --workdir=runs/multi_mnist_mtan
"""

from mtl_jax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'multi_mnist_mtan'
  config.variants = config_lib.dotted(
    {
      'resnet': {},
      'resnet_separate': {'sharing.name': 'separate'},
      'resnet_mtan': {'sharing.name': 'mtan'},
      'vit': {'encoder.name': 'vit', 'optimizer.learning_rate': 1e-3},
    }
  )
  config.tasks = config_lib.tasks({'left': {}, 'right': {}})
  config.dataset.name = 'multi_mnist'
  config.encoder.name = 'resnet'
  config.encoder.resnet.update(blocks=(1, 1, 1), features=16)
  config.encoder.vit.update(features=64, layers=3, mlp_features=128, dropout=0.1)
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule.warmup_steps = 100
  config.train.batch_size = 128
  config.train.epochs = 3.0
  return config
