#!/usr/bin/env bash
# GNU parallel: machines that share a file system, one part at a time on each.
#
#   ./parallel.sh /music /shared/parts 16 --sshloginfile machines.txt
#
# On one machine loev needs no help: it uses all cores by itself. The same line again resumes.
set -euo pipefail
music=$1 parts=$2 n=$3
shift 3 # the rest is for parallel
mkdir -p "$parts"
export music parts n
parallel --env music --env parts --env n --jobs 1 --halt soon,fail=1 "$@" \
  'loev embed "$music" --shard {}/"$n" --out "$parts"/part-{}.parquet --annotate --tags || [ $? -eq 3 ]' \
  ::: $(seq "$n")
loev merge "$parts"/part-*.parquet --out "$parts/emb.parquet" --overwrite
