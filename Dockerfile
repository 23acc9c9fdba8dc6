# One image for all roles: `docker run IMAGE gateway`, `shard`, `coordinator`, or any other verb of `perdure`.
FROM python:3.13-slim-trixie AS packages
COPY requirements.lock /tmp/requirements.lock
RUN python3 -m venv /opt/perdure \
 && /opt/perdure/bin/pip install --no-cache-dir --disable-pip-version-check --quiet --require-hashes -r /tmp/requirements.lock

FROM python:3.13-slim-trixie AS base
ENV PATH=/opt/perdure/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PERDURE_CACHE_DIR=/var/cache/perdure
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin perdure \
 && install -d -o perdure -g perdure -m 0700 /var/cache/perdure
COPY --from=packages /opt/perdure /opt/perdure
WORKDIR /app
COPY . /app
# Bytecode once, here, since the root is read-only later. Whole seconds: Numba's key holds the sources' times, and layers round them.
RUN find /app -name '*.py' -exec touch -d '2026-01-01T00:00:00Z' {} + \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app /opt/perdure/lib || true

# Kernels of the sample games and the gateway's, compiled ahead. Without shard.warmup (or where it fails) each shard compiles at its start.
FROM base AS kernels
USER perdure
RUN (python -m shard.warmup games/arena && python -m shard.warmup games/tag \
 && python -c 'from gateway.service import compile_sends; compile_sends()' && tar --format=posix -cf /tmp/kernels.tar -C /var/cache/perdure .) \
 || { echo "the kernels are not compiled ahead" >&2; tar -cf /tmp/kernels.tar -T /dev/null; }

# The load test: docker compose --profile loadtest up
FROM base AS loadtest
COPY requirements-loadtest.lock /tmp/requirements-loadtest.lock
RUN /opt/perdure/bin/pip install --no-cache-dir --disable-pip-version-check --quiet --require-hashes -r /tmp/requirements-loadtest.lock
USER perdure
ENTRYPOINT ["locust", "-f", "/app/loadtest/locustfile.py"]

FROM base
COPY --from=kernels /tmp/kernels.tar /app/kernels.tar
USER perdure
ENTRYPOINT ["/app/deploy/entrypoint.sh"]
CMD ["--help"]
