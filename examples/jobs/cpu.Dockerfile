# loev on a CPU. With s3://, gs:// and https:// inputs: --build-arg EXTRAS=parquet,remote
#
#   docker build -f examples/jobs/cpu.Dockerfile -t loev .        (in the checkout)
#   docker run --rm -v /srv/music:/music:ro -v /srv/loev:/data loev embed /music --out emb.parquet
FROM python:3.11-slim AS build
ARG EXTRAS=parquet
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cpu-only cpu-only
COPY models models
COPY loev_cli loev_cli
RUN python -m venv /opt/loev \
    && /opt/loev/bin/pip install --no-cache-dir ./cpu-only ".[$EXTRAS]" \
    && /opt/loev/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
COPY --from=build /opt/loev /opt/loev
ENV PATH=/opt/loev/bin:$PATH
# Of whoever runs it: docker run --user $(id -u) writes with that user's rights.
RUN mkdir /data && chmod 777 /data
WORKDIR /data
USER 1000
ENTRYPOINT ["loev"]
CMD ["--help"]
