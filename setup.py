"""Packaging of mtl_jax; tools are configured in pyproject.toml."""

import pathlib
import re

from setuptools import find_namespace_packages, find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r"__version__ = '([^']+)'", (HERE / 'mtl_jax' / '__init__.py').read_text(encoding='utf-8')
)
assert VERSION is not None

QUICKSTART = ['lemminflect>=0.2.3']
PARQUET = ['pyarrow>=18.1']
UNIGRAM = ['sentencepiece>=0.2.1']
DEV = [
  *QUICKSTART,
  *PARQUET,
  *UNIGRAM,
  'build>=1.2.1',
  'dm-haiku>=0.0.17',
  'equinox>=0.13.8',
  'hypothesis>=6.100',
  'mypy>=1.13',
  'pytest>=9.0',
  'pytest-xdist>=3.6',
  'ruff>=0.9',
]
FOLDERS = find_namespace_packages('configs', exclude=['*__pycache__*'])
CONFIGS = ['mtl_jax.configs', *(f'mtl_jax.configs.{folder}' for folder in FOLDERS)]

setup(
  name='mtl_jax',
  version=VERSION[1],
  description='Multi-task learning in JAX: train one model on many tasks, fast and exactly.',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  author='The mtl_jax authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  packages=find_packages(include=['mtl_jax', 'mtl_jax.*']) + CONFIGS,
  package_dir={'mtl_jax.configs': 'configs'},  # for `--config=mtl_jax:NAME`
  package_data={'mtl_jax': ['py.typed'], 'mtl_jax.configs': ['**/*.toml']},
  entry_points={'console_scripts': ['mtl-jax=mtl_jax.__main__:main']},
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    'array_record>=0.8.1',
    'chex>=0.1.90',
    'flax>=0.12.2',
    'grain>=0.2.15',
    'jax>=0.10',
    'matplotlib>=3.9',
    'ml_collections>=1.1',
    'numpy>=2.0',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.11.30',
    'rich>=14.3',
    'safetensors>=0.4.5',
    'scikit-learn>=1.5',
    'scipy>=1.15',
    'seqeval>=1.2.2',
    'tensorboardX>=2.6.2',
    'tensorflow-datasets>=4.9.10',
    'tokenizers>=0.21',
  ],
  extras_require={
    'quickstart': QUICKSTART,
    'parquet': PARQUET,
    'unigram': UNIGRAM,
    'dev': DEV,
    'cuda': ['jax[cuda13]>=0.10'],
    'tpu': ['jax[tpu]>=0.10'],
  },
  classifiers=[
    'Intended Audience :: Developers',
    'Intended Audience :: Science/Research',
    'License :: OSI Approved :: Apache Software License',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3 :: Only',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
)
