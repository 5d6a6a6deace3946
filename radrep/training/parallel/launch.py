"""Scripts that start a run's processes: by Slurm, or by torchrun on each machine."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote
from textwrap import dedent

from radrep.errors import RadrepError

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped by a signal after a checkpoint; --resume goes on
LAUNCHERS = ("slurm", "torchrun")


@dataclass(frozen=True)
class Launch:
    """What is started: words behind `radrep`, the run's folder, processes and machines."""

    new: Sequence[str] | None  # None: only a run that is there goes on
    goes_on: Sequence[str]
    out: Path
    per_node: int
    nodes: int
    on_cpu: bool


def parse_devices(devices: str) -> tuple[int, str]:
    """Processes of a machine and what each has: "8xH100-80GB", "H100-80GB" for one, "8", "2xCPU".

    What they have is in lower case, "" where it is not named.
    """
    form = r"([1-9]\d*)(?:\s*[x*]\s*(\S+))?|(cpu|[a-z]\S*\d\S*)"
    match = re.fullmatch(form, devices.strip().lower())
    if match is None:
        raise RadrepError(
            f"--devices must be a number of processes a machine and what each of them has, such "
            f"as 8xH100-80GB or 2xCPU, got '{devices}'"
        )
    return int(match[1] or 1), match[2] or match[3] or ""


def launch_script(launcher: str, launch: Launch) -> str:
    """The script of a launcher; it goes on where a run is already."""
    return _slurm(launch) if launcher == "slurm" else _torchrun(launch)


def _words(launch: Launch) -> str:
    if launch.new is None:
        return f"words=({join(launch.goes_on)})\n"
    return dedent(f"""\
        if [ -f {quote(str(launch.out))}/recipe.yaml ]; then
            words=({join(launch.goes_on)})
        else
            words=({join(launch.new)})
        fi
    """)


def _on_cpu(launch: Launch) -> str:
    return "export ACCELERATE_USE_CPU=true\n" if launch.on_cpu else ""


def _slurm(launch: Launch) -> str:
    gpus = "" if launch.on_cpu else f"#SBATCH --gpus-per-node={launch.per_node}\n"
    cores = 1 if launch.on_cpu else 8  # two of them read images, see data.num_workers
    name = launch.out.name
    head = dedent(f"""\
        #!/bin/bash
        #SBATCH --account=ACCOUNT       # yours: the one line to edit
        #SBATCH --job-name={quote(name)}
        #SBATCH --nodes={launch.nodes}
        #SBATCH --ntasks-per-node={launch.per_node}     # one process a device
    """)
    rest = dedent(f"""\
        #SBATCH --cpus-per-task={cores}
        #SBATCH --time=24:00:00
        #SBATCH --signal=USR1@600       # ten minutes before the end every process saves
        #SBATCH --requeue
        #SBATCH --open-mode=append
        #SBATCH --output=%x-%j.log
        set -uo pipefail

        MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
        export MASTER_ADDR MASTER_PORT WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE={launch.per_node}
    """)
    run = dedent(f"""\
        # Processes that are left when one has ended are ended after a minute. srun takes the cores
        # of a task from nothing but its own option.
        srun --wait=60 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c \\
            'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$0" -m radrep "$@"' \\
            {quote(sys.executable)} "${{words[@]}}"
        code=$?
        if [ "$code" -eq {REQUEUE} ]; then  # a signal stopped it after a checkpoint
            scontrol requeue "$SLURM_JOB_ID"
        fi
        exit "$code"
    """)
    return f"{head}{gpus}{rest}{_on_cpu(launch)}{_words(launch)}{run}"


def _torchrun(launch: Launch) -> str:
    head, several = "#!/bin/bash\n", "--standalone"
    if launch.nodes > 1:
        head += (
            "# On each machine, K = 0 for the first one, HOST its name:\n"
            "#   NODE_RANK=K MASTER_ADDR=HOST bash SCRIPT\n"
        )
        several = (
            f'--nnodes {launch.nodes} --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" '
            "--master-port 29500"
        )
    run = dedent(f"""\
        exec {quote(sys.executable)} -m torch.distributed.run \\
            {several} \\
            --nproc-per-node {launch.per_node} \\
            -m radrep "${{words[@]}}"
    """)
    return f"{head}set -uo pipefail\n{_on_cpu(launch)}{_words(launch)}{run}"
