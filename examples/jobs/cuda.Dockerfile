# loev on an NVIDIA GPU; needs the NVIDIA Container Toolkit on the machine.
#
#   docker build -f examples/jobs/cuda.Dockerfile -t loev-cuda .  (in the checkout)
#   docker run --rm --gpus all loev-cuda doctor
#   docker run --rm --gpus all -v /srv/music:/music:ro -v /srv/loev:/data loev-cuda \
#     embed /music --out emb.parquet --device cuda
FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
ARG EXTRAS=parquet
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY loev_cli loev_cli
RUN python3 -m venv /opt/loev \
    && /opt/loev/bin/pip install --no-cache-dir ".[$EXTRAS]" \
    && /opt/loev/bin/pip uninstall --yes pip

FROM base
COPY --from=build /opt/loev /opt/loev
ENV PATH=/opt/loev/bin:$PATH
RUN mkdir /data && chmod 777 /data
WORKDIR /data
USER 1000
ENTRYPOINT ["loev"]
CMD ["doctor"]
