# Image of aragora-q: workers, console and every other command. Build: `docker build -t aragora-q .`
ARG BASE_IMAGE=python:3.13-slim

# Build stage: pip and the sources do not reach the final image.
FROM ${BASE_IMAGE} AS build
# Add `eval` for evaluations; it makes the image 170 MB larger.
ARG EXTRAS=llm,web,top,otel
COPY pyproject.toml README.md LICENSE /src/
COPY aragora_q /src/aragora_q
RUN python3 -m venv /opt/aragora-q \
 && /opt/aragora-q/bin/python -m pip install --no-cache-dir --disable-pip-version-check "/src[${EXTRAS}]" \
 && /opt/aragora-q/bin/python -m pip uninstall --yes --quiet pip setuptools

FROM ${BASE_IMAGE}
COPY --from=build /opt/aragora-q /opt/aragora-q
# The user has no passwd entry. HOME is /tmp: with a read-only root file system, mount a tmpfs there.
ENV PATH=/opt/aragora-q/bin:$PATH HOME=/tmp
USER 65532:65532
WORKDIR /tmp
# Worker metrics. They listen on loopback unless ARAGORA_QUEUE_METRICS_HOST is set.
# The console listens on loopback, too, unless --listen is given.
EXPOSE 9464 8080
STOPSIGNAL SIGTERM
# A worker is unhealthy if it makes no progress. Waiting for Redis is healthy.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["aragora-q", "healthcheck"]
# Exec form: the command receives SIGTERM. As process 1 it also reaps orphans; `docker run --init` is not needed.
ENTRYPOINT ["aragora-q"]
CMD ["worker"]
