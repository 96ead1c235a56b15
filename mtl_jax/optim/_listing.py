"""What every method needs, keeps and takes, read from the methods themselves."""

import inspect
import re
from typing import Any, NamedTuple

import jax.numpy as jnp

from mtl_jax import optim, protocols
from mtl_jax import options as options_lib

_OWN = (
  'num_tasks',
  'seed',
  'optimizer',
  'options',
)  # not a config's: known from elsewhere, or no value


class Method(NamedTuple):
  """One row of the listing, as text."""

  name: str
  summary: str
  needs: str
  state: str
  defaults: str
  paper: str


def options(name: str) -> dict[str, Any]:
  """The options of method `name` that a config can give, with their defaults; () for None."""
  return options_lib.defaults(optim.METHODS[name], _OWN)


def methods() -> list[Method]:
  """Every method, in the registry's order."""
  return [_describe(name) for name in optim.METHODS]


def _describe(name: str) -> Method:
  function = optim.METHODS[name]
  takes_tasks = 'num_tasks' in inspect.signature(function).parameters
  made = function(**({'num_tasks': 2} if takes_tasks else {}))
  text = inspect.getdoc(function) or ''
  defaults = ', '.join(
    f'{option}={"None" if default == () else repr(default)}'
    for option, default in options(name).items()
  )
  return Method(
    name, text.split('\n', maxsplit=1)[0], _needs(made), _state(made), defaults, _paper(text)
  )


def _needs(made: Any) -> str:
  extra = ''
  weighting = protocols.weighting_of(made)
  if weighting is not None and weighting.follow is not None:
    extra = ', a second forward'
  if weighting is not None and weighting.batches > 1:
    extra = f', {weighting.batches} batches'
  if made.needs == 'functions':
    extra = ', a validation batch'
  return made.needs + extra


def _state(made: Any) -> str:
  state = made.init_tasks({'w': jnp.zeros(1)}, 2)
  fields = getattr(state, '_fields', ())
  return ', '.join(fields)


def _paper(text: str) -> str:
  """The first reference, to its year."""
  found = re.search(r'References:\n(.*?)(?:\n\s*\n|\Z)', text, re.DOTALL)
  if found is None:
    return ''
  reference = ' '.join(found[1].split())
  year = re.match(r'.*?\b(?:19|20)\d\d\b(?!\.\d)', reference)  # arXiv:1912.12355 is no year
  return year[0] if year else reference


def markdown() -> str:
  """The listing as a Markdown table."""

  def cell(text: str) -> str:
    return text.replace('|', '\\|').replace('_', '\\_').replace('*', '\\*')

  lines = ['| method | needs | state | options | paper |', '| :-- | :-- | :-- | :-- | :-- |']
  for method in methods():
    kind = method.name
    defaults = f'`{method.defaults}`' if method.defaults else ''
    lines.append(
      f'| `{kind}` | {method.needs} | {cell(method.state)} | {defaults} | {cell(method.paper)} |'
    )
  return '\n'.join(lines) + '\n'
