"""A monitor for any training code: do the tasks conflict, do their scales differ, does it matter.

`watch` measures inside a training step, every so many steps, and costs nothing in between;
`verdict` says in words what was seen, and `picture` shows it.
"""

from mtl_jax.monitor._measure import Measures, of_gradients, watch
from mtl_jax.monitor._picture import picture
from mtl_jax.monitor._verdict import Verdict, verdict, verdict_of

__all__ = ['Measures', 'Verdict', 'of_gradients', 'picture', 'verdict', 'verdict_of', 'watch']
