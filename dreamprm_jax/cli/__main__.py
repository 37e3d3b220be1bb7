"""``python -m dreamprm_jax.cli``: the command line."""

import sys

from dreamprm_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
