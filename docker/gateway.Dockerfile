# The OpenAI gateway: no torch, no tokenizer, no model. Build it from the root of the repository:
#   docker build -f docker/gateway.Dockerfile -t trimodal-gateway .
# To pin it, give name:tag@sha256:...; docker/README.md says how.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim
FROM ${PYTHON_IMAGE}

COPY pyproject.toml README.md LICENSE /source/
COPY gateway /source/gateway
RUN pip install --no-cache-dir "/source[gateway]" \
    && rm -r /source \
    && useradd --uid 10001 --user-group --no-create-home trimodal

USER 10001:10001
WORKDIR /tmp
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TRIMODAL_HOST=0.0.0.0 TRIMODAL_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['TRIMODAL_PORT']}/liveness\", timeout=3)"]
CMD ["python", "-m", "gateway"]
