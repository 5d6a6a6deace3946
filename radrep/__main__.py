"""Run radrep with ``python -m radrep``."""

from radrep.cli import run

if __name__ == "__main__":
    run()
