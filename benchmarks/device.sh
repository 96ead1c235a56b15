#!/usr/bin/env bash
# The whole check of a GPU in one go, in less than eight minutes:
#
#   bash benchmarks/device.sh           on one H100 or H200
#   bash benchmarks/device.sh --small   sizes that any machine can do, to see that it works
#
# Needs a Python with JAX, Flax, optax, orbax, safetensors, scikit-learn, SciPy and, to compare,
# PyTorch, without which that part is left out; no network, no installation of the project. PYTHON
# names it (default: python3). Prints tables; where OUT names a folder they are also in
# OUT/device.txt, and their rows in OUT/device.jsonl. Each part has seconds of its own: what one
# does not finish, the others do not miss, and tables keep the rows that they have. Exits with 1 if
# a bound of exactness was missed or a part failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
scale=1
step=(--width 2048 --layers 4 --length 256 --examples 64 --dtype bfloat16 --repeats 15)
tasks=(2 4 8 16)
seeds=()
sharing=(--width 4096 --examples 1024)
if [ "${1:-}" = --small ]; then
  scale=10 # a machine may be slow, or busy
  step=(--width 64 --layers 1 --length 16 --examples 4 --dtype bfloat16 --repeats 2)
  tasks=(2)
  seeds=(--seeds 2 --width 64 --layers 1 --length 16 --examples 4 --repeats 2 --methods pcgrad)
  sharing=(--width 64 --examples 16 --rounds 2)
fi
if [ -n "${OUT:-}" ]; then
  mkdir -p "$OUT"
  exec > >(tee "$OUT/device.txt") 2>&1
  export BENCHMARK_RECORDS="$OUT/device.jsonl"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false # PyTorch's part comes between
export TF_CPP_MIN_LOG_LEVEL=2

failed=()
part() { # NAME SECONDS MODULE ARGUMENTS...
  local name=$1 limit=$(($2 * scale)) begin=$SECONDS
  shift 2
  printf '\n## %s\n\n' "$name"
  timeout --kill-after=5 "$limit" "$python" -m "$@"
  local code=$?
  ((code == 0)) || failed+=("$name ($code)")
  printf '\n(%s: exit %s, %s of %s s)\n' "$name" "$code" "$((SECONDS - begin))" "$limit"
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,memory.total --format=csv 2> /dev/null
steps=(benchmarks.steps --operations --methods pcgrad "${step[@]}")
part 'exactness' 75 benchmarks.exactness
part 'balancing alone' 60 benchmarks.aggregation --tasks "${tasks[@]}" --methods pcgrad mgda upgrad
if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then
  part 'balancing alone, PyTorch' 30 benchmarks.aggregation_torch --tasks "${tasks[@]}"
else
  printf '\n## balancing alone, PyTorch\n\n(left out: %s has no PyTorch)\n' "$python"
fi
part 'steps, shared inputs' 120 "${steps[@]}" --only shared --tasks "${tasks[@]}"
part 'steps, own inputs and representation' 70 "${steps[@]}" --only own representation --tasks 8
part 'seeds' 45 benchmarks.seeds "${seeds[@]}"
part 'sharing' 70 benchmarks.sharing "${sharing[@]}" \
  --only hard separate mmoe ple cross_stitch adapters ltb
printf '\n%s s; failed: %s\n' "$SECONDS" "${failed[*]:-nothing}"
((${#failed[@]} == 0))
