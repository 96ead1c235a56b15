"""The command that predicts: every format in and out, its options, standard input, its errors.

What is predicted is held by tests/trained_test.py; here it only has to be that.
"""

import gzip
import io
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mtl_jax import config as config_lib
from mtl_jax import predict, trained
from mtl_jax.data import described, formats
from tests import small_runs

TEXTS = ['my invoice, again', 'the "password" is a box', 'parcel']
SENTENCES = [['Anna', 'visits', 'Rome'], ['unhurriedly']]


def run(capsysbinary, *argv):
  """Exit code, standard output, and the lines of standard error."""
  code = predict.main([str(word) for word in argv])
  out, err = capsysbinary.readouterr()
  return code, out, err.decode().splitlines()


def read(path, **reading):
  found = list(formats.read(path, formats.Reading(**reading)))
  assert all(isinstance(item, formats.Record) for item in found), found
  return [item.fields for item in found]


def labels(model, inputs, task):
  return [row[task]['label'] for row in model.predict(inputs)]


def as_csv(delimiter):
  def content(texts):
    fields = [text.replace('"', '""') for text in texts]
    lines = [f'id{delimiter}text', *(f'{i}{delimiter}"{text}"' for i, text in enumerate(fields))]
    return ('\n'.join(lines) + '\n').encode()

  return content


def as_json(texts):
  return json.dumps(
    [{'id': str(i), 'text': text} for i, text in enumerate(texts)], indent=2
  ).encode()


def as_jsonl(texts):
  return b''.join(
    json.dumps({'id': str(i), 'text': t}).encode() + b'\n' for i, t in enumerate(texts)
  )


def as_parquet(texts):
  arrow, parquet = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
  out = io.BytesIO()
  table = {'id': [str(i) for i in range(len(texts))], 'text': texts}
  parquet.write_table(arrow.table(table), out)
  return out.getvalue()


@pytest.mark.parametrize(
  ('name', 'make'),
  [
    ('new.csv', as_csv(',')),
    ('new.csv', as_csv(';')),
    ('new.tsv', as_csv('\t')),
    ('new.csv.gz', lambda texts: gzip.compress(as_csv(',')(texts))),
    ('new.jsonl', as_jsonl),
    ('new.ndjson', as_jsonl),
    ('new.json', as_json),
    ('new.parquet', as_parquet),
  ],
)
def test_texts_in_and_out(name, make, tmp_path, small_run, capsysbinary):
  made = small_run('text')
  path, out = tmp_path / name, tmp_path / f'out_{name}'
  path.write_bytes(make(TEXTS))
  argv = [made.path, path, '--output', out, '--probabilities', '--task=category,topics']
  assert run(capsysbinary, *argv) == (0, b'', [])
  rows = read(out)
  new = ['category', 'topics', 'category_probabilities', 'topics_probabilities']
  assert [list(row) for row in rows] == [['id', 'text', *new]] * 3
  assert [(row['id'], row['text']) for row in rows] == [(str(i), t) for i, t in enumerate(TEXTS)]
  expected = made.loaded.predict(TEXTS)
  for row, found in zip(rows, expected, strict=True):
    values = [row[key] for key in new]
    if 'json' not in name:
      values[1:] = [json.loads(value) if isinstance(value, str) else value for value in values[1:]]
    shares = [found[task]['probabilities'] for task in ('category', 'topics')]
    assert values[0] == found['category']['label']
    assert list(values[1]) == found['topics']['label']
    assert values[2:] == [pytest.approx(share, abs=1e-6) for share in shares]


def test_what_goes_to_standard_output_is_the_file(tmp_path, small_run, capsysbinary):
  made = small_run('text')
  path = tmp_path / 'new.csv'
  path.write_bytes(as_csv(',')(TEXTS).replace(b'\n', b'\r\n'))
  code, out, err = run(capsysbinary, made.path, path, '--task', 'category')
  assert (code, err) == (0, [])
  found = labels(made.loaded, TEXTS, 'category')
  before = path.read_bytes().split(b'\r\n')
  assert out.split(b'\r\n')[0] == before[0].replace(b'text', b'text,"category"', 1).replace(
    b'"category"', b'category'
  )
  assert out.split(b'\r\n')[1:4] == [
    line + b',' + label.encode() for line, label in zip(before[1:], found, strict=False)
  ]


def like(made, **files):
  """The model of a run as if it had been trained on files that are read in another way."""
  model = made.loaded
  options = {
    name: made.run['dataset']['files']['rows'] | {'input_kind': 'words'} | given
    for name, given in files.items()
  }
  tasks = {name: dict(given) for name, given in made.run['tasks'].items()}
  first = next(iter(files))
  tasks = {name: given | {'files': (first,)} for name, given in tasks.items()}
  tasks['mood'] |= {'files': tuple(files)}
  source = described.describe(options, tasks)
  return trained.Trained(model.run, model.model, model.params, model.serving, source)


@pytest.fixture
def loaded(monkeypatch):
  """Has the command load a given model."""

  def use(model):
    monkeypatch.setattr(trained, 'load', lambda *_, **__: model)
    return 'RUN'

  return use


@pytest.mark.parametrize('name', ['new.conll', 'new.iob2', 'new.conllu'])
def test_words_in_columns(name, tmp_path, small_run, capsysbinary, loaded):
  made = small_run('wordpiece')
  lines = []
  for sentence in SENTENCES:
    lines.append('# text = ' + ' '.join(sentence))
    for number, word in enumerate(sentence, 1):
      rest = '\t_' * 8 if name.endswith('u') else ''
      lines.append(f'{number}\t{word}{rest}' if rest else f'{word}\tX')
    lines.append('')
  path, out = tmp_path / name, tmp_path / f'out_{name}'
  path.write_text('\n'.join(lines) + '\n')
  model = (
    like(made, rows={'input': 'form'})
    if name.endswith('u')
    else like(made, rows={'input': 'words', 'columns': ('words', 'x')})
  )
  assert run(capsysbinary, loaded(model), path, '-o', out)[0::2] == (0, [])
  found = made.loaded.predict(SENTENCES)
  tags = [tag for row in found for tag in row['name']['label']]
  after = out.read_text().splitlines()
  words = [line.split('\t') for line in after if line and line[0] != '#']
  assert [line[-1] for line in words] == tags
  assert [line[1 if name.endswith('u') else 0] for line in words] == [
    word for sentence in SENTENCES for word in sentence
  ]
  comments = [line for line in after if line.startswith('# mood')]
  assert comments == [f'# mood = {row["mood"]["label"]}' for row in found]


def test_files_of_two_ways_of_reading(tmp_path, small_run, capsysbinary, loaded):
  """The one that a new file is like is found by what it holds, or told."""
  made = small_run('wordpiece')
  model = like(
    made,
    first={'input': 'words', 'columns': ('words', 'a', 'b')},
    second={'input': 'token', 'columns': ('id', 'token')},
  )
  path = tmp_path / 'new.conll'
  path.write_text('1\tAnna\n2\tvisits\n\n1\tRome\n\n')
  expected = made.loaded.predict([['Anna', 'visits'], ['Rome']])
  for more in ([], ['--file=second']):
    code, out, err = run(capsysbinary, loaded(model), path, '--task=name', *more)
    assert (code, err) == (0, [])
    words = [line.split('\t') for line in out.decode().splitlines() if line]
    assert [line[1] for line in words] == ['Anna', 'visits', 'Rome']
    assert [line[2] for line in words] == [t for row in expected for t in row['name']['label']]
  code, _, err = run(capsysbinary, loaded(model), path, '--file=secnd')
  assert (code, len(err)) == (2, 1)
  assert "no file 'secnd' in the run; did you mean 'second'?" in err[0]


def test_spans(tmp_path, small_run, capsysbinary):
  made = small_run('wordpiece')
  path, out = tmp_path / 'new.jsonl', tmp_path / 'out.jsonl'
  rows = [{'text': ' '.join(s), 'label': [[0, len(s[0]), 'X']]} for s in SENTENCES]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert run(capsysbinary, made.path, path, '--output', out) == (0, b'', [])
  after = [json.loads(line) for line in out.read_text().splitlines()]
  for row, before, found in zip(after, rows, made.loaded.predict(SENTENCES), strict=True):
    assert {key: row[key] for key in before} == before
    assert row['mood'] == found['mood']['label']
    named = {i for start, stop, _ in row['name'] for i in range(start, stop)}
    at, expected = 0, set()
    for word, tag in zip(before['text'].split(), found['name']['label'], strict=True):
      expected |= set(range(at, at + len(word))) if tag != 'O' else set()
      at += len(word) + 1
    assert {i for i in named if before['text'][i] != ' '} == expected


def test_arrays_and_folders_of_images(tmp_path, small_run, capsysbinary):
  pillow = pytest.importorskip('PIL.Image')
  made = small_run('images')
  images = np.stack(made.inputs['train'][:9])
  expected = labels(made.loaded, images, 'digit')
  path, out = tmp_path / 'new.npz', tmp_path / 'out.npz'
  np.savez(path, image=images, id=np.arange(9))
  assert run(capsysbinary, made.path, path, '--output', out) == (0, b'', [])
  with np.load(out) as found:
    assert found['digit'].tolist() == expected
    np.testing.assert_array_equal(found['image'], images)
    assert found['id'].tolist() == list(range(9))
  folder = tmp_path / 'folder' / 'any'
  folder.mkdir(parents=True)
  for number, image in enumerate(images):
    pillow.fromarray(image[..., 0]).save(folder / f'{number}.png')
  code, printed, err = run(capsysbinary, made.path, tmp_path / 'folder')
  assert (code, err) == (0, [])
  lines = printed.decode().splitlines()
  assert [line.split(',')[1] for line in lines[1:]] == expected
  np.savez(path, image=images[:, :2])
  code, _, err = run(capsysbinary, made.path, path)
  assert (code, len(err)) == (3, 1)
  assert 'the model cannot read arrays [2, 4, 1]' in err[0]


def test_columns_of_numbers(tmp_path, small_run, capsysbinary):
  made = small_run('numbers')
  path = tmp_path / 'new.csv'
  path.write_text('x0,x1,x2\n1,2,3\n,5.5,1e1\n')
  code, out, err = run(capsysbinary, made.path, path)
  assert (code, err) == (0, [])
  found = made.loaded.predict([[1, 2, 3], [None, 5.5, 10]])
  lines = out.decode().splitlines()
  assert lines[0] == 'x0,x1,x2,state,output'
  for line, row in zip(lines[1:], found, strict=True):
    state, output = line.split(',')[3:]
    assert state == row['state']['label']
    assert float(output) == pytest.approx(row['output']['label'], rel=1e-5)
  for content, code, message in (
    ('x0,x1\n1,2\n', 3, '2 numbers, and the model reads 3'),
    ('x0,x1,x2\n1,2,3\n1,many,3\n', 3, "line 3: 'many' is no number"),
    ('a,b\n1,2\n', 2, 'there is no column that is read: need x* as rows has; there are a, b'),
  ):
    path.write_text(content)
    found = run(capsysbinary, made.path, path, '--output', tmp_path / 'none.csv')
    assert found[0] == code
    assert len(found[2]) == 1, found
    assert message in found[2][0]
    assert not (tmp_path / 'none.csv').exists()


@pytest.mark.parametrize('name', ['new.csv', 'new.jsonl', 'new.conll'])
def test_what_is_cut_is_told_in_one_line(name, tmp_path, small_run, capsysbinary, loaded):
  path = tmp_path / name
  if name == 'new.conll':
    made = small_run('wordpiece')
    model = loaded(like(made, rows={'input': 'words', 'columns': ('words',)}))
    path.write_text('Anna\n' * 60 + '\nRome\n\n')
  else:
    made = small_run('text')
    model = made.path
    long = 'box ' * 60
    path.write_bytes((as_csv(',') if name == 'new.csv' else as_jsonl)([long, 'box', long]))
  code, out, err = run(capsysbinary, model, path)
  longest = made.loaded.serving.bucket_lengths[-1]
  count, total = (1, 2) if name == 'new.conll' else (2, 3)
  assert code == 0
  assert err == [
    f'warning: {count} of {total} inputs were longer than any in training and were cut at '
    f'{longest} tokens'
  ]
  if name == 'new.conll':  # what was cut off has no tag, and keeps its line
    words = [line.split() for line in out.decode().splitlines() if line and line[0] != '#']
    assert len(words) == 61
    assert all(tag == '_' for _, tag in words[longest:60])
    assert '_' not in (words[0][1], words[60][1])


def test_seeds_and_variants(tmp_path, capsysbinary):
  config = small_runs.config('text', tmp_path)
  config.seeds = (0, 1)
  config.variants = config_lib.dotted({'a': {}, 'b': {'sharing.name': 'mmoe'}})
  small_runs.write(config, tmp_path / 'runs')
  (tmp_path / 'new.jsonl').write_bytes(as_jsonl(TEXTS))

  def shares(*argv):
    code, out, err = run(
      capsysbinary, argv[0], tmp_path / 'new.jsonl', '--probabilities', '--task=category', *argv[1:]
    )
    assert (code, err) == (0, [])
    rows = [json.loads(line)['category_probabilities'] for line in out.splitlines()]
    return np.array([list(row.values()) for row in rows])

  runs = tmp_path / 'runs'
  first, second = shares(runs / 'a' / 'seed_0'), shares(runs / 'a', '--seeds=1')
  assert np.abs(first - second).max() > 0.01
  both = shares(runs, '--variant=a', '--seeds=all')
  np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)
  np.testing.assert_allclose(shares(runs / 'a', '--seeds=0,1'), both, atol=1e-7)
  for argv, code, message in (
    ([runs], 2, 'holds several variants'),
    ([runs, '--variant=c'], 2, "no variant 'c'"),
    ([runs / 'a', '--seeds=7'], 2, 'no seed 7'),
    ([tmp_path], 4, 'holds no run that was trained'),
    ([tmp_path / 'nowhere'], 4, 'holds no run that was trained'),
    ([runs / 'a', '--task=categry'], 2, "--task: no task 'categry'; did you mean 'category'?"),
  ):
    found = run(capsysbinary, argv[0], tmp_path / 'new.jsonl', *argv[1:])
    assert found[0] == code, found
    assert len(found[2]) == 1
    assert found[2][0].startswith('error: ')
    assert message in found[2][0]


def test_malformed_rows_stop_or_are_left_out(tmp_path, small_run, capsysbinary):
  made = small_run('text')
  path, out = tmp_path / 'new.csv', tmp_path / 'out.csv'
  out.write_text('as before')
  path.write_text('id,text\n0,the box\n1,too,many\n2, \n3,parcel\n')
  code, _, err = run(capsysbinary, made.path, path, '--output', out)
  assert (code, len(err)) == (3, 1)
  assert f'{path}, line 3: 3 fields, expected 2. Mend it, or leave' in err[0]
  assert out.read_text() == 'as before'
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []
  argv = [made.path, path, '--output', out, '--on_error=skip', '--task=category']
  code, _, err = run(capsysbinary, *argv)
  assert code == 0
  assert err == [
    f'left out: {path}, line 3: 3 fields, expected 2',
    f"left out: {path}, line 4: column 'text' is empty",
    '2 rows predicted, 2 malformed ones left out',
  ]
  assert [row['id'] for row in read(out)] == ['0', '3']


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (None, 'no such file'),
    (b'', 'empty'),
    (b'words,id\nthe box,1\n', 'there is no column that is read: need text as rows has'),
    (b'{"text": 1}\n', 'this is JSON'),
    (b'text,id\n\xff\xfe,1\n', 'UTF-8'),
  ],
)
def test_what_is_no_such_file(content, message, tmp_path, small_run, capsysbinary):
  path = tmp_path / 'new.csv'
  if content is not None:
    path.write_bytes(content)
  code, out, err = run(capsysbinary, small_run('text').path, path)
  assert code in (2, 3)
  assert len(err) == 1
  assert message in err[0]
  assert b'box' not in out


def test_a_header_alone_gives_a_header(tmp_path, small_run, capsysbinary):
  path = tmp_path / 'new.csv'
  path.write_text('id,text\n')
  assert run(capsysbinary, small_run('text').path, path, '--task=category') == (
    0,
    b'id,text,category\n',
    [],
  )


def test_a_format_that_is_told(tmp_path, small_run, capsysbinary):
  made = small_run('text')
  path = tmp_path / 'new.data'
  path.write_bytes(as_jsonl(TEXTS))
  code, _, err = run(capsysbinary, made.path, path)
  assert code == 3
  assert "suffix '.data' says no format" in err[0]
  code, out, err = run(capsysbinary, made.path, path, '--format=jsonl')
  assert (code, err, len(out.splitlines())) == (0, [], 3)


def test_the_output_is_not_the_input(tmp_path, small_run, capsysbinary):
  path, link = tmp_path / 'new.csv', tmp_path / 'link.csv'
  content = as_csv(',')(TEXTS)
  path.write_bytes(content)
  link.symlink_to(path)
  for out in (path, tmp_path / '.' / 'new.csv', link):
    code, _, err = run(capsysbinary, small_run('text').path, path, '--output', out)
    assert code == 2
    assert err == [f'error: --output={out}: that is the input; give the output another name']
  assert path.read_bytes() == content
  assert sorted(tmp_path.iterdir()) == [link, path]


def test_an_output_that_cannot_be_written(tmp_path, small_run, capsysbinary):
  path = tmp_path / 'new.jsonl'
  path.write_bytes(as_jsonl(TEXTS))
  found = run(capsysbinary, small_run('text').path, path, '-o', tmp_path / 'no' / 'out.jsonl')
  assert found[0] == 4
  assert found[2] == [f'error: {tmp_path / "no" / "out.jsonl"}: No such file or directory']


def lines_in(monkeypatch, content):
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_and_its_errors(tmp_path, small_run, capsysbinary, monkeypatch):
  made = small_run('text')
  content = '\ufeffthe böx\r\n\nmy invoice\n'.encode() + b'\xff\nparcel'
  lines_in(monkeypatch, content)
  code, out, err = run(capsysbinary, made.path)
  assert (code, len(err)) == (3, 1)
  assert 'standard input, line 2: it is empty' in err[0]
  assert [json.loads(line)['text'] for line in out.splitlines()] == ['the böx']
  lines_in(monkeypatch, content)
  code, out, err = run(capsysbinary, made.path, '-', '--on_error=skip', '--task=category')
  rows = [json.loads(line) for line in out.splitlines()]
  assert [row['text'] for row in rows] == ['the böx', 'my invoice', 'parcel']
  assert [row['category'] for row in rows] == labels(
    made.loaded, ['the böx', 'my invoice', 'parcel'], 'category'
  )
  assert code == 0
  assert err == [
    'left out: standard input, line 2: it is empty',
    'left out: standard input, line 4: it is not in UTF-8',
    '3 rows predicted, 2 malformed ones left out',
  ]
  lines_in(monkeypatch, b'')
  assert run(capsysbinary, made.path) == (0, b'', [])
  lines_in(monkeypatch, b'the box\n')
  assert run(capsysbinary, made.path, '-o', tmp_path / 'out.jsonl') == (0, b'', [])
  assert len((tmp_path / 'out.jsonl').read_text().splitlines()) == 1
  lines_in(monkeypatch, b'Anna visits Rome\n')
  code, out, err = run(capsysbinary, small_run('wordpiece').path)
  assert (code, err) == (0, [])
  assert len(json.loads(out)['name']) == 3
  code, _, err = run(capsysbinary, small_run('numbers').path)
  assert (code, len(err)) == (2, 1)
  assert 'give a file' in err[0]


def test_a_process_of_its_own(tmp_path, small_run):
  """Each line is answered before the next is sent; nothing is said beside the answers."""
  made = small_run('text')
  command = [sys.executable, '-m', 'mtl_jax.predict', str(made.path), '--task=category']
  root = pathlib.Path(__file__).parents[1]
  with subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root
  ) as process:
    for text, label in zip(TEXTS, labels(made.loaded, TEXTS, 'category'), strict=True):
      process.stdin.write(text.encode() + b'\n')
      process.stdin.flush()
      assert json.loads(process.stdout.readline()) == {'text': text, 'category': label}
    process.stdin.close()
    assert process.wait() == 0
    assert process.stderr.read() == b''
    assert process.stdout.read() == b''


@pytest.mark.skipif(shutil.which('bash') is None, reason='needs bash')
def test_whoever_reads_may_have_enough(tmp_path, small_run):
  made = small_run('text')
  path = tmp_path / 'new.csv'
  path.write_bytes(as_csv(',')(TEXTS * 4000))
  command = f'"{sys.executable}" -m mtl_jax.predict "{made.path}" "{path}"'
  line = command + ' | head -n 1; echo "${PIPESTATUS[0]}"'
  done = subprocess.run(
    ['bash', '-c', line],
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).parents[1],
  )
  assert done.stdout.splitlines() == ['id,text,category,urgency,topics', '0']
  assert done.stderr == ''
