# Triton with the engine torch, for CPU and for CUDA. Build it from the root of the repository:
#   docker build -f docker/triton.Dockerfile -t trimodal-triton .
# Which build of torch pip takes is pip's own setting: --build-arg PIP_EXTRA_INDEX_URL=... for the CPU one.
# To pin it, give name:tag@sha256:...; docker/README.md says how.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3
FROM ${TRITON_IMAGE} AS build

ARG PIP_EXTRA_INDEX_URL=""
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

# An environment of its own keeps our pins apart from the image's packages. First on PATH, the model processes adopt it.
RUN python3 -m venv /opt/trimodal/venv
COPY pyproject.toml README.md LICENSE /source/
COPY python_backends /source/python_backends
RUN /opt/trimodal/venv/bin/pip install --no-cache-dir "/source[backends]"

FROM ${TRITON_IMAGE}

RUN useradd --uid 10001 --user-group --create-home trimodal
COPY --from=build /opt/trimodal/venv /opt/trimodal/venv
# The entries name their checkpoints as ../../demo_models, so both folders lie side by side.
WORKDIR /opt/trimodal
COPY model_repository ./model_repository
COPY demo_models ./demo_models
COPY docker/models_ready.py docker/tritonserver.sh ./

USER 10001:10001
ENV VIRTUAL_ENV=/opt/trimodal/venv PATH=/opt/trimodal/venv/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 \
    HOME=/home/trimodal HF_HOME=/tmp/huggingface \
    MODEL_REPOSITORY=/opt/trimodal/model_repository MODELS=*

# 8000 HTTP, 8001 gRPC, 8002 metrics
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=10s --start-period=15m --retries=3 \
    CMD ["python3", "/opt/trimodal/models_ready.py"]
ENTRYPOINT ["/bin/sh", "/opt/trimodal/tritonserver.sh"]
