import json

import ncfast
from ncfast.backends import _dispatch


def test_every_backend_says_why():
    found = ncfast.backends()
    assert set(found) >= {"reference", "cpu", "triton"}
    assert found["reference"].available
    assert all(status.reason for status in found.values())


def test_a_failed_build_is_explained(tmp_path, monkeypatch):
    info = tmp_path / "_build_info.json"
    info.write_text(json.dumps({"built": False, "reason": "CompileError: no g++"}))
    monkeypatch.setattr(_dispatch, "_BUILD_INFO", info)
    status = ncfast.backends()["cpu"]
    assert not status.available
    assert "CompileError: no g++" in status.reason
