"""A worker of the self-check whose kernels are plain functions, most of them broken on purpose."""

import ctypes
import sys
import time
from dataclasses import replace

from ncfast.ops.scatter import SCATTER
from ncfast.self_check import worker
from ncfast.self_check.forms import forms


def wrong(feats, labels, means):
    return SCATTER.reference(feats, labels, means) * 1.001


def hangs(*given):
    while True:
        time.sleep(1)


def crashes(*given):
    print("a last word", file=sys.stderr, flush=True)
    ctypes.string_at(0)


def does_not_compile(*given):
    raise RuntimeError("PassManager::run failed\nand 279 lines of MLIR")


def talks(*given):
    print("a compiler prints this\n[1, 2]\n7")
    return SCATTER.reference(*given)


KERNELS = {
    "right": SCATTER.reference,
    "wrong": wrong,
    "hangs": hangs,
    "crashes": crashes,
    "does not compile": does_not_compile,
    "talks": talks,
}


def main(text):
    form = next(form for form in forms() if form.operation == SCATTER.name)
    made = [replace(form, path=path, kernels=kernels) for path, kernels in KERNELS.items()]
    worker.forms = lambda: made
    worker.main(text)
