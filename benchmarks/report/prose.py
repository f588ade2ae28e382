"""What the performance page says in words: how to read it, never what came out."""

HEAD = """# Performance

Every number, table and figure here is made by `python -m ncfast.benchmarks.page` from the JSON
files in `benchmarks/results`; nothing is typed. A contestant is timed only after its result was
compared with float64 in the same run. The error stands beside the time; who is off by more than
allowed counts as wrong, however fast, and takes part in no ratio. Contestants run in turn, round
after round; a ratio is the median of the ratios within a round, with quartiles in brackets, and is
above one where ncfast is faster. "cold" means that the inputs rotate through more memory than the
last cache holds."""

RERUN = """## Rerun it

```console
$ pip install '.[dev]'
$ ncfast bench --quick --out mine.json            # two minutes on two cores
$ ncfast bench --out mine.json                    # everything
$ ncfast bench --ops knn plane --out mine.json    # some of it; the rest of the file is kept
$ ncfast bench --compare benchmarks/results/FILE.json mine.json
$ python -m ncfast.benchmarks.scaling --out scaling.json
$ python -m ncfast.benchmarks.streaming FOLDER --gib 28 --out streaming.json
$ python -m ncfast.benchmarks.projection --out projection.json
$ python -m ncfast.benchmarks.page
$ bash benchmarks/evidence.sh                     # and what the other pages claim: hours
```

Times depend on the machine; ratios less so. `benchmarks/operations` has every contestant, a file
an operation. The machine must be idle: what else runs on it is not seen in the errors, but in the
quartiles."""

ROOFLINE = """Cold cases alone. Operations are those of the plain algorithm (for neighbours: all
pairs), so what leaves most of them out may stand above the roof. The ceilings drawn are those of
the latest call: a case that was measured in another call, when memory answered faster, may stand
above them, too. Shares of the ceiling refer to the ceilings of their own call."""

SCALING = """The exponent is the slope of a straight line through the logarithms of time and size,
over the larger half of the points; one is linear. Every point was checked against float64 first,
and the plain read of the same features, `feats.sum()`, was timed in the same rounds."""

STREAMING = """The file does not fit in memory: chunks are mapped by `np.memmap`, passed to
`class_moments` and merged. The page cache was emptied of it before either pass. Anonymous memory is
what the process cannot give back; mapped pages of the file belong to the kernel, which may drop
them. The truth was summed in float64 from the same numbers while the file was written."""

PROJECTION = """## Projection to a cluster

**Computed, not measured**: no cluster was at hand. Bytes follow from the layout that is sent (tests
compare them with real packed states); seconds are the bytes a rank receives over the nominal
bandwidth of its link in one direction, without latency, congestion or the merging itself."""

OTHER_PAGES = {
    "accuracy.md": "errors at every level of collapse",
    "cpu-backend.md": "class moments on a CPU in many more shapes, and what bounds them",
    "metrics.md": "the whole suite against the public way",
    "neighbors.md": "nearest neighbours and KSG cell by cell, the engines against each other",
    "information.md": "estimators of information, their bias",
    "tracking.md": "what tracking costs beside a training step",
    "experiments.md": "replicas in one program",
    "gpu-backend.md": "the Triton kernels",
}
