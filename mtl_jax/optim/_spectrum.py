"""Eigenvalues of task Gramians, and which of them stand above float32 rounding."""

import jax
import jax.numpy as jnp


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Eigenpairs of a positive semi-definite matrix that was computed in float32.

  Call it inside `_base.exactly`: only the matrix is rounded to float32, not the eigenpairs. That
  rounding leaves an eigenvalue that should be 0 within a few ε·λmax; so the pseudo-inverses count
  eigenvalues up to T·ε·λmax as 0, with ε = 2⁻²³ of float32.

  Args:
    matrix: `[T, T]`.

  Returns:
    eigenvalues `[T]`, ascending; eigenvectors `[T, T]`, in columns; `[T]` bool, those above the
    tolerance, which are the last ones.
  """
  values, vectors = jnp.linalg.eigh(matrix)
  return values, vectors, values > tolerance(len(matrix)) * values[-1]


def tolerance(tasks: int) -> float:
  """What counts as 0 relative to the largest eigenvalue: T·ε of float32."""
  return tasks * float(jnp.finfo(jnp.float32).eps)
