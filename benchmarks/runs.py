"""How well finished runs kept their step fed, and how often they compiled it.

python -m benchmarks.runs DIR
"""

import argparse
import json
from pathlib import Path

from benchmarks import machine


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
  parser.add_argument('directory', type=Path, help='the workdir of `python -m mtl_jax.train`')
  directory = parser.parse_args().directory
  print(machine.begin(), end='\n\n')
  print('| run | steps | waiting for data | compilations of the step | seconds |')
  print('| --- | --- | --- | --- | --- |')
  for path in sorted(directory.glob('**/results.json')):
    results = json.loads(path.read_text(encoding='utf-8'))
    print(
      f'| {path.parent.relative_to(directory)} | {results["steps"]} | {results["data_wait"]:.1%} '
      f'| {results["compilations"]} | {results["seconds"]:.1f} |'
    )


if __name__ == '__main__':
  main()
