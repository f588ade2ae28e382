"""A CUDA device that is not there: tensors on the CPU pass for its tensors."""

from types import SimpleNamespace

import torch

from ncfast import _validate
from ncfast.ops import _auto, _background, _fallback, _raw, _registry, _second_net, _verdicts
from ncfast.ops import moments as passes
from ncfast.ops._verdicts import Subject, Verdict

FACTS = {"device": "Stand-in 9000", "capability": "9.0", "multiprocessors": 4, "driver": "12080"}
CPU = torch.device("cpu")


class StandIn:
    """What the package believes of the device; tests change the attributes."""

    def __init__(self, monkeypatch, folder):
        self.facts = {0: {**FACTS}}
        self.capturing = False
        self.free = 16 << 30
        self.started = []  # commands of self-checks
        self.clock = 0.0
        self._patch = monkeypatch.setattr
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        for name in (*_background._SHARED, _auto.VARIABLE):
            monkeypatch.delenv(name, raising=False)
        for module, name in (
            (_verdicts, "_tables"),
            (_fallback, "failures"),
        ):
            self._patch(module, name, {})
        for module, name in (
            (_background, "_considered"),
            (_auto, "_ran"),
            (_second_net, "_compared"),
        ):
            self._patch(module, name, set())
        self._patch(_second_net, "_answers", [])
        self._patch(_verdicts, "_number", lambda device: 0)
        self._patch(_verdicts, "facts", self.facts.get)
        self._patch(_verdicts, "devices", lambda: range(len(self.facts)))
        self._patch(_verdicts, "_now", lambda: self.clock)
        self._patch(_background, "visible_name", str)
        self._patch(_background, "Popen", self._start)
        for module in (_registry, passes):
            self._patch(module, "why_not_triton", lambda feats=None: None)
        self._patch(_raw, "readable", lambda feats: False)
        self._patch(_raw, "tensor_reader", lambda extension: None)
        self._patch(_validate, "is_on_host", lambda labels: False)
        cuda = torch.cuda
        self._patch(cuda, "is_current_stream_capturing", lambda: self.capturing)
        self._patch(cuda, "mem_get_info", lambda number: (self.free, 80 << 30))
        self._patch(cuda, "current_stream", lambda device: SimpleNamespace(query=lambda: True))

    def _start(self, command, **options):
        self.started.append(command)
        return SimpleNamespace(poll=lambda: 0)

    def compare(self):
        """Let the second net compare tensors on the CPU as well."""
        self._patch(_second_net, "applies", lambda feats: not self.capturing)

    @property
    def table(self):
        return _verdicts.table_of(CPU)

    def judge(self, *entries, finished=True):
        """Write verdicts as the self-check does, and let the process see them."""
        found = [(Subject(*name), Verdict(*verdict)) for *name, verdict in entries]
        _verdicts.write(self.table.file, self.table.facts, found, finished=finished)
        _verdicts.forget()
