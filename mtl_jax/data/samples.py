"""Writes small sample files to try things on: `python -m mtl_jax.data.samples DIR`.

They are made up: texts of a few words, of which labels follow by simple rules, in several formats.
docs/your-data.md works with them.
"""

import argparse
import csv
import io
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mtl_jax import files

_TOPICS = {
  'billing': ('invoice', 'charge', 'refund', 'payment', 'card'),
  'login': ('password', 'account', 'sign-in', 'locked', 'code'),
  'shipping': ('parcel', 'address', 'courier', 'tracking', 'box'),
}
_MOODS = {'good': ('thanks', 'great', 'love'), 'bad': ('awful', 'broken', 'angry')}
_FILLERS = ('the', 'my', 'is', 'a', 'with', 'again', 'please')
_HASTE = ('now', 'urgent', 'immediately')
_PEOPLE = ('Anna', 'Boris', 'Chen', 'Dilara')
_PLACES = ('Rome', 'Lagos', 'Lima', 'Oslo')
_VERBS = ('visits', 'leaves', 'likes')


def _ticket(rng: random.Random) -> tuple[list[str], str, float, str]:
  """Words, topic, urgency and mood, '' where nobody said."""
  topic, mood = rng.choice(list(_TOPICS)), rng.choice(list(_MOODS))
  haste = rng.choices(_HASTE, k=rng.choice((0, 0, 1, 2)))
  words = [*rng.choices(_TOPICS[topic], k=2), *rng.choices(_MOODS[mood], k=1), *haste]
  words += rng.choices(_FILLERS, k=4)
  rng.shuffle(words)
  return words, topic, 1.0 + 2 * len(haste) + rng.random() / 10, rng.choice((mood, mood, ''))


def tickets(rng: random.Random) -> str:
  """CSV: 900 tickets of 90 users with a category, an urgency and, some of them, a sentiment."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(('text', 'category', 'urgency', 'sentiment', 'user'))
  for _ in range(900):
    words, topic, urgency, mood = _ticket(rng)
    text = f'{" ".join(words[:4])}, {" ".join(words[4:])}'
    writer.writerow((text, topic, f'{urgency:.2f}', mood, f'user{rng.randrange(90)}'))
  return out.getvalue()


def reviews(rng: random.Random) -> str:
  """TSV: 600 reviews with a sentiment."""
  lines = ['review\tsentiment']
  for _ in range(600):
    mood = rng.choice(list(_MOODS))
    words = [*rng.choices(_MOODS[mood], k=2), *rng.choices(('film', 'book', 'the', 'was'), k=5)]
    rng.shuffle(words)
    lines.append(f'{" ".join(words)}\t{mood}')
  return '\n'.join(lines) + '\n'


def sentences(rng: random.Random) -> str:
  """CoNLL columns: 500 sentences with parts of speech and names."""
  lines = []
  for _ in range(500):
    person, place, verb = rng.choice(_PEOPLE), rng.choice(_PLACES), rng.choice(_VERBS)
    tokens = [(person, 'PROPN', 'B-PER'), (verb, 'VERB', 'O'), (place, 'PROPN', 'B-LOC')]
    if rng.random() < 0.5:
      tokens += [('and', 'CCONJ', 'O'), (rng.choice(_PLACES), 'PROPN', 'B-LOC')]
    lines += [f'{word}\t{tag}\t{name}' for word, tag, name in tokens]
    lines.append('')
  return '\n'.join(lines) + '\n'


def topics(rng: random.Random) -> str:
  """JSON Lines: 600 texts with any number of topics."""
  lines = []
  for _ in range(600):
    chosen = rng.sample(list(_TOPICS), rng.choice((0, 1, 1, 2)))
    words = [rng.choice(_TOPICS[topic]) for topic in chosen] + rng.choices(_FILLERS, k=3)
    rng.shuffle(words)
    lines.append(json.dumps({'text': ' '.join(words), 'topics': chosen}))
  return '\n'.join(lines) + '\n'


def measurements(rng: random.Random) -> str:
  """CSV: 800 rows of four numbers with gaps, a class and a number that follow from them."""
  lines = ['x1,x2,x3,x4,state,output']
  for _ in range(800):
    x = [rng.gauss(10 * i, 1 + i) for i in range(4)]
    output = x[0] - 0.5 * (x[1] - 10) + rng.gauss(0, 0.1)
    fields = ['' if rng.random() < 0.1 else f'{value:.3f}' for value in x]
    lines.append(','.join([*fields, 'high' if output > 0 else 'low', f'{output:.3f}']))
  return '\n'.join(lines) + '\n'


SAMPLES: dict[str, Callable[[random.Random], str]] = {
  'tickets.csv': tickets,
  'reviews.tsv': reviews,
  'sentences.conll': sentences,
  'topics.jsonl': topics,
  'measurements.csv': measurements,
}
"""File -> what makes its content, the same every time."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m mtl_jax.data.samples', description='Writes small made-up sample files.'
  )
  parser.add_argument('folder', metavar='DIR', help='where; files of these names are replaced')
  folder = Path(parser.parse_args(argv).folder).expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SAMPLES.items():
      files.write(folder / name, make(random.Random(0)))
      print(f'{folder / name}: {(make.__doc__ or "").strip()}')
  except OSError as e:
    print(f'error: {folder} cannot be written: {e.strerror or e}', file=sys.stderr)
    return 3
  return 0


if __name__ == '__main__':
  sys.exit(main())
