"""The command ``footnote``. Each command lives in a module that is imported when it is called."""

from __future__ import annotations

import importlib
from typing import Final

import click

COMMANDS: Final = {
    "serve": "Serve the REST API.",
    "index": "Import documents from JSONL, CSV or folders of text.",
    "predict": "Classify one text and show what the answer rests on.",
    "train": "Train a head for a label field on the indexed documents.",
    "pretrain": "Train a language model on files of text, with retrieval in the loop.",
    "encoder": "Train an encoder on text of your own, from nothing.",
    "evaluate": "Measure the model, with retrieval and without.",
    "audit": "List labels that are probably wrong.",
    "reindex": "Build a new index generation from the stored documents.",
    "models": "List the checkpoints; activate one; go back.",
    "keys": "List, make and revoke keys.",
    "sample": "Load one of the samples, or take the sample documents out.",
    "doctor": "Check store, index, checkpoints, encoder, settings and disk.",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is used: ``--help`` must not load a network."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a new user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's own object, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"app.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="footnote", prog_name="footnote")
def main() -> None:
    """Predictions with their footnotes: retrieve, read, classify, correct, train.

    Every setting is an environment variable FOOTNOTE_...; the commands talk to the server that
    holds the store if one runs, and open the store themselves if none does.
    """
