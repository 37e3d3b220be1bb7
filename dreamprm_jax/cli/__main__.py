"""``python -m dreamprm_jax.cli``: the command line."""

from dreamprm_jax.cli.main import script

if __name__ == "__main__":
    script()
