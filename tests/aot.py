"""Compiles the kernels for GPUs that are not present and inspects their machine code.

``python tests/aot.py`` prints the table. ``--write`` stores it in tests/kernels/aot.json, the file
that test_aot.py compares with.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from specimens import cases

TABLE = Path(__file__).parent / "kernels" / "aot.json"
TARGETS = (80, 90, 100)
OPS = {
    "vector_loads": r"LDG(?:STS)?\.E\.(?:\w+\.)*128",  # to registers or directly to shared memory
    "scalar_loads": r"LDG\.E(?!\S*(?:128|64))\S*",
}


def compile_case(case, capability):
    """Compile the kernel of a case of `cases` for a CUDA capability or a named AMD device."""
    import triton
    from triton.backends.compiler import GPUTarget

    from ncfast.kernels.launch import bounded, precision_for

    constants = dict(case["constants"])
    if isinstance(capability, str):
        target = GPUTarget("hip", capability, 64)
        wanted = "ieee"  # like `ncfast.kernels.launch.precision`
    else:
        target = GPUTarget("cuda", capability, 32)
        wanted = precision_for(constants.get("PRECISION", ""), divmod(capability, 10))
    if "PRECISION" in constants:
        constants["PRECISION"] = wanted
    source = _source(case, constants)
    options = {"num_warps": case["warps"], "enable_fp_fusion": case["fusion"]}
    options |= {"num_stages": case["stages"]} if case["stages"] else {}
    if case["bounded"] and target.backend == "cuda":
        options |= bounded(case["bounded"])
    return triton.compile(source, target=target, options=options)


def _source(case, constants):
    """The kernel with the types of its arguments, in the terms of the installed Triton."""
    from triton.backends import compiler
    from triton.compiler import ASTSource

    names, signature = case["kernel"].arg_names, case["signature"]
    places = [(names.index(name),) for name in case["aligned"]]
    if hasattr(compiler, "AttrsDescriptor"):  # Triton 3.2
        aligned = {"tt.divisibility": [place for (place,) in places], "tt.equal_to": []}
        described = {"arg_properties": aligned, "cls": "AttrsDescriptor"}
        attrs = compiler.AttrsDescriptor.from_dict(described)
        return ASTSource(case["kernel"], signature, constants, attrs)
    whole = {name: signature.get(name, "constexpr") for name in names}
    attrs = {place: [["tt.divisibility", 16]] for place in places}
    return ASTSource(case["kernel"], whole, constants, attrs)


def inspect(compiled):
    """Registers, spilled bytes, loads and size of the machine code."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", file.name)
        code = _run(tools / "nvdisasm", "-c", file.name)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    local = len(re.findall(r"\b(?:LDL|STL)\b", code))
    found = {"registers": int(registers), "stack": int(stack), "spills": local}
    found |= {name: len(re.findall(rf"\b{op}\b", code)) for name, op in OPS.items()}
    last = re.findall(r"/\*([0-9a-f]{4,})\*/ +\S", code)[-1]  # address of the last instruction
    return found | {"shared_bytes": compiled.metadata.shared, "code_bytes": int(last, 16) + 16}


def _run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measure(names=None, targets=TARGETS):
    """The table: the result of `inspect` by case name and target."""
    return {
        name: {f"sm_{target}": inspect(compile_case(case, target)) for target in targets}
        for name, case in cases().items()
        if names is None or name in names
    }


def survey(names, targets):
    """Print a line for each kernel and target, whether it compiles or not; return the failures."""
    failed = []
    for name, case in cases().items():
        for target in targets:
            if names is not None and name not in names:
                continue
            try:
                shown = _shown(inspect(compile_case(case, target)))
            except Exception as error:  # whatever a compiler raises
                shown = [f"FAILS: {type(error).__name__}"]
                failed.append((name, target))
            print(f"{name:<34}sm_{target:<5}", *shown, flush=True)
    return failed


def _shown(found):
    return [f"{key} {value:<5}" for key, value in found.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--targets", nargs="*", type=int, default=TARGETS)
    parser.add_argument("--survey", action="store_true", help="go on after what does not compile")
    arguments = parser.parse_args()
    if arguments.survey:
        import triton

        print(f"Triton {triton.__version__}")
        failed = survey(arguments.only, arguments.targets)
        print(f"{len(failed)} do not compile")
        return
    table = measure(arguments.only, arguments.targets)
    for name, targets in table.items():
        for target, found in targets.items():
            print(f"{name:<34}{target:<8}", *_shown(found))
    if arguments.write:
        kept = json.loads(TABLE.read_text()) if arguments.only else {}
        TABLE.write_text(json.dumps(kept | table, indent=1) + "\n")


if __name__ == "__main__":
    main()
