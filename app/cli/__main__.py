"""``python -m app.cli``: the same as the command ``footnote``."""

from app.cli import main

# Guarded, since the process of a job imports the module that its parent was started with.
if __name__ == "__main__":
    main(prog_name="footnote")
