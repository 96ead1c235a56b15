"""Balancing methods: optax transformations on stacked task gradients, by name."""

from collections.abc import Callable
from typing import Any

from mtl_jax import errors
from mtl_jax.optim._base import Balancer, Normalizer, Weighting, compose
from mtl_jax.optim.adatask import AdaTaskState, adatask
from mtl_jax.optim.aligned import aligned_mtl
from mtl_jax.optim.auto_lambda import AutoLambdaState, auto_lambda
from mtl_jax.optim.cagrad import cagrad
from mtl_jax.optim.conflict_free import config
from mtl_jax.optim.db_mtl import DBMTLState, db_mtl
from mtl_jax.optim.dtp import DTPState, dtp
from mtl_jax.optim.dwa import DWAState, dwa
from mtl_jax.optim.excess_mtl import ExcessMTLState, excess_mtl
from mtl_jax.optim.famo import FAMOState, famo
from mtl_jax.optim.forum import ForumState, forum
from mtl_jax.optim.geometric import geometric_mean
from mtl_jax.optim.go4align import GO4AlignState, go4align
from mtl_jax.optim.graddrop import GradDropState, graddrop
from mtl_jax.optim.gradnorm import GradNormState, gradnorm
from mtl_jax.optim.gradvac import GradVacState, gradvac
from mtl_jax.optim.imgrad import imgrad
from mtl_jax.optim.imtl_g import imtl_g
from mtl_jax.optim.imtl_l import IMTLLState, imtl_l
from mtl_jax.optim.krum import krum
from mtl_jax.optim.linear import mean_tasks, static, sum_tasks
from mtl_jax.optim.lr_annealing import LRAnnealingState, lr_annealing
from mtl_jax.optim.mgda import mgda
from mtl_jax.optim.moco import MoCoState, moco
from mtl_jax.optim.moml import MOMLState, moml
from mtl_jax.optim.nash import fairgrad, nash_mtl
from mtl_jax.optim.normalize import normalize_task_gradients
from mtl_jax.optim.ntk_weights import (
  NTKWeightsState,
  ntk_trace,
  ntk_weights,
  renew_ntk_weights,
)
from mtl_jax.optim.ntkmtl import ntkmtl
from mtl_jax.optim.over_time import cr_mogm, ema_gramian, ema_weights, every_k, with_warmup
from mtl_jax.optim.pcd import PCDState, pcd
from mtl_jax.optim.pcgrad import PCGradState, pcgrad
from mtl_jax.optim.projection import dualproj, upgrad
from mtl_jax.optim.relobralo import ReLoBRaLoState, relobralo
from mtl_jax.optim.rewards import normalize_then_sum, sum_then_normalize
from mtl_jax.optim.rlw import RLWState, rlw
from mtl_jax.optim.scalarization import chebyshev, cosmos, pbi, stch
from mtl_jax.optim.sdmgrad import MoDoState, SDMGradState, modo, sdmgrad
from mtl_jax.optim.sharpness import SharpnessState, sharpness_aware
from mtl_jax.optim.soft_adapt import SoftAdaptState, soft_adapt
from mtl_jax.optim.trimmed_mean import trimmed_mean
from mtl_jax.optim.uncertainty import UncertaintyState, uncertainty
from mtl_jax.optim.wrappers import GROUPS, by_group, clip_conflict, on_shared

METHODS: dict[str, Callable[..., Balancer | Normalizer]] = {
  'sum_tasks': sum_tasks,
  'mean_tasks': mean_tasks,
  'static': static,
  'rlw': rlw,
  'uncertainty': uncertainty,
  'dwa': dwa,
  'geometric_mean': geometric_mean,
  'imtl_l': imtl_l,
  'famo': famo,
  'chebyshev': chebyshev,
  'stch': stch,
  'cosmos': cosmos,
  'pbi': pbi,
  'dtp': dtp,
  'soft_adapt': soft_adapt,
  'relobralo': relobralo,
  'go4align': go4align,
  'normalize_task_gradients': normalize_task_gradients,
  'gradnorm': gradnorm,
  'pcgrad': pcgrad,
  'pcd': pcd,
  'mgda': mgda,
  'upgrad': upgrad,
  'dualproj': dualproj,
  'cagrad': cagrad,
  'imgrad': imgrad,
  'nash_mtl': nash_mtl,
  'fairgrad': fairgrad,
  'gradvac': gradvac,
  'imtl_g': imtl_g,
  'ntkmtl': ntkmtl,
  'aligned_mtl': aligned_mtl,
  'config': config,
  'krum': krum,
  'sdmgrad': sdmgrad,
  'modo': modo,
  'cr_mogm': cr_mogm,
  'graddrop': graddrop,
  'trimmed_mean': trimmed_mean,
  'moco': moco,
  'db_mtl': db_mtl,
  'excess_mtl': excess_mtl,
  'lr_annealing': lr_annealing,
  'adatask': adatask,
  'auto_lambda': auto_lambda,
  'moml': moml,
  'forum': forum,
}
"""Every method by name."""


def get(name: str, **kwargs: Any) -> Balancer | Normalizer:
  """The method called `name`, made with `kwargs`.

  Raises:
    ValueError: no such method; the nearest names are listed.

  Example:
    >>> import mtl_jax
    >>> mtl_jax.optim.get('pcgrad', seed=1).needs
    'gramian'
  """
  if name not in METHODS:
    raise ValueError(f'Unknown balancing method {name!r}{errors.nearest(name, METHODS)}')
  return METHODS[name](**kwargs)


__all__ = [
  'GROUPS',
  'METHODS',
  'AdaTaskState',
  'AutoLambdaState',
  'Balancer',
  'DBMTLState',
  'DTPState',
  'DWAState',
  'ExcessMTLState',
  'FAMOState',
  'ForumState',
  'GO4AlignState',
  'GradDropState',
  'GradNormState',
  'GradVacState',
  'IMTLLState',
  'LRAnnealingState',
  'MOMLState',
  'MoCoState',
  'MoDoState',
  'NTKWeightsState',
  'Normalizer',
  'PCDState',
  'PCGradState',
  'RLWState',
  'ReLoBRaLoState',
  'SDMGradState',
  'SharpnessState',
  'SoftAdaptState',
  'UncertaintyState',
  'Weighting',
  'adatask',
  'aligned_mtl',
  'auto_lambda',
  'by_group',
  'cagrad',
  'chebyshev',
  'clip_conflict',
  'compose',
  'config',
  'cosmos',
  'cr_mogm',
  'db_mtl',
  'dtp',
  'dualproj',
  'dwa',
  'ema_gramian',
  'ema_weights',
  'every_k',
  'excess_mtl',
  'fairgrad',
  'famo',
  'forum',
  'geometric_mean',
  'get',
  'go4align',
  'graddrop',
  'gradnorm',
  'gradvac',
  'imgrad',
  'imtl_g',
  'imtl_l',
  'krum',
  'lr_annealing',
  'mean_tasks',
  'mgda',
  'moco',
  'modo',
  'moml',
  'nash_mtl',
  'normalize_task_gradients',
  'normalize_then_sum',
  'ntk_trace',
  'ntk_weights',
  'ntkmtl',
  'on_shared',
  'pbi',
  'pcd',
  'pcgrad',
  'relobralo',
  'renew_ntk_weights',
  'rlw',
  'sdmgrad',
  'sharpness_aware',
  'soft_adapt',
  'static',
  'stch',
  'sum_tasks',
  'sum_then_normalize',
  'trimmed_mean',
  'uncertainty',
  'upgrad',
  'with_warmup',
]
