"""A selected configuration is served by a real NGINX after a reload and a restart."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.selection import UnknownConfiguration, Selection
from shared.testing.ports import free_port
from shared.testing.timing import BUSY_SECONDS

_CONFIGURATION = """
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location = /revision {{ return 200 {name}; }}
    }}
}}
"""


class Nginx:
    """The directory of rollout-proxy and NGINX, and an NGINX that reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        for part in ("prepared", "selected"):
            (folder / part).mkdir()
        for name in ("stable", "canary-10"):
            text = _CONFIGURATION.format(folder=folder, port=self.port, name=name)
            (folder / "prepared" / f"{name}.conf").write_text(text, encoding="utf-8")

    @contextmanager
    def runs(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = ["nginx", "-p", f"{self.folder}/", "-c", f"{self.folder}/selected/nginx.conf", "-e", "stderr"]
        with subprocess.Popen([*command, "-g", "daemon off;"]) as process:
            try:
                yield process
            finally:
                process.terminate()

    def serves(self, name: str) -> bool:
        deadline = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/revision").text == name:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        return False


@pytest.fixture
def nginx(tmp_path: Path) -> Nginx:
    if shutil.which("nginx") is None:
        pytest.skip("there is no nginx on this machine")
    return Nginx(tmp_path)


def test_a_selection_is_served_after_a_reload_and_a_restart(nginx: Nginx) -> None:
    selection = Selection(nginx.folder)
    selection.select("stable")
    with nginx.runs() as process:
        assert nginx.serves("stable")
        selection.select("canary-10")
        subprocess.run(["kill", "-s", "HUP", str(process.pid)], check=True)
        assert nginx.serves("canary-10")
    with nginx.runs():
        assert nginx.serves("canary-10")


@pytest.mark.parametrize("name", ["canary-50", "", "stable\n", "../selected/nginx", "stable;", "/etc/passwd", "STABLE"])
def test_an_unprepared_configuration_is_not_selected(tmp_path: Path, name: str) -> None:
    for part in ("prepared", "selected"):
        (tmp_path / part).mkdir()
    (tmp_path / "prepared/stable.conf").touch()
    (tmp_path / "selected/nginx.conf").write_text("as before", encoding="utf-8")
    with pytest.raises(UnknownConfiguration):
        Selection(tmp_path).select(name)
    assert (tmp_path / "selected/nginx.conf").read_text(encoding="utf-8") == "as before"
