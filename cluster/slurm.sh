#!/usr/bin/env bash
# A search on nodes that SLURM lends, one Ray over all of them for as long as the job lasts.
#
#   sbatch cluster/slurm.sh --space grvq --max-minutes 700     # flags of run_search.py; from the root of the checkout
#   scancel JOB                                                # python run_search.py --resume runs/... goes on
#
# Wants a home folder that all nodes share, with raycal in the environment that is active at sbatch.
#SBATCH --job-name=raycal
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=12:00:00
# --exclusive: at its end symmetric-run ends every Ray process of yours on the node, also another job's.
# --max-minutes below --time: the search then ends by itself, with everything saved.
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # head -n 1 would end scontrol, and with it the job
# The address and not the name: a node may know itself as 127.0.1.1.
ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d " " -f 1)
port=$((20000 + SLURM_JOB_ID % 20000))

export RAY_AUTH_MODE=token  # other users of the node are refused
ray get-auth-token --generate > /dev/null
chmod 600 ~/.ray/auth_token

# A worker ends with an error when the head goes first, so the status is the search's own.
status=$(mktemp -p "$PWD" .raycal-status-XXXXXX)
trap 'rm -f "$status"' EXIT
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  ray symmetric-run --address "$ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --dashboard-host=127.0.0.1 -- \
  bash -c '"$@"; echo $? > "$0"' "$status" python run_search.py --address auto "$@" || true
exit "$(cat "$status")"
