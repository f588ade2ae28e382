"""Describes the kernels at representative sizes, for ahead-of-time compilation."""

from ncfast.kernels.configuration import (
    alignment,
    decide_config,
    gradient_config,
    merge_config,
    neighbors_config,
    power_of_two,
    project_config,
    scatter_config,
    segments_config,
    tiny_config,
    update_config,
)

TYPES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp64": 8}
# (N, D, K): the benchmark's sizes, and a width that no power of two above 8 divides
SIZES = [(1_000_000, 512, 10), (1_000_000, 4096, 1000), (100_000, 200, 10), (10_000, 64, 10)]
TINY = [("fp32", 1000, 200, 10), ("fp32", 4096, 256, 10), ("bf16", 1000, 2048, 100)]
TINY += [("fp64", 1000, 200, 10)]


def cases():
    """The description of each kernel by name: kernel, signature, constants, alignment, warps."""
    found = {}
    for count, dim, classes in SIZES:
        for kind in TYPES if dim == 512 else ("fp32", "bf16"):
            found[f"segments {kind} D={dim}"] = segments(kind, count, dim, classes)
    found["segments fp32 D=8192"] = segments("fp32", 100_000, 8192, 10)
    found["segments again fp32 D=512"] = segments("fp32", 1_000_000, 512, 10, again=True)
    found["segments again bf16 D=4096"] = segments("bf16", 1_000_000, 4096, 1000, again=True)
    for kind, dim in (("fp32", 512), ("bf16", 4096), ("fp64", 200)):
        found[f"update {kind} D={dim}"] = update(kind, dim)
    found["update look fp32 D=512"] = update("fp32", 512, apply=False)
    found["merge fp32 K=10"] = merge(1_000_000, 512, 10)
    found["merge fp32 K=1000"] = merge(1_000_000, 512, 1000)
    for kind, count, dim, classes in TINY:
        found[f"tiny {kind} {count}x{dim}"] = tiny(kind, count, dim, classes)
    for name in ("fold_labels", "find_classes", "cut_classes", "cut_present"):
        found[name] = grouping(name)
    for kind in TYPES:
        found[f"gradient {kind} D=512"] = gradient(kind, 512)
    found["gradient with norms fp32 D=512"] = gradient("fp32", 512, norms=True)
    found["gradient of the largest norm fp32 D=512"] = largest_norm("fp32", 512)
    for kind in ("fp32", "bf16"):
        for vectors in (9, 64):
            found[f"project {kind} V={vectors}"] = project(kind, 512, vectors)
        for classes in (10, 1000):
            found[f"decide {kind} K={classes}"] = decide(kind, 512, classes)
        for dim in (64, 512):
            found[f"scatter {kind} D={dim}"] = scatter(kind, dim)
    found["scatter of an update fp32 D=512"] = scatter("fp32", 512, two=True)
    found["add parts D=512"] = add_parts(512)
    for kind in TYPES:
        found[f"decide exactly {kind}"] = decide_exactly(kind, 512)
    for kind, k in (("fp32", 5), ("fp64", 5), ("fp32", 32), ("fp64", 32)):
        found[f"nearest {kind} k={k}"] = nearest(kind, k)
    for kind in ("fp32", "fp64"):
        found[f"count nearer {kind}"] = count_nearer(kind)
    return found


def segments(kind, count, dim, classes, *, again=False):
    import triton.language as tl

    from ncfast.kernels.segments import moments_of_segments

    config = segments_config(count, dim, classes, TYPES[kind], 132)
    signature = {"feats": f"*{kind}", "permutation": "*i32", "segments": "*i32", "poison": "*fp64"}
    signature |= {"partial_mean": "*fp64", "totals": "*fp64", "means": "*fp64"}
    signature |= {"within": "*fp64", "arrivals": "*i32"}
    signature |= {"row_squares": "*fp64", "width": "i32", "row_units": "i32", "number": "i32"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "ROWS": config.tile_rows}
    constants |= {"COLS": config.tile_cols, "WIDE": dim > config.tile_cols}
    constants |= {"ACC": tl.float64 if kind == "fp64" else tl.float32, "AGAIN": again}
    case = described(moments_of_segments, signature, constants, config.warps)
    return case | {"bounded": config.warps if constants["WIDE"] and not again else 0}


def merge(count, dim, classes):
    from ncfast.kernels.merge import merge_segments

    config = merge_config(
        count, dim, classes, segments_config(count, dim, classes, 4, 132).segment_rows
    )
    signature = {"segments": "*i32", "shared": "*i32", "counts": "*i64"}
    signature |= {"poison": "*fp64", "partial_mean": "*fp64", "totals": "*fp64"}
    signature |= {"arrivals": "*i32", "spreads": "*fp64", "means": "*fp64"}
    signature |= {"within": "*fp64", "norms": "*fp64", "width": "i32"}
    signature |= {"number": "i32", "classes": "i32"}
    constants = {"ALIGN": alignment(dim), "SIZE": 2048}
    constants |= {"SEGMENTS": config.tile_segments, "COLS": config.tile_cols}
    return described(merge_segments, signature, constants, config.warps) | {"bounded": 8}


def update(kind, dim, *, apply=True):
    from ncfast.kernels.update import merge_batch

    segments, merge = (config := update_config(8192, dim, TYPES[kind], 132)).segments, config.merge
    signature = {"segments": "*i32", "partial_mean": "*fp64"}
    signature |= {"totals": "*fp64", "nan_if_invalid": "*fp64", "skipped": "*i64"}
    signature |= {"counts": "*i64", "means": "*fp64"}
    signature |= {"within": "*fp64", "norm_sum": "*fp64", "norm_max": "*fp64"}
    signature |= {"ignored": "*i64"} if apply else {"centres": "*fp32", "reach": "*fp64"}
    signature |= {"width": "i32", "number": "i32"}
    constants = {"centres": None, "reach": None} if apply else {"ignored": None}
    constants |= {"ALIGN": alignment(dim), "SEGMENTS": merge.tile_segments}
    constants |= {"COLS": merge.tile_cols, "SIZE": 2048, "LENGTH": segments.segment_rows}
    constants["APPLY"] = apply
    return described(merge_batch, signature, constants, merge.warps)


def tiny(kind, count, dim, classes):
    import triton.language as tl

    from ncfast.kernels.tiny import moments_of_classes

    config = tiny_config(count, dim, classes, TYPES[kind])
    signature = {"feats": f"*{kind}", "labels": "*i64", "results": "*fp64", "scratch": "*i32"}
    signature |= {"count": "i32", "width": "i32", "row_units": "i32"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "LABELS": config.labels}
    constants |= {"ROWS": config.tile_rows, "COLS": config.tile_cols, "CLASSES": config.classes}
    constants["ACC"] = tl.float64 if kind == "fp64" else tl.float32
    case = described(moments_of_classes, signature, constants, config.warps)
    return case | {"fusion": False, "bounded": config.warps}


def grouping(name):
    """Labels of int64, sorted as uint8."""
    from ncfast.kernels import grouping as kernels

    signature = {
        "fold_labels": {
            "labels": "*i64", "mask": "*u8", "keys": "*u8", "poison": "*fp64", "skipped": "*i64",
            "count": "i32", "stride": "i32", "mask_stride": "i32", "ignore": "i32",
            "classes": "i32", "missing": "i32",
        },
        "find_classes": {
            "ordered": "*u8", "order": "*i64", "permutation": "*i32", "counts": "*i64",
            "offsets": "*i64", "count": "i32", "classes": "i32", "steps": "i32",
        },
        "cut_classes": {
            "counts": "*i64", "offsets": "*i64", "segments": "*i32", "shared": "*i32",
            "number": "i32", "columns": "i32", "classes": "i32", "rows": "i32", "steps": "i32",
        },
        "cut_present": {
            "ordered": "*u8", "order": "*i64", "permutation": "*i32", "segments": "*i32",
            "leaders": "*i64", "number": "i32", "count": "i32", "classes": "i32", "rows": "i32",
            "steps": "i32",
        },
    }[name]  # fmt: skip
    constants = {"IGNORES": True} if name == "fold_labels" else {"RANKED": True}
    constants = {"BLOCK": 256} | ({} if name == "find_classes" else constants)
    return described(getattr(kernels, name), signature, constants, 4)


def project(kind, dim, vectors):
    from ncfast.kernels.projection import projected_squares

    config = project_config(1_000_000, vectors, 132)
    signature = {"feats": f"*{kind}", "labels": "*i64", "centres": "*fp32", "offsets": "*fp32"}
    signature |= {"vectors": "*fp32", "partial": "*fp64", "count": "i32", "classes": "i32"}
    signature |= {"width": "i32", "row_units": "i32", "vectors_number": "i32"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "ROWS": config.tile_rows}
    constants |= {"COLS": config.tile_cols, "VECTORS": config.vectors, "PRECISION": "tf32x3"}
    return described(projected_squares, signature, constants, config.warps, config.stages)


def gradient(kind, dim, *, norms=False):
    from ncfast.kernels.gradient import row_gradients

    config = gradient_config(1_000_000, dim)
    signature = {"feats": f"*{kind}", "labels": "*i64", "shared": "*fp64", "slopes": "*fp64"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "ROWS": config.tile_rows}
    constants["COLS"] = config.tile_cols
    found = {"norm_slope": "*fp64", "largest": "*fp64", "largest_row": "*i64"}
    if norms:
        signature |= found
    else:
        constants |= dict.fromkeys(found)
    signature |= {"out": f"*{kind}", "count": "i32", "classes": "i32", "width": "i32"}
    signature["row_units"] = "i32"
    return described(row_gradients, signature, constants, config.warps)


def largest_norm(kind, dim):
    from ncfast.kernels.gradient import add_largest_norm

    config = gradient_config(1_000_000, dim)
    signature = {"feats": f"*{kind}", "labels": "*i64", "shared": "*fp64", "slopes": "*fp64"}
    signature |= {"norm_slope": "*fp64", "largest_slope": "*fp64", "largest": "*fp64"}
    signature |= {"largest_row": "*i64", "out": f"*{kind}", "count": "i32", "programs": "i32"}
    signature |= {"classes": "i32", "width": "i32", "row_units": "i32"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "SIZE": 1024}
    constants["COLS"] = config.tile_cols
    return described(add_largest_norm, signature, constants, config.warps)


def scatter(kind, dim, *, two=False):
    from ncfast.kernels.scatter import scatter_tiles

    config = scatter_config(1_000_000, dim, 132)
    signature = {"feats": f"*{kind}", "labels": "*i64", "centres": "*fp32", "largest": "*fp64"}
    signature |= {"partial": "*fp64", "count": "i32", "classes": "i32", "width": "i32"}
    signature |= {"row_units": "i32", "span": "i32"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "SIDE": config.side}
    constants |= {"ROWS": config.rows, "FLUSH": config.flush, "PRECISION": "bf16x6", "TWO": two}
    return described(scatter_tiles, signature, constants, config.warps, config.stages)


def add_parts(dim):
    from ncfast.kernels import scatter as kernels

    signature = {"partial": "*fp64", "largest": "*fp64", "total": "*fp64"}
    signature |= {"parts": "i32", "dim": "i32"}
    constants = {"SIDE": scatter_config(1_000_000, dim, 132).side}
    constants |= {"PARTS": kernels._PARTS, "CELLS": kernels._CELLS}
    return described(kernels.add_parts, signature, constants, 4)


def decide(kind, dim, classes):
    from ncfast.kernels.decisions import decide_in_float32

    config = decide_config(classes)
    signature = {"feats": f"*{kind}", "centres": "*fp32", "weights": "*fp32", "offsets": "*fp32"}
    signature |= {"sizes": "*fp32", "chosen": "*i64", "undecided": "*i8", "count": "i32"}
    signature |= {"classes": "i32", "width": "i32", "row_units": "i32", "rounding": "fp32"}
    signature |= {"offset_rounding": "fp32", "norm_floor": "fp32", "floor": "fp32"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "ROWS": config.tile_rows}
    constants |= {"COLS": config.tile_cols, "CLASSES": config.tile_classes, "PRECISION": "tf32x3"}
    return described(decide_in_float32, signature, constants, config.warps, config.stages)


def decide_exactly(kind, dim):
    from ncfast.kernels.decisions import decide_in_float64

    config = decide_config(1000)
    signature = {"feats": f"*{kind}", "centres": "*fp64", "weights": "*fp64", "offsets": "*fp64"}
    signature |= {"undecided": "*i8", "listed": "*i32", "chosen": "*i64", "count": "i32"}
    signature |= {"classes": "i32", "width": "i32", "row_units": "i32"}
    constants = {"col_stride": 1, "ALIGN": alignment(dim), "BLOCK": config.block}
    constants |= {"ROWS": config.exact_rows, "COLS": config.exact_cols}
    constants["CLASSES"] = config.exact_classes
    return described(decide_in_float64, signature, constants, 4, 2)


def nearest(kind, k):
    from ncfast.kernels.neighbors import nearest as kernel

    config = neighbors_config(60_000, TYPES[kind], 132, k)
    signature = {"points": f"*{kind}", "starts": "*i32", "begins": "*i32", "ends": "*i32"}
    signature |= {"scores": f"*{kind}", "indices": "*i32", "extents": f"*{kind}"}
    signature |= {"count": "i32", "dim": "i32"}
    constants = {"K": k, "SLOTS": power_of_two(k), "BLOCKS": 1, "EUCLIDEAN": True}
    constants |= {"ROWS": config.tile_rows, "COLS": config.tile_cols}
    return described(kernel, signature, constants, config.warps) | {"fusion": False}


def count_nearer(kind):
    from ncfast.kernels.neighbors import count_nearer as kernel

    config = neighbors_config(60_000, TYPES[kind], 132)
    signature = {"points": f"*{kind}", "starts": "*i32", "begins": "*i32", "ends": "*i32"}
    signature |= {"limits": f"*{kind}", "counts": "*i32", "count": "i32", "dim": "i32"}
    constants = {"BLOCKS": 2, "PARTS": 4, "EUCLIDEAN": True}
    constants |= {"ROWS": config.tile_rows, "COLS": config.tile_cols}
    return described(kernel, signature, constants, config.warps) | {"fusion": False}


def described(kernel, signature, constants, warps, stages=None):
    """A case of `cases`. Pointers are assumed to be aligned, like those of torch's allocator."""
    aligned = [name for name, kind in signature.items() if kind.startswith("*")]
    return {
        "kernel": kernel, "signature": signature, "constants": constants,
        "aligned": aligned, "warps": warps, "stages": stages, "fusion": True, "bounded": 0,
    }  # fmt: skip
