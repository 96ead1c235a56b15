"""Tables as text: for the terminal, Markdown, LaTeX and CSV. The numbers come from `_table`."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import rich.table
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.text import Text

from mtl_jax.report._table import DELTA_M, OF_ALL, Cell, Column, Row, Table

_MARKDOWN = str.maketrans({c: f'\\{c}' for c in '\\|*`<_#['} | {'\n': ' '})
_LATEX = str.maketrans(
  {c: f'\\{c}' for c in '&%$#_{}'}
  | {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '[': '{[}',  # after a line's end it would open an optional argument
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    'Δ': r'$\Delta$',
    '±': r'$\pm$',
    '—': '---',
    '†': r'$^\dagger$',
    '↑': r'$\uparrow$',
    '↓': r'$\downarrow$',
    '\n': ' ',
  }
)


def terminal(table: Table, digits: int, console: Console) -> rich.table.Table:
  """Returns the table for a console, without its notes; in two lines a row where it is narrow."""
  wide = _terminal(table, digits, ' ')
  unlimited = console.options.update(max_width=10_000)
  fits = console.measure(wide, options=unlimited).maximum <= console.width
  return wide if fits else _terminal(table, digits, '\n')


def _terminal(table: Table, digits: int, separator: str) -> rich.table.Table:
  title = Text(f'{table.name}: {table.split}', 'bold')
  out = rich.table.Table(title=title, title_justify='left', box=SIMPLE_HEAD, pad_edge=False)
  grid = _grid(table, digits)
  out.add_column('', overflow='fold')
  for header in grid.headers:
    if not table.many:
      header = header.replace('.', '\n', 1).replace(' ', '\n', 1)
    out.add_column(Text(header), justify='right', overflow='fold')
  for number, (label, cells) in enumerate(grid.lines):
    if number == grid.section:
      out.add_section()
    shown = [
      Text.assemble(
        (cell.value or cell.missing, 'bold green' if cell.best else ''),
        (cell.interval and f'{separator}± {cell.interval}', 'dim'),
      )
      for cell in cells
    ]
    out.add_row(Text(label), *shown)
  return out


class _Shown(NamedTuple):
  """A cell as text: value and half-width, '' where there is none, and what stands for no value."""

  value: str
  interval: str = ''
  best: bool = False
  missing: str = '—'


class _Grid(NamedTuple):
  """A table as text: headers of all columns but the first, and lines of a label and the cells.

  Before line `section` something else begins, as published numbers; 0: nowhere.
  """

  headers: list[str]
  lines: list[tuple[str, list[_Shown]]]
  section: int


def _grid(table: Table, digits: int) -> _Grid:
  best = _best(table, digits)
  headers = [*map(_header, table.columns), 'seeds']
  lines = []
  for i, row in enumerate(table.rows):
    cells = [
      _Shown(*_shown(row, column, digits), (i, column.key) in best) for column in table.columns
    ]
    lines.append((_label(row), [*cells, _Shown(row.seeds, missing='')]))
  if not table.many:
    papers = [i for i, row in enumerate(table.rows) if row.paper]
    return _Grid(headers, lines, papers[0] if papers else 0)
  turned = zip(*(cells for _, cells in lines), strict=True)
  of_tasks = sum(column.key not in OF_ALL for column in table.columns)
  return _Grid(
    [label for label, _ in lines],
    [(header, list(cells)) for header, cells in zip(headers, turned, strict=True)],
    of_tasks,
  )


def markdown(tables: Sequence[Table], digits: int) -> str:
  """Returns the tables as GitHub Markdown, best values bold."""
  parts = []
  for table in tables:
    grid = _grid(table, digits)
    lines = [f'### {table.name.translate(_MARKDOWN)}: {table.split}', '']
    headers = [header.translate(_MARKDOWN) for header in grid.headers]
    lines.append(_line(['', *headers]))
    lines.append(_line([':--', *['--:'] * len(headers)]))
    for label, shown in grid.lines:
      cells = []
      for cell in shown:
        value = f'**{cell.value}**' if cell.best else cell.value or cell.missing
        cells.append(f'{value} ± {cell.interval}' if cell.interval else value)
      lines.append(_line([label.translate(_MARKDOWN), *cells]))
    lines += ['', *(f'* {note.translate(_MARKDOWN)}' for note in table.notes)]
    parts.append('\n'.join(lines) + '\n')
  return '\n'.join(parts)


def latex(tables: Sequence[Table], digits: int) -> str:
  r"""Returns a tabular for each table, to be \input in a table environment, best values bold."""
  lines = [r'% Needs \usepackage{booktabs}.']
  for table in tables:
    grid = _grid(table, digits)
    headers = [header.translate(_LATEX) for header in grid.headers]
    comments = (f'{table.name}: {table.split}', *table.notes)
    lines += ['', *(f'% {" ".join(comment.split())}' for comment in comments)]
    lines.append(rf'\begin{{tabular}}{{l{"r" * len(headers)}}}')
    lines += [r'\toprule', ' & '.join(['', *headers]) + r' \\', r'\midrule']
    for number, (label, shown) in enumerate(grid.lines):
      if number and number == grid.section:
        lines.append(r'\midrule')
      cells = []
      for cell in shown:
        value = cell.value.replace('-', '$-$') or cell.missing.translate(_LATEX)
        value = value if cell.missing else cell.value
        value = rf'\textbf{{{value}}}' if cell.best else value
        cells.append(rf'{value} {{\scriptsize $\pm$ {cell.interval}}}' if cell.interval else value)
      lines.append(' & '.join([label.translate(_LATEX), *cells]) + r' \\')
    lines += [r'\bottomrule', r'\end{tabular}']
  return '\n'.join(lines) + '\n'


def comma_separated(tables: Sequence[Table]) -> str:
  """Returns one CSV at full precision, in the units of results.json (fractions), Δm in percent."""
  keys = list(dict.fromkeys(column.key for table in tables for column in table.columns))
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  columns = [name for key in keys for name in (key, f'{key} interval95')]
  writer.writerow(['config', 'split', 'row', 'source', 'seeds', *columns])
  for table in tables:
    for row in table.rows:
      values: list[float | None] = []
      for key in keys:
        cell = row.cells.get(key)
        values += [cell.mean, cell.half_width] if cell else [None, None]
      source = 'published' if row.paper else 'runs'
      writer.writerow([table.name, table.split, row.label, source, row.seeds, *values])
  return out.getvalue()


def _line(cells: Sequence[str]) -> str:
  return f'| {" | ".join(cells)} |'


def _label(row: Row) -> str:
  return f'{row.label} †' if row.paper else row.label


def _header(column: Column) -> str:
  name = 'Δm' if column.key == DELTA_M else column.key
  unit = ' %' if column.percent else ''
  return f'{name}{unit} {"↑" if column.higher_is_better else "↓"}'


def _decimals(column: Column, digits: int) -> int:
  return digits if column.percent else digits + 2


def _shown(row: Row, column: Column, digits: int) -> tuple[str, str]:
  """Returns a cell's value and half-width as text, '' where there is none."""
  cell: Cell | None = row.cells.get(column.key)
  if cell is None:
    return '', ''
  decimals = _decimals(column, digits)
  value = cell.mean * column.scale
  if row.paper:  # as published: rounded, but not padded with digits that nobody measured
    return str(round(value, decimals)), ''
  shown = f'{value:.{decimals}f}'
  if float(shown) == 0:
    shown = shown.removeprefix('-')
  return shown, '' if cell.half_width is None else f'{cell.half_width * column.scale:.{decimals}f}'


def _best(table: Table, digits: int) -> set[tuple[int, str]]:
  """Returns (row index, column key) of each column's best values as shown, with ties."""
  best = set()
  for column in table.columns:
    shown = {i: v for i, row in enumerate(table.rows) if (v := _shown(row, column, digits)[0])}
    if len(shown) > 1:  # the only value of a column is no best one
      top = (max if column.higher_is_better else min)(map(float, shown.values()))
      best |= {(i, column.key) for i, v in shown.items() if float(v) == top}
  return best
