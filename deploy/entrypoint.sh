#!/bin/sh
# Starts one role. The compiled kernels of the image are unpacked where Numba may write, so that a shard, or a replay, is ready at
# once also where the root is read-only (their paths and times are part of Numba's key: hence the archive, and this very folder).
set -eu
case "${1:-}" in shard | replay) runs_zones=1 ;; *) runs_zones= ;; esac
if [ -n "$runs_zones" ] && [ -f /app/kernels.tar ] && [ -z "$(ls -A "$PERDURE_CACHE_DIR" 2>/dev/null)" ]; then
  tar -xf /app/kernels.tar -C "$PERDURE_CACHE_DIR" || echo "entrypoint: no kernels unpacked; the shard compiles them now" >&2
fi
exec python -m perdure "$@"
