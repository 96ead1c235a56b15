"""Data sets of TFDS, prepared in small; errors say how to prepare one."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files


class SmallForFormats(tfds.core.GeneratorBasedBuilder):
  """Three examples in train and one in test."""

  VERSION = tfds.core.Version('1.2.0')
  url_infos = None  # else looked for beside this file

  def _info(self):
    classes = tfds.features.ClassLabel(names=['no', 'yes'])
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'text': tfds.features.Text(),
          'label': classes,
          'tags': tfds.features.Sequence(classes),
          'words': tfds.features.Sequence(tfds.features.Text()),
          'parts': tfds.features.Sequence({'kind': classes, 'at': np.int64}),
          'inner': {'label': classes, 'score': np.float32},
          'image': tfds.features.Tensor(shape=(2, 2), dtype=np.uint8),
        }
      )
    )

  def _split_generators(self, dl_manager):
    return {'train': self._examples(3), 'test': self._examples(1)}

  def _generate_examples(self):
    return self._examples(1)

  def _examples(self, count):
    for index in range(count):
      yield (
        index,
        {
          'text': f'é{index}',
          'label': index % 2,
          'tags': [0, 1],
          'words': ['a', 'b'],
          'parts': [{'kind': 1, 'at': 5}],
          'inner': {'label': 1, 'score': 0.5},
          'image': np.full((2, 2), index, np.uint8),
        },
      )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  tfds.disable_progress_bar()
  SmallForFormats(data_dir=folder).download_and_prepare(file_format='array_record')
  return str(folder)


@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('tfds:small_for_formats:train', 3),
    ('tfds:small_for_formats:1.2.0:test', 1),
    ('tfds:small_for_formats:train[1:]', 2),
    ('tfds:small_for_formats:train+test', 4),
  ],
)
def test_examples(folder, name, count):
  found = files.records(name, data_dir=folder)
  assert len(found) == count
  assert found[0].place == 'row 1'
  fields = dict(found[0].fields)
  image = fields.pop('image')
  assert image.dtype == np.uint8
  assert image.shape == (2, 2)
  assert fields.pop('text')[0] == 'é'
  assert fields.pop('label') in ('no', 'yes')
  assert fields == {
    'tags': ['no', 'yes'],
    'words': ['a', 'b'],
    'parts': {'kind': ['yes'], 'at': [5]},
    'inner': {'label': 'yes', 'score': 0.5},
  }


def test_predictions_are_json_lines(folder, tmp_path):
  name, out = 'tfds:small_for_formats:train', tmp_path / 'y.jsonl'
  reading = formats.Reading(data_dir=folder)
  with formats.writer(out, name, reading, ['label', 'p']) as writer:
    for record in formats.read(name, reading):
      writer.write(record, {'label': 'no', 'p': 0.5})
  last = json.loads(out.read_text().splitlines()[-1])
  assert last['row'] == 2
  assert last['text'] == 'é2'
  assert (last['label'], last['label_predicted'], last['p']) == ('no', 'no', 0.5)
  assert 'image' not in last


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('tfds:mnist', "give a data set of TFDS as 'tfds:NAME[/CONFIG][:VERSION]:SPLIT'"),
    ('tfds::train', 'give a data set of TFDS as'),
    ('tfds:small_for_formats:tset', "no split 'tset'; did you mean 'test'? Valid: test, train"),
    ('tfds:small_for_formats:train[x]', 'cannot be read ('),
    ('tfds:small_for_formats:9.9.9:train', 'prepare it with'),
    ('tfds:none_such_for_formats:train', 'prepare it with'),
  ],
)
def test_data_sets_that_are_not_there(folder, name, message):
  with pytest.raises(errors.DataError) as caught:
    files.read(name, data_dir=folder)
  assert message in str(caught.value)


def test_a_data_set_that_is_not_prepared(tmp_path):
  with pytest.raises(errors.DataError) as caught:
    files.read('tfds:small_for_formats:train', data_dir=str(tmp_path))
  assert f"tfds.builder('small_for_formats', data_dir={str(tmp_path)!r})" in str(caught.value)
  assert ".download_and_prepare(file_format='array_record')" in str(caught.value)
