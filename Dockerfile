# Footnote with its sample and its trained checkpoint: `docker run` answers without a network.
#
#   docker build -t footnote .                            # CPU
#   docker build -t footnote:cuda --build-arg TORCH=cuda .
#   docker run -p 8000:8000 -e FOOTNOTE_ADMIN_KEY=... \
#     -v footnote-store:/data/store -v footnote-checkpoints:/data/checkpoints footnote

FROM python:3.11-slim AS build
ARG TORCH=auto
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The packages first: a change of Footnote's own code leaves this layer as it is.
COPY requirements.txt pyproject.toml ./
COPY scripts/install.py scripts/
RUN python scripts/install.py --into /opt/footnote --torch ${TORCH} --packages-only
COPY . .
RUN /opt/footnote/bin/python -m pip install --quiet --no-deps --no-build-isolation .
# The store is filled with the sample and a generation of its index is built; a prediction proves the
# image. Both compile what is used. A new volume starts from it; an empty folder is filled at its
# first start.
WORKDIR /data
RUN PATH=/opt/footnote/bin:$PATH HF_HUB_OFFLINE=1 NUMBA_CACHE_DIR=/opt/footnote-kernels \
    FOOTNOTE_STORE_DIR=/data/store FOOTNOTE_CHECKPOINT_DIR=/data/checkpoints \
    sh -c 'footnote reindex && footnote predict "I was charged twice for one order"' \
    && mkdir -p /data/checkpoints


FROM python:3.11-slim
LABEL org.opencontainers.image.title="Footnote" \
      org.opencontainers.image.description="Predictions with their footnotes" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 footnote \
    && useradd --uid 10001 --gid footnote --create-home --shell /usr/sbin/nologin footnote
COPY --from=build /opt/footnote /opt/footnote
COPY --from=build --chown=footnote:footnote /opt/footnote-kernels /opt/footnote-kernels
COPY --from=build --chown=footnote:footnote /data /data
# Off loopback a key is needed: set FOOTNOTE_ADMIN_KEY, FOOTNOTE_WRITE_KEY or FOOTNOTE_PREDICT_KEY,
# or read the one that is made and printed at the first start. HF_HUB_OFFLINE=0 lets
# FOOTNOTE_ENCODER name a model on the hub. The kernels' folder must be writable: with --read-only,
# point NUMBA_CACHE_DIR into a --tmpfs.
ENV PATH=/opt/footnote/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FOOTNOTE_HOST=0.0.0.0 \
    FOOTNOTE_PORT=8000 \
    FOOTNOTE_STORE_DIR=/data/store \
    FOOTNOTE_CHECKPOINT_DIR=/data/checkpoints \
    HF_HUB_OFFLINE=1 \
    NUMBA_CACHE_DIR=/opt/footnote-kernels
WORKDIR /data
USER footnote
VOLUME ["/data/store", "/data/checkpoints"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ['FOOTNOTE_PORT']}/health/ready\", timeout=4)"]
CMD ["footnote", "serve"]
