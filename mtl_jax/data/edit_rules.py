"""Lemmas as edit rules, so that lemmatization is classification. Knows strings only.

A rule rewrites a word form into its lemma. It has two parts, as in UDPipe 2: a casing script, and
an edit script found on the lower-cased strings. The edit script keeps the longest common substring
of form and lemma and edits what precedes and what follows it; with nothing in common, it is the
lemma itself.

Reference: Straka, "UDPipe 2.0 Prototype at CoNLL 2018 UD Shared Task" (2018), section 3.3.
"""

import functools
import re

_COPY, _DELETE, _INSERT, _MIDDLE, _WHOLE = '=', '-', '+', '|', '*'
_RULE = re.compile(r'((?:[ul]-?\d+)*);(.*)', re.DOTALL)
_RUN = re.compile(r'([ul])(-?\d+)')


def edit_rule(form: str, lemma: str) -> str:
  """Returns the rule that turns `form` into `lemma`.

  Args:
    form: a word form.
    lemma: its lemma.

  Returns:
    `CASING;EDITS`. CASING lists where runs of upper (`u`) and lower (`l`) case begin in the lemma,
    counted from its end in its second half; it is empty for a lemma all in lower case. EDITS is
    `PREFIX|SUFFIX` with `=` copy, `-` delete, `+c` insert c, or `*LEMMA` for a lemma that shares
    no character with the form.

  >>> edit_rule('running', 'run'), edit_rule('Better', 'good'), edit_rule('London', 'London')
  (';|----', ';*good', 'u0l1;|')
  """
  source, target = _fold(form), _fold(lemma)
  start, at, size = _longest_common_substring(source, target)
  if not size:
    return f'{_casing(lemma)};{_WHOLE}{target}'
  prefix = _shortest_edits(source[:start], target[:at])
  suffix = _shortest_edits(source[start + size :], target[at + size :])
  return f'{_casing(lemma)};{prefix}{_MIDDLE}{suffix}'


def apply_rule(form: str, rule: str) -> str:
  """Returns the lemma that `rule` makes of `form`.

  Args:
    form: a word form, not necessarily the one that the rule was made from.
    rule: a rule of `edit_rule`.

  Raises:
    ValueError: `rule` is not a rule, or the form is too short for its edits.

  >>> apply_rule('sinning', ';|----')
  'sin'
  """
  match = _RULE.fullmatch(rule)
  if not match:
    raise ValueError(f'{rule!r} is not an edit rule')
  casing, edits = match.groups()
  if edits.startswith(_WHOLE):
    lemma = edits[1:]
  else:
    source = _fold(form)
    prefix, suffix = _parse(edits, rule)
    head = sum(operation != _INSERT for operation, _ in prefix)
    tail = len(source) - sum(operation != _INSERT for operation, _ in suffix)
    if head > tail:
      raise ValueError(f'{form!r} is too short for the edit rule {rule!r}')
    lemma = _edit(source[:head], prefix) + source[head:tail] + _edit(source[tail:], suffix)
  return _recase(lemma, casing)


def _fold_character(character: str) -> str:
  # Some letters have no lower case of one character that leads back to them: they stay.
  lower = character.lower()
  return lower if len(lower) == 1 and lower.upper() == character else character


def _fold(string: str) -> str:
  return ''.join(map(_fold_character, string))


def _casing(lemma: str) -> str:
  runs = ''
  case = 'l'
  for index, character in enumerate(lemma):
    if _fold_character(character) != character:
      now = 'u'
    elif character.upper() == character:
      now = case  # without case: goes on with the run
    else:
      now = 'l'
    if now != case or (index == 0 and now == 'u'):
      runs += f'{now}{index if 2 * index < len(lemma) else index - len(lemma)}'
    case = now
  return runs


def _recase(lemma: str, casing: str) -> str:
  runs = [(case, int(position)) for case, position in _RUN.findall(casing)]
  starts = [position if position >= 0 else max(position + len(lemma), 0) for _, position in runs]
  for number, (case, _) in enumerate(runs):
    if case == 'u':
      # On a shorter word than the rule was made from, runs may begin in another order.
      end = max(starts[number], starts[number + 1] if number + 1 < len(runs) else len(lemma))
      lemma = lemma[: starts[number]] + _upper(lemma[starts[number] : end]) + lemma[end:]
  return lemma


def _upper(string: str) -> str:
  return ''.join(c.upper() if len(c.upper()) == 1 else c for c in string)


def _longest_common_substring(source: str, target: str) -> tuple[int, int, int]:
  """Returns (start in source, start in target, size): the longest, then the leftmost in source."""
  for size in range(min(len(source), len(target)), 0, -1):
    for start in range(len(source) - size + 1):
      at = target.find(source[start : start + size])
      if at >= 0:
        return start, at, size
  return 0, 0, 0


@functools.lru_cache(maxsize=4096)
def _shortest_edits(source: str, target: str) -> str:
  """Returns the shortest script of copies, deletions and insertions, preferred in this order."""
  scripts = [''] + [''.join(_INSERT + c for c in target[j:]) for j in range(len(target))][::-1]
  # scripts[k]: from the rest of source to the last k characters of target.
  for i in range(len(source) - 1, -1, -1):
    row = [_DELETE + scripts[0]]
    for k in range(1, len(target) + 1):
      character = target[len(target) - k]
      candidates = [_DELETE + scripts[k], _INSERT + character + row[k - 1]]
      if source[i] == character:
        candidates.insert(0, _COPY + scripts[k - 1])
      row.append(min(candidates, key=len))
    scripts = row
  return scripts[len(target)]


def _parse(edits: str, rule: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
  parts: list[list[tuple[str, str]]] = [[]]
  characters = iter(edits)
  for operation in characters:
    if operation == _MIDDLE and len(parts) == 1:
      parts.append([])
    elif operation in (_COPY, _DELETE):
      parts[-1].append((operation, ''))
    elif operation == _INSERT and (character := next(characters, '')):
      parts[-1].append((operation, character))
    else:
      raise ValueError(f'{rule!r} is not an edit rule')
  if len(parts) != 2:
    raise ValueError(f'{rule!r} is not an edit rule')
  return parts[0], parts[1]


def _edit(source: str, operations: list[tuple[str, str]]) -> str:
  result, position = '', 0
  for operation, character in operations:
    if operation == _INSERT:
      result += character
      continue
    if operation == _COPY:
      result += source[position]
    position += 1
  return result
