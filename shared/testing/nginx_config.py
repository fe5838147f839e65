"""Render the NGINX configuration from its template.

    python -m shared.testing.nginx_config VARS.json > nginx.conf

The top of the template describes the variables.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jinja2

from shared.testing.paths import ROOT

TEMPLATE = ROOT / "ansible/roles/nginx_canary/templates/banking.conf.j2"


def render(**variables: Any) -> str:
    """Return the configuration. Raises jinja2.UndefinedError when a variable is missing."""
    # The output is a configuration file, not HTML; Ansible uses trim_blocks as well.
    environment = jinja2.Environment(  # nosec B701
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**variables)


def main() -> int:
    """Render with the variables in a JSON file and write to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variables", type=Path, help="JSON file with the template's variables")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(render(**json.loads(arguments.variables.read_text(encoding="utf-8"))))
    except (OSError, ValueError, jinja2.TemplateError) as error:
        print(f"nginx_config: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
