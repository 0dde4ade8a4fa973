"""What is to be installed beside this copy is named as the copy itself was installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.cli.installed import install


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        ('{"url": "file://HERE/a%20b", "dir_info": {"editable": true}}', "-e 'HERE/a b[claude]'"),
        ('{"url": "file://HERE/a%20b", "dir_info": {}}', "'HERE/a b[claude]'"),
        ('{"url": "file://HERE/gone", "dir_info": {"editable": true}}', "'orchestrator-mcp[claude]'"),
        (
            '{"url": "https://x/y", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            "'orchestrator-mcp[claude] @ git+https://x/y@abc'",
        ),
        ('{"url": "file:///a.whl", "archive_info": {}}', "'orchestrator-mcp[claude] @ file:///a.whl'"),
        (None, "'orchestrator-mcp[claude]'"),
        ("[]", "'orchestrator-mcp[claude]'"),
        ("{", "'orchestrator-mcp[claude]'"),
    ],
)
def test_an_extra_is_installed_from_where_this_copy_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None, what: str
) -> None:
    (tmp_path / "a b").mkdir()
    info = tmp_path / "orchestrator_mcp-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: orchestrator-mcp\nVersion: 9\n")
    if origin is not None:
        (info / "direct_url.json").write_text(origin.replace("HERE", str(tmp_path)))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    command, _, rest = install("claude").partition(" install ")
    assert rest == what.replace("HERE", str(tmp_path))
    assert command == "pip" or Path(command).exists(), json.dumps(command)
