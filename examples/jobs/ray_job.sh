#!/usr/bin/env bash
# A Ray job: one command, whose workers are all over the cluster. Every machine needs loev with the
# extra 'cluster', and the files under the same path or URL.
#
#   ray job submit --address http://head:8265 -- ./ray_job.sh s3://bucket/music /shared/emb.parquet
#
# Without a cluster (RAY_ADDRESS is not set) Ray runs on this machine. The same line again resumes.
set -euo pipefail
music=$1 out=$2
code=0
loev embed "$music" --out "$out" --engine ray --annotate --tags --log-json || code=$?
[ "$code" -eq 3 ] || exit "$code"
