"""Texts of the performance pages: they explain how to read the tables."""

HEAD = """# Performance

How fast is ncfast beside the packages and recipes that do the same, where is it slower, and whose
numbers are wrong? `python -m ncfast.benchmarks.page` writes this page from the JSON files in
`benchmarks/results`. Every case is on a [page of its own](#case-by-case)."""

ROWS = """Ten cases on each machine, one a row, measured by the command at its end. "Ratio" is the
time of the fastest right rival over that of ncfast, within rounds, with quartiles; below one the
rival is faster. "Load" is the number of running processes before and after: far above one, the
times are too long and the ratios uncertain. "Errors" are those of ncfast and of the rival against
float64, or against the true information. A wrong rival takes part in no ratio; its number stands
beside its name."""

ROWS_BELOW = """In the rows of training ncfast logs {ours} numbers a record, and its rivals the
{least} to {most} that they have. The training without a log is on the page of
[packages](performance-packages.md)."""

ROWS_FIGURE = """Every rival of the ten rows. Right of the line ncfast is faster."""

SCALING_FIGURE = """Time against N, D and K: [performance-scaling.md](performance-scaling.md)."""

LOSSES = """Every case in which a right rival takes less time than ncfast, or than the steps that
ncfast tracks, in one file or more: its time over that of ncfast, and its error. Bold: clearly
faster, by the quartiles of three rounds or more."""

AIMS = """What ncfast lost, or did in much more than the time of a read, with the aim for each.
`python -m ncfast.benchmarks.aims --out FILE` measures them with one thread. The files of two cores
have the same cases with two threads, by the commands on the page of
[all operations](performance-operations.md). Bold: missed."""

LIMITS = {
    "sigma_w": """On the AMD products in float64 run at 43 GFLOP/s a thread, those in float32 at 98.
ncfast forms half of the symmetric matrix, in float64, and is right to 14 digits; what is faster is
right to 5 to 7.""",
    "call": """In a loop over the same features the call takes 30 us on the AMD and 38 on the Intel,
19 and 25 more than the operator. Here other contestants and pauses of 20 ms lie between its calls,
so code and features have left the nearest caches: a plain read of such features takes 38 us in
place of 11 (on the AMD).""",
    "half": """A row has half the bytes in half types but takes 0.6 to 0.75 of the time of one in
float32: what counts is the number of rows, which are read in the order of their classes (see
below), and each value is widened.""",
    "scattered": """One core of the AMD reads rows in the order of their classes at 13 to 17 GB/s,
where each prefetch of a scattered line holds a miss buffer until memory answers. Rows in their own
order come at 28 GB/s through the hardware's prefetcher. On the Intel it is 10 and 13 GB/s.""",
    "sweep": """On one thread the replicas share the launches of operations, not the arithmetic.""",
}

BACK = """From [performance.md](performance.md), which says how this was measured."""

TOPIC = """Every case of `ncfast bench` on this topic; [performance.md](performance.md) says how it
was measured and on which machine. "Ratio" is a contestant's time over that of ncfast, the median
over rounds with quartiles in brackets."""

OPERATIONS = {
    "packages.training": """The whole training from the same seed, with the log on disk at its end.
Rivals log what their package has; "numbers a record" counts it. "the training alone" logs
nothing.""",
    "packages.nc1": """Tr(Sigma_W) / Tr(Sigma_B), from the index of Calinski and Harabasz, or from
class means and variances. The features are Gaussian classes around random means; "spread" is the
standard deviation over the norm of the mean, which falls as a network collapses. The recipe of
masks follows the neural-collapse package (github.com/rhubarbwu/neural-collapse), which is on no
package index.""",
    "packages.vocabulary": """Seven metrics of NC1 to NC3 that are linear in K, from the first batch
to the values. The long stream passes 61 batches four times, because 2,000,000 rows take 6 GB. The
recipe of masks follows the neural-collapse package; it takes part in the short stream alone,
because each of its masks takes 1.6 GB.""",
    "packages.information": """True information, not that of the estimator: right is within 10 % or
0.05 nats. "warnings" counts those of the call. With many columns estimators by neighbours are
biased downwards; ncfast says so in a warning.""",
    "packages.discrete": """Integers that are declared as such: all count them, and search no
neighbours.""",
    "tracker_block": """The metrics of a block of log points, as a flush computes them. The rival
computes six metrics, whatever the set.""",
    "plane": """A log point of the information plane. The rival computes I(Z;X) alone, without
noise, labels, bounds or errors.""",
}

GLANCE = """In how many cases ncfast is the fastest; then the time of the fastest right contestant
over that of ncfast, its least, median and largest. Above one ncfast is faster. Every case counts
once; its contestants are on the page of the topic."""

WRONG = (
    """A result whose error is larger than allowed counts as wrong, and takes part in no ratio."""
)

WRONG_ROWS = """Error and, behind it, the time over that of ncfast, by file."""

METHOD = """## How it was measured

A contestant is timed only after its result was compared with float64 in the same run. Contestants
run in turn, round after round. A ratio is the median of the ratios within a round, with quartiles
in brackets. "cold" means that the inputs rotate through more memory than the last cache holds."""

RERUN = """## Rerun it

```console
$ pip install '.[dev,bench]'
$ python -m ncfast.benchmarks.first_screen --out mine.json    # the ten rows
$ python -m ncfast.benchmarks.aims --out mine.json            # the aims
$ ncfast bench --quick --out mine.json            # two minutes on two cores
$ ncfast bench --out mine.json                    # everything
$ ncfast bench --ops knn plane --out mine.json    # some of it; the rest of the file is kept
$ ncfast bench --compare benchmarks/results/FILE.json mine.json
$ python -m ncfast.benchmarks.scaling --out scaling.json
$ python -m ncfast.benchmarks.streaming FOLDER --gib 28 --out streaming.json
$ python -m ncfast.benchmarks.projection --out projection.json
$ python -m ncfast.benchmarks.page
$ bash benchmarks/evidence.sh                     # and the other pages: hours
```

Times depend on the machine, ratios less so. `benchmarks/operations` holds all contestants, one file
per operation. The machine must be idle: other programs do not change the errors, but they widen the
quartiles."""

ROOFLINE = """The figure shows cold cases. The number of operations is that of the plain algorithm
(for neighbours: all pairs), so an algorithm that skips most of them may be above the roof. The
lines are the limits of the latest call. A case of an earlier call, with faster memory, may be
above them, too. Shares of the limit in the tables refer to the limits of their own call."""

SCALING = """The exponent is the slope of a line through the logarithms of time and size, over the
larger half of the points. An exponent of one means linear growth. Every point was checked against
float64 first. The plain read is `feats.sum()` on the same features, timed in the same rounds."""

STREAMING = """The file does not fit in memory. Chunks are mapped by `np.memmap`, passed to
`class_moments` and merged. The page cache held no part of the file before either pass. Anonymous
memory cannot be released without swapping; mapped pages of the file belong to the kernel, which may
drop them. The reference was summed in float64 while the file was written."""

PROJECTION = """## Projection to a cluster

**Computed, not measured**: no cluster was available. Bytes follow from the layout of the messages;
tests compare them with real packed states. Seconds are the bytes that a rank receives over the
nominal bandwidth of its link in one direction, without latency, congestion and merging."""

OTHER_PAGES = {
    "accuracy.md": "errors at every level of collapse",
    "cpu-backend.md": "class moments on a CPU in many more shapes, and their limits",
    "metrics.md": "all metrics against public code",
    "neighbors.md": "nearest neighbours and KSG by cell, and the engines compared",
    "information.md": "estimators of information, their bias and speed",
    "tracking.md": "the cost of tracking beside a training step",
    "experiments.md": "replicas in one program",
    "gpu-backend.md": "the Triton kernels",
}
