"""Tests of a service's settings: a complete environment, and the settings that prevent a start."""

from typing import Any

import pytest

from shared.runtime.settings import ProcessSettings, load_or_exit


class SettingsEnvironment:
    """The environment of a process: complete and valid, until the test changes a variable."""

    def __init__(
        self, kind: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._kind = kind
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def set(self, **variables: str) -> None:
        """Set environment variables."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def unset(self, *names: str) -> None:
        """Delete environment variables."""
        for name in names:
            self._monkeypatch.delenv(name)

    def load(self) -> Any:
        """Return the settings; a rejected setting ends the process."""
        return load_or_exit(self._kind)

    def rejected(self) -> list[str]:
        """Return the names of the settings that prevent the start, sorted; there must be at least one."""
        with pytest.raises(SystemExit) as caught:
            self.load()
        if caught.value.code != 2:
            pytest.fail(f"the process exited with {caught.value.code}, not with 2")
        return sorted(
            line.split(":")[0].removeprefix("setting ") for line in self._capsys.readouterr().err.splitlines()
        )
