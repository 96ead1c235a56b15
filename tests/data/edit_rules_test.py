"""Edit rules lead from form to lemma, whatever the strings, and mean the same for other words."""

import hypothesis
import pytest
from hypothesis import strategies

from mtl_jax.data import edit_rules


@pytest.mark.parametrize(
  ('form', 'lemma', 'rule'),
  [
    ('walk', 'walk', ';|'),
    ('walks', 'walk', ';|-'),
    ('making', 'make', ';|---+e'),
    ('Making', 'make', ';|---+e'),  # the case of the form plays no part
    ('unhappier', 'happy', ';--|---+y'),
    ('geese', 'goose', ';=--+o+o|'),
    ('London', 'London', 'u0l1;|'),
    ('NASA', 'NASA', 'u0;|'),
    ("o'neill", "O'Neill", 'u0l3;|'),  # the apostrophe goes on with the run
    ('mcdonald', 'McDonald', 'u0l1u2l3;|'),
    ('abcdef', 'abcdeF', 'u-1;|'),  # counted from the end in the second half
    ('am', 'be', ';*be'),
    ('', 'x', ';*x'),
    ('x', '', ';*'),
  ],
)
def test_rule(form, lemma, rule):
  assert edit_rules.edit_rule(form, lemma) == rule
  assert edit_rules.apply_rule(form, rule) == lemma


@hypothesis.given(strategies.text(max_size=12), strategies.text(max_size=12))
@hypothesis.settings(max_examples=500, deadline=None)
def test_round_trip_on_any_text(form, lemma):
  assert edit_rules.apply_rule(form, edit_rules.edit_rule(form, lemma)) == lemma


words = strategies.text('abAB-+=|*;ß', max_size=8)  # overlaps, casing and the signs of rules


@hypothesis.given(words, words)
@hypothesis.settings(max_examples=1000, deadline=None)
def test_round_trip_on_similar_words(form, lemma):
  assert edit_rules.apply_rule(form, edit_rules.edit_rule(form, lemma)) == lemma


@pytest.mark.parametrize(
  ('source', 'form', 'lemma'),
  [
    (('walks', 'walk'), 'talks', 'talk'),
    (('making', 'make'), 'taking', 'take'),
    (('cities', 'city'), 'berries', 'berry'),
    (('Parises', 'Paris'), 'londones', 'London'),
  ],
)
def test_rule_generalizes(source, form, lemma):
  assert edit_rules.apply_rule(form, edit_rules.edit_rule(*source)) == lemma


@pytest.mark.parametrize('rule', ['', 'x', ';', ';-', ';|+', ';|x', ';||', 'u;|', 'l0'])
def test_not_a_rule(rule):
  with pytest.raises(ValueError, match='not an edit rule'):
    edit_rules.apply_rule('word', rule)


def test_form_too_short():
  with pytest.raises(ValueError, match='too short'):
    edit_rules.apply_rule('ab', ';|---')


def test_casing_on_a_shorter_word():
  rule = edit_rules.edit_rule('mcdonaldx', 'McdonalD')
  assert rule == 'u0l1u-1;|-'
  assert [edit_rules.apply_rule(form, rule) for form in ('abcx', 'abx', 'ax')] == ['AbC', 'AB', 'A']
