# Triton with the project's backends. Build it from the root of the repository:
#   docker build -f docker/triton.Dockerfile -t trimodal-triton .
# FLAVOR trtllm-python-py3 is the same server with TensorRT-LLM beside it.
ARG TRITON_RELEASE=26.07
ARG FLAVOR=py3
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-${FLAVOR}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

# An environment of its own keeps our pins apart from the image's packages. First on PATH, the model processes adopt it.
ENV VIRTUAL_ENV=/opt/trimodal/venv
RUN python3 -m venv ${VIRTUAL_ENV}
ENV PATH=${VIRTUAL_ENV}/bin:${PATH}

WORKDIR /opt/trimodal
COPY pyproject.toml README.md LICENSE ./source/
COPY python_backends ./source/python_backends
RUN pip install --no-cache-dir "./source[backends]" && rm -r ./source

# The entries name their checkpoints as ../../demo_models, so both folders lie side by side.
COPY model_repository ./model_repository
COPY demo_models ./demo_models
COPY docker/models_ready.py ./models_ready.py

RUN useradd --uid 10001 --user-group --create-home trimodal
USER 10001:10001
ENV HOME=/home/trimodal MODEL_REPOSITORY=/opt/trimodal/model_repository

# 8000 HTTP, 8001 gRPC, 8002 metrics
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=10s --start-period=15m --retries=3 \
    CMD ["python3", "/opt/trimodal/models_ready.py"]

# The flags of launcher/commands.py, but a model that does not load ends the server here, so that the container says so.
CMD ["sh", "-c", "exec tritonserver --model-repository=${MODEL_REPOSITORY} \
    --model-control-mode=explicit --load-model=* --disable-auto-complete-config \
    --backend-config=python,stub-timeout-seconds=1800 --exit-timeout-secs=8"]
