#!/bin/bash
# Training on four nodes of eight GPUs, resumed by the same script after every time limit or failure:
#
#     sbatch --export=ALL,RECIPE=paper,DATA=/shared/data,RUN=/shared/run examples/slurm.sh
#
# DATA and RUN are on storage that all nodes see. SLURM sends SIGTERM two minutes before the limit, at which the run saves and
# stops (exit status 130); it is then queued again, and goes on from that step.
#SBATCH --job-name=gato
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
: "${RECIPE:=paper}" "${DATA:?the folder with the datasets}" "${RUN:?the folder of the run}"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
if [ -e "$RUN/recipe.json" ]; then
    words=(--resume "$RUN")
else
    words=("$RECIPE" --data "$DATA" --out "$RUN")
fi

export OMP_NUM_THREADS=4
status=0
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \
    --rdzv-endpoint "$first:29500" -m gato train "${words[@]}" || status=$?

[ -e "$RUN/bundle/MANIFEST.json" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
