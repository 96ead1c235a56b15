"""JSON objects as text: parsed strictly, and given new keys without touching the old ones."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from mtl_jax import errors
from mtl_jax.data.formats import _base

_OPENING = re.compile(r'\{(\s*)(?:"(?:[^"\\]|\\.)*"\s*:(\s*))?')


class BrokenError(ValueError):
  """What is wrong with a text that should be a JSON object."""


class Text(NamedTuple):
  """An object as it stands in its file, for the writer."""

  text: str


def parse(text: str) -> dict[str, Any]:
  """Returns the object that a text holds.

  Raises:
    BrokenError: it is no JSON or no object, or holds what JSON does not have or what cannot be told
      apart: NaN, infinities, numbers beyond all floats, a key twice, half of a character.
  """
  try:
    value = _DECODER.decode(text)
  except json.JSONDecodeError as error:
    raise BrokenError(f'invalid JSON: {error.msg} at character {error.pos + 1}') from error
  except RecursionError as error:
    raise BrokenError('invalid JSON: nested too deeply') from error
  except BrokenError:
    raise
  except ValueError as error:  # an integer of thousands of digits
    raise BrokenError(f'invalid JSON: {error}') from error
  if not isinstance(value, dict):
    raise BrokenError(f'{kind(value)}, and no JSON object')
  if '\\u' in text:
    halves = errors.no_text(json.dumps(value, ensure_ascii=False))
    if halves:
      raise BrokenError(f'it {halves}')
  return value


def kind(value: Any) -> str:
  """Returns what a JSON value is, for messages."""
  names = {dict: 'an object', list: 'a list', str: 'a text', bool: 'true or false'}
  return 'null' if value is None else names.get(type(value), 'a number')


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise BrokenError(f'the key {twice!r} stands there twice')
  return found


def _constant(name: str) -> NoReturn:
  raise BrokenError(f'{name} is no JSON: leave the key out, or write null')


def _float(text: str) -> float:
  number = float(text)
  if number in (float('inf'), float('-inf')):
    raise BrokenError(f'{text[:20]} is beyond all floats')
  return number


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def extended(record: _base.Record, values: Mapping[str, Any], names: Mapping[str, str]) -> str:
  """Returns an object's text with new keys at its end, laid out as the others are.

  Args:
    record: the object; its text is kept if it has a `Text`, else made of its fields.
    values: new column -> value.
    names: new column -> its key; one that the object has already gets another name.
  """
  fields = record.fields
  raw = record.extra.text.strip() if isinstance(record.extra, Text) else dumps(fields)
  if not names:
    return raw
  taken = [names[column] for column in names if names[column] in fields]
  if taken:
    names = _base.fresh(list(names), [*fields, *taken])
  found = _OPENING.match(raw)
  lead, colon = (found[1], found[2]) if found else ('', None)
  colon = ' ' if colon is None else colon
  body = raw[:-1].rstrip()
  gap = raw[len(body) : -1]
  comma = ',' + (lead if '\n' in lead else '' if not colon else ' ')
  parts = [f'{dumps(names[column])}:{colon}{dumps(values.get(column))}' for column in names]
  if body == '{':
    return '{' + comma.join(parts) + '}'
  return body + comma + comma.join(parts) + gap + '}'


def dumps(value: Any) -> str:
  """Returns a value as JSON; characters that are not ASCII stay."""
  return json.dumps(_base.plain(value), ensure_ascii=False, allow_nan=False)
