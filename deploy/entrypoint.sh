#!/bin/sh
# Starts one role. The compiled kernels of the image are unpacked where Numba may write, so that a shard, a gateway, or a replay, is ready
# at once also where the root is read-only (their paths and times are part of Numba's key: hence the archive, and this very folder).
set -eu
case "${1:-}" in shard | replay | audit | gateway) compiled=1 ;; *) compiled= ;; esac
if [ -n "$compiled" ] && [ -f /app/kernels.tar ] && [ -z "$(ls -A "$PERDURE_CACHE_DIR" 2>/dev/null)" ]; then
  tar -xf /app/kernels.tar -C "$PERDURE_CACHE_DIR" || echo "entrypoint: no kernels unpacked; they are compiled now" >&2
fi
exec python -m perdure "$@"
