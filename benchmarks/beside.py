"""Commands that time the same thing in different ways, in turns on one machine.

python -m benchmarks.beside 'A=COMMAND' 'B=COMMAND' ... [--rounds 5] [--pattern REGEX]

Each command runs once a round, in a shell, and prints its milliseconds: the last match of the
pattern, by default a number before ` ms`, or after `median_ms': `. The table has the medians over
the rounds, the smallest and the largest, and the median of the ratios to the first command within a
round: what else works on the machine meets all commands of a round alike.

A training step beside PyTorch's, where FOLDER has a script that prints PyTorch's:

  python -m benchmarks.beside 'PyTorch=TORCH/bin/python FOLDER/script.py' \\
    'JAX=python -m benchmarks.steps --only shared --tasks 2 --methods sum_tasks --optimizer adam'
"""

import argparse
import re
import statistics
import subprocess
import sys

from benchmarks import machine

PATTERN = r"([\d.e+]+) ms|median_ms': ([\d.]+)"


def milliseconds(command: str, pattern: str) -> float:
  """What a command prints of itself; ends the program where it fails or prints nothing of it."""
  done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
  found = re.findall(pattern, done.stdout)
  if done.returncode or not found:
    reason = f'ended with {done.returncode}' if done.returncode else f'printed no {pattern}'
    sys.exit(f'{command}\n{reason}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}')
  last = found[-1]
  return float(last if isinstance(last, str) else next(filter(None, last)))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.beside'
  )
  parser.add_argument('commands', nargs='+', metavar='NAME=COMMAND')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--pattern', default=PATTERN, help='of the milliseconds, in a group')
  arguments = parser.parse_args()
  commands = dict(text.split('=', maxsplit=1) for text in arguments.commands)
  print(machine.begin(), end='\n\n')
  rounds = [
    {name: milliseconds(command, arguments.pattern) for name, command in commands.items()}
    for _ in range(arguments.rounds)
  ]
  first = next(iter(commands))
  print(
    f'| {arguments.rounds} rounds | median | from – to | × {first} |\n| --- | --: | --: | --: |'
  )
  for name in commands:
    taken = [row[name] for row in rounds]
    ratio = statistics.median(row[name] / row[first] for row in rounds)
    median = statistics.median(taken)
    print(f'| {name} | {median:.4g} ms | {min(taken):.4g} – {max(taken):.4g} | {ratio:.2f} |')
    machine.record('beside', name=name, milliseconds=taken, ratio=ratio)


if __name__ == '__main__':
  main()
