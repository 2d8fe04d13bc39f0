# Triton with TensorRT-LLM, for the entries llm and tokenizer. Build it from the root of the repository:
#   docker build -f docker/trtllm.Dockerfile -t trimodal-trtllm .
# Release 26.07 has Triton 2.71.0 and TensorRT-LLM 1.2.1.
# To pin it, give name:tag@sha256:...; docker/README.md says how.
ARG TRTLLM_IMAGE=nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3
FROM ${TRTLLM_IMAGE}

# TensorRT-LLM fits the torch and transformers of its image and no others, so of ours only what is missing is added.
COPY pyproject.toml README.md LICENSE /source/
COPY python_backends /source/python_backends
RUN pip install --no-cache-dir --break-system-packages --no-deps /source \
    && pip install --no-cache-dir --break-system-packages "orjson==3.13.0" "tritonclient[grpc]==2.51.0" \
    && rm -r /source

RUN useradd --uid 10001 --user-group --create-home trimodal
WORKDIR /opt/trimodal
COPY model_repository ./model_repository
COPY docker/models_ready.py docker/tritonserver.sh ./

USER 10001:10001
# Without its launcher the library cannot start its workers from inside Triton (MPI_ERR_SPAWN).
ENV PYTHONDONTWRITEBYTECODE=1 HOME=/home/trimodal HF_HOME=/tmp/huggingface LAUNCHER=trtllm-llmapi-launch \
    MODEL_REPOSITORY=/models MODELS="llm tokenizer"

EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=10s --start-period=30m --retries=3 \
    CMD ["python3", "/opt/trimodal/models_ready.py"]
ENTRYPOINT ["/bin/sh", "/opt/trimodal/tritonserver.sh"]
