"""Where runs are executed: this machine, a Ray cluster, Slurm; each calls `execute(run_dir)`."""
