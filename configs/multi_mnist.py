"""Multi-MNIST: two overlaid digits, by LeNet, a small ResNet and a small ViT, shared in some ways.

  python -m mtl_jax.data.prepare multi_mnist --download
  python -m mtl_jax.train --config=configs/multi_mnist.py --workdir=runs/multi_mnist

Three epochs, 1170 steps, of each, 3 seeds: about 35 minutes on two cores. Accuracy of the left
digit, of the right one and of both on the test split (`results/multi_mnist/`; all in
docs/sharing.md): LeNet 94.76 ± 0.95, 92.65 ± 0.93, 87.89 ± 0.59; cross-stitched 95.68 ± 0.31,
94.10 ± 0.61, 90.11 ± 0.68.
"""

from mtl_jax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'multi_mnist'
  config.seeds = (0, 1, 2)
  resnet = {'encoder.name': 'resnet'}
  config.variants = config_lib.dotted(
    {
      'lenet': {},
      'lenet_separate': {'sharing.name': 'separate'},
      'lenet_cross_stitch': {'sharing.name': 'cross_stitch'},
      'lenet_mmoe': {'sharing.name': 'mmoe'},
      'resnet': resnet,
      'resnet_mtan': {**resnet, 'sharing.name': 'mtan'},
      'vit': {'encoder.name': 'vit'},
    }
  )
  config.tasks = config_lib.tasks({'left': {'hidden': 50}, 'right': {'hidden': 50}})
  config.dataset.name = 'multi_mnist'
  config.encoder.name = 'lenet'
  config.encoder.resnet.update(blocks=(1, 1, 1), features=8)
  config.encoder.vit.update(features=64, layers=3, mlp_features=128)
  config.sharing.mmoe.experts = 2
  config.optimizer.learning_rate = 2e-3
  config.optimizer.schedule.warmup_steps = 100
  config.train.batch_size = 128
  config.train.epochs = 3.0
  return config
