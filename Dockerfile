# syntax=docker/dockerfile:1.10
# rerank-eval for NVIDIA GPUs. Build and run:
#
#   docker build --build-arg COMMIT="$(git rev-parse HEAD)" --tag rerank-eval .
#   docker run --rm --gpus all --ipc=host \
#     --volume "$PWD/results:/work/results" --volume "$HOME/.cache/huggingface:/cache/huggingface" \
#     --user "$(id -u):$(id -g)" rerank-eval eval --task SciFact
#
# For a build that never changes, give the base by its digest:
#   docker build --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04@sha256:... .
# The base's CUDA is that of the torch which constraints.txt names: a host whose driver is too old for it is told so when
# the container starts, and not by a run that falls back to its CPU.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE} AS build
SHELL ["/bin/bash", "-o", "errexit", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008  # Ubuntu keeps one version of a package at a time; a digest of the base pins more than versions.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# torch first and by itself: its gigabytes stay in a layer that a change of ours does not touch.
COPY constraints.txt ./
RUN pip install --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY configs ./configs
COPY evals ./evals
RUN pip install --constraint constraints.txt '.[offline,quantized,ray,report]'

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 gcc libc6-dev python3-dev tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 evaluator \
    && install --directory --owner=evaluator --mode=0777 /work /work/results /cache
COPY --from=build /opt/venv /opt/venv
WORKDIR /work
ARG COMMIT=""
# wget is what KubeRay before 1.6 probes pods with. gcc stays: torch.compile builds its kernels when a run starts.
ENV PATH="/opt/venv/bin:$PATH" \
    HOME=/cache \
    HF_HOME=/cache/huggingface \
    RERANK_EVAL_CACHE=/cache/rerank-eval \
    RERANK_EVAL_COMMIT="$COMMIT" \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    PYTHONUNBUFFERED=1
USER 10001
VOLUME ["/work/results", "/cache"]
# tini hands on the SIGTERM with which a cluster ends a container, and the block under way is written.
ENTRYPOINT ["/usr/bin/tini", "--", "rerank-eval"]
CMD ["--help"]
