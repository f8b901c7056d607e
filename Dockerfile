# syntax=docker/dockerfile:1

# The tag moves with Python's patch releases. Whoever builds a release gives the digest of the image that was reviewed:
#   docker build --build-arg PYTHON_DIGEST=@sha256:... .
# It is an argument because a digest can only be resolved where a registry is reached.
ARG PYTHON_DIGEST=""

FROM python:3.11-slim-bookworm${PYTHON_DIGEST} AS builder
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY pyproject.toml uv.lock ./
# The lock file names the uv that reads it, and the hash of everything below. Wheels only: nothing compiles or runs code
# of a source distribution here, and py-lmdb keeps the engine that its wheel was built with.
RUN pip install --no-cache-dir "uv==$(awk '/^name = "uv"$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' uv.lock)" \
    && UV_PROJECT_ENVIRONMENT=/opt/build uv sync --locked --no-build --only-group build \
    && UV_PROJECT_ENVIRONMENT=/opt/recension uv sync --locked --no-build --no-dev --extra server --no-install-project
COPY LICENSE README.md ./
COPY service service
COPY tools/recension_client tools/recension_client
RUN /opt/build/bin/python -m build --wheel --no-isolation --outdir /dist \
    && uv pip install --python /opt/recension/bin/python --no-deps --no-index /dist/*.whl

FROM python:3.11-slim-bookworm${PYTHON_DIGEST}
# A service needs no installer. /data is made here so that a new volume belongs to the service's user.
RUN python -m pip uninstall --yes --quiet pip setuptools wheel \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin recension \
    && install -d -o recension -g recension -m 0750 /data
COPY --from=builder /opt/recension /opt/recension
# With no bytecode written, the root file system can be read-only: only /data and /tmp are written.
ENV PATH=/opt/recension/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
# There is no authentication yet, so the server listens on loopback only and a published port would reach nothing. Until a
# release brings keys and TLS, run it with `--network host`, or beside a client in the same network namespace.
EXPOSE 7777
STOPSIGNAL SIGTERM
# Health has a port and threads of its own, the next after the server's: it answers while all others are busy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["recension-server", "health", "--target", "127.0.0.1:7778"]
ENTRYPOINT ["recension-server"]
CMD ["serve", "--data", "/data", "--listen", "127.0.0.1:7777"]
