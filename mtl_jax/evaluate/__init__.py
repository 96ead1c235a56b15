"""Evaluation: a model on the splits of a data set, and the number that runs are judged by."""

from mtl_jax.evaluate.evaluator import Evaluator, Prediction

__all__ = ['Evaluator', 'Prediction']
