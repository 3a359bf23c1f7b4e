#!/usr/bin/env bash
# A Slurm array: each task embeds its share of the files.
#
#   job=$(sbatch --parsable slurm_array.sh /music /scratch/parts)
#   sbatch --dependency=afterok:$job --wrap 'loev merge /scratch/parts/part-*.parquet --out /scratch/emb.parquet'
#
# A task that is preempted is queued again and resumes.
#SBATCH --job-name=loev
#SBATCH --array=1-16
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=loev-%A_%a.jsonl
set -euo pipefail
music=$1 parts=$2
mkdir -p "$parts"
code=0
loev embed "$music" --shard auto --out "$parts/part-$SLURM_ARRAY_TASK_ID.parquet" \
  --annotate --tags --workers "$SLURM_CPUS_PER_TASK" --log-json || code=$?
# 3: some files failed, which are listed beside the part. The others are done, so merging may begin.
[ "$code" -eq 3 ] || exit "$code"
