# The image of aragora-q: workers, exporter and every other command. `docker build -t aragora-q .`
ARG BASE_IMAGE=python:3.13-slim

# pip and the sources stay behind in this stage.
FROM ${BASE_IMAGE} AS build
COPY pyproject.toml README.md LICENSE /src/
COPY aragora_q /src/aragora_q
RUN python3 -m venv /opt/aragora-q \
 && /opt/aragora-q/bin/python -m pip install --no-cache-dir --disable-pip-version-check '/src[llm]' \
 && /opt/aragora-q/bin/python -m pip uninstall --yes --quiet pip setuptools

FROM ${BASE_IMAGE}
COPY --from=build /opt/aragora-q /opt/aragora-q
# The user has no entry in passwd and needs none: whatever asks for a home gets /tmp, the one place
# that a container with a read-only root has to offer as a tmpfs.
ENV PATH=/opt/aragora-q/bin:$PATH HOME=/tmp
USER 65532:65532
WORKDIR /tmp
# Metrics of a worker. They are on loopback unless ARAGORA_QUEUE_METRICS_HOST says otherwise.
EXPOSE 9464
STOPSIGNAL SIGTERM
# A worker without progress is unhealthy, one that waits for Redis is not.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["aragora-q", "healthcheck"]
# No shell in between: the worker is process 1 and gets SIGTERM itself.
ENTRYPOINT ["aragora-q"]
CMD ["worker"]
