# Build: docker build -t mdp .          Run: see "Deployment" in README.md
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/mdp
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mdp ./mdp
RUN /opt/mdp/bin/pip install -c constraints.txt . && /opt/mdp/bin/pip check

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="mdp" \
      org.opencontainers.image.description="A live market data platform for the whole US stock market" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --system --gid 10001 mdp \
    && useradd --system --uid 10001 --gid mdp --home-dir /var/lib/mdp --create-home mdp
COPY --from=build /opt/mdp /opt/mdp
ENV PATH=/opt/mdp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MDP_CACHE_SNAPSHOT_PATH=/var/lib/mdp/mdp.snapshot
USER mdp
WORKDIR /var/lib/mdp
VOLUME /var/lib/mdp
# Metrics and health, control API, WebSocket clients, pages.
EXPOSE 4200 4201 4202 8000
STOPSIGNAL SIGTERM
# Python, because the image has no curl. Alive is not ready: /readyz is for load balancers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('MDP_METRICS_PORT', '4200')}/healthz\", timeout=2)"]
ENTRYPOINT ["mdp"]
CMD ["run", "--role", "all"]
