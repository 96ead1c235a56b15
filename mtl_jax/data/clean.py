"""What is made of a text before it is split: normal forms, entities, addresses, names of users."""

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Sequence

from mtl_jax import errors

URL, USER = '[URL]', '[USER]'
"""What stands for an address, and for the name of a user."""

_URL = re.compile(r'(?:https?://|www\.)\S+', re.IGNORECASE)
_USER = re.compile(r'(?<![\w@])@\w+')

RULES: dict[str, Callable[[str], str]] = {
  'unescape': html.unescape,
  'nfc': functools.partial(unicodedata.normalize, 'NFC'),
  'nfkc': functools.partial(unicodedata.normalize, 'NFKC'),
  'urls': functools.partial(_URL.sub, URL),
  'users': functools.partial(_USER.sub, USER),
}
"""The rules by name, in the order in which they apply: HTML's entities, Unicode's normal forms,
addresses by `URL`, names of users by `USER`."""


def check(names: Sequence[str]) -> None:
  """Raises ConfigError for a name of no rule."""
  for name in names:
    if name not in RULES:
      raise errors.ConfigError(f'normalize: no {name!r}{errors.nearest(name, RULES)}')


def cleaner(names: Sequence[str]) -> Callable[[str], str]:
  """Returns what applies some rules to a text; one of which nothing would be left stays as it is.

  >>> cleaner(['urls', 'unescape'])('Q&amp;A at https://example.org/faq')
  'Q&A at [URL]'

  Raises:
    ConfigError: there is no such rule.
  """
  check(names)
  chosen = [rule for name, rule in RULES.items() if name in names]

  if not chosen:
    return str

  def clean(text: str) -> str:
    made = text
    for rule in chosen:
      made = rule(made)
    return made if made.strip() else text

  return clean
