"""The modules of the page that need no browser, run by node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import opendetr.serving

WEB = Path(opendetr.serving.__file__).parent / "web"


class Node:
    """Runs scripts beside the modules; node takes them for modules by the `package.json` beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(WEB, folder)
        (folder / "package.json").write_text('{"type": "module"}')

    def __call__(self, script: str, given: Any = None) -> Any:
        """What the script assigns to `answer`, which starts with its imports and finds its input in `given`."""
        *imports, rest = script.rpartition("---\n")
        whole = (
            f"{imports[0]}\nimport {{ readFileSync }} from 'node:fs';\n"
            f"const given = JSON.parse(readFileSync(0, 'utf8'));\nlet answer;\n{rest}\n"
            f"process.stdout.write(JSON.stringify(answer));\n"
        )
        command = ["node", "--input-type=module", "--eval", whole]
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def require_node() -> None:
    if shutil.which("node") is None:
        pytest.skip("no node found; `apt-get install nodejs npm` installs what the tests of the page need")
