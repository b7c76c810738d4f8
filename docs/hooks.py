"""What `make docs` adds to the pages here: the README as the first, a page a command, the API.

One source each: the README, CONTRIBUTING and CHANGELOG at the root, the commands' own options and
examples, the public names of the package. Links that lead out of the site become plain text.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import safety_neurons
from safety_neurons.cli import app
from safety_neurons.cli.examples import EXAMPLES, pasted, titled

ROOT = Path(__file__).parent.parent
COPIED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "examples/README.md": "examples.md",
}
"""Pages of the repository outside docs, and what they are called in the site."""
_PICTURE = re.compile(r"\b(src|srcset)=\"([^\":]+)\"")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not written here."""
    made = {
        target: (ROOT / source).read_text(encoding="utf-8") for source, target in COPIED.items()
    }
    made |= {"commands.md": _commands(), "api.md": _api()}
    made |= {f"commands/{name}.md": _command(name) for name in EXAMPLES}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to where things are in the site."""
    place = page.file.src_uri
    source = next((source for source, target in COPIED.items() if target == place), f"docs/{place}")
    markdown = _LINK.sub(lambda found: _led(found, source, place), markdown)
    return _PICTURE.sub(lambda found: _shown(found, source, place), markdown)


def _led(found: re.Match[str], source: str, place: str) -> str:
    picture, said, target = found.groups()
    if "://" in target or target.startswith(("#", "mailto:")):
        return found[0]
    path, hash_, anchor = target.partition("#")
    meant = os.path.normpath(os.path.join(os.path.dirname(source), path))
    there = COPIED.get(meant, meant.removeprefix("docs/") if meant.startswith("docs/") else None)
    if there is None:
        if not (ROOT / meant).exists():
            return found[0]  # a strict build names it
        return said if f"`{Path(meant).name}`" == said else f"{said} (`{meant}`)"
    led = os.path.relpath(there, os.path.dirname(place) or ".")
    return f"{picture}[{said}]({led}{hash_}{anchor})"


def _shown(found: re.Match[str], source: str, place: str) -> str:
    """A picture in HTML, which strict builds do not look for."""
    attribute, path = found.groups()
    meant = os.path.normpath(os.path.join(os.path.dirname(source), path))
    if not (ROOT / meant).is_file():
        raise PluginError(f"'{source}' shows '{path}', which is not there.")
    led = os.path.relpath(meant.removeprefix("docs/"), os.path.dirname(place) or ".")
    return f'{attribute}="{led}"'


def _group() -> Any:
    return typer.main.get_command(app)


def _commands() -> str:
    rows = [
        f"| [`{name}`](commands/{name}.md) | {_first_paragraph(_group().commands[name].help)} |"
        for name in EXAMPLES
    ]
    return "\n".join(
        [
            "# Commands",
            "",
            "`safety-neurons COMMAND -h` says the same in the terminal.",
            "",
            "| command | what it does |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _command(name: str) -> str:
    command = _group().commands[name]
    parts = [f"# {name}", "", command.help.strip(), "", "## Examples", ""]
    for what, typed in EXAMPLES[name]:
        parts += [titled(what), "", "```", *pasted(typed), "```", ""]
    parts += ["## Options", "", "| option | what it is | default |", "| --- | --- | --- |"]
    parts += [_row(parameter) for parameter in command.params if not parameter.hidden]
    return "\n".join([*parts, ""])


def _row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    default = parameter.default
    if parameter.required:
        shown = "needed"
    elif default in (None, "", False, ()) or callable(default):
        shown = ""
    else:
        shown = f"`{default}`"
    said = html.escape(" ".join((parameter.help or "").split()), quote=False).replace("|", "\\|")
    return f"| {names} | {said} | {shown} |"


def _api() -> str:
    parts = ["# API", "", "Everything below is imported from `safety_neurons` itself.", ""]
    for home, names in safety_neurons._HOMES.items():
        parts += [f"## {home}", ""]
        for name in names:
            parts += [f"::: safety_neurons.{home}.{name}", ""]
    return "\n".join(parts)
