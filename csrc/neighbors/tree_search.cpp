// The tree engine: walks a tree with the points of a few leaves at a time as queries.
#include <algorithm>
#include <limits>
#include <vector>

#include "core/pool.h"
#include "neighbors/exact.h"
#include "neighbors/tree.h"

namespace ncfast {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr std::int64_t kLeavesPerTask = 16;

// Counts in one dimension by bisection of the sorted values.
class SortedValues {
public:
    explicit SortedValues(std::vector<double> values) : values_(std::move(values)) {
        for (double& value : values_) value = ordered(value);
        std::sort(values_.begin(), values_.end());
    }

    // The number of values with a score up to `limit` from x, which is one of them. Rounding is
    // monotone, and therefore the score is monotone on either side of x.
    std::int64_t count(double x, double limit, bool linf) const {
        const auto inside = [=](double y) { return exact_score(&x, &y, 0, 1, linf) <= limit; };
        const auto middle = std::lower_bound(values_.begin(), values_.end(), x);
        const auto low = std::partition_point(values_.begin(), middle,
                                              [&](double y) { return !inside(y); });
        const auto high = std::partition_point(middle, values_.end(), inside);
        return high - low;
    }

private:
    std::vector<double> values_;
};

template <class Work>
void for_leaves(const Tree& tree, int threads, Work work) {
    parallel_for((tree.leaves() + kLeavesPerTask - 1) / kLeavesPerTask, threads,
                 [&](std::int64_t task) {
                     const std::int64_t end =
                         std::min(tree.leaves(), (task + 1) * kLeavesPerTask);
                     work(task * kLeavesPerTask, end);
                 });
}

// Calls use(id, scores, ids, found) for each point of the leaves, with its k nearest, ascending.
template <class Use>
void nearest_in(const Tree& tree, std::int64_t from, std::int64_t to, std::int64_t k, Use use) {
    const TreeView view = tree.view();
    const std::int64_t most = (tree.rows() + tree.leaves() - 1) / tree.leaves();
    std::vector<double> best(static_cast<std::size_t>(most * k));
    std::vector<std::int32_t> ids(static_cast<std::size_t>(most * k));
    std::vector<Seeker<double>> queries(static_cast<std::size_t>(most));
    for (std::int64_t leaf = from; leaf < to; ++leaf) {
        const std::int64_t start = tree.start(leaf), number = tree.start(leaf + 1) - start;
        for (std::int64_t i = 0; i < number; ++i) {
            Seeker<double> q{};
            q.at = tree.at(start + i);
            q.threshold = std::numeric_limits<double>::max();
            q.self = static_cast<std::int32_t>(tree.id(start + i));
            q.k = static_cast<std::int32_t>(k);
            q.best = best.data() + i * k;
            q.ids = ids.data() + i * k;
            queries[i] = q;
        }
        tree.kernels().walk_nearest[tree.linf()](view, leaf, queries.data());
        for (std::int64_t i = 0; i < number; ++i)
            use(queries[i].self, queries[i].best, queries[i].ids, queries[i].found);
    }
}

// Writes counts[id], the number of other points with a score up to limits[id], for the points of
// some leaves.
void count_in(const Tree& tree, std::int64_t from, std::int64_t to, const double* limits,
              std::int64_t* counts) {
    const TreeView view = tree.view();
    const std::int64_t most = (tree.rows() + tree.leaves() - 1) / tree.leaves();
    std::vector<double> limit(static_cast<std::size_t>(most));
    std::vector<std::int64_t> count(static_cast<std::size_t>(most));
    for (std::int64_t leaf = from; leaf < to; ++leaf) {
        const std::int64_t start = tree.start(leaf), number = tree.start(leaf + 1) - start;
        if (number == 0) continue;
        for (std::int64_t i = 0; i < number; ++i)
            limit[i] = std::min(limits[tree.id(start + i)], std::numeric_limits<double>::max());
        std::fill(count.begin(), count.end(), 0);
        tree.kernels().walk_count[tree.linf()](view, leaf, tree.at(start), limit.data(),
                                               count.data());
        for (std::int64_t i = 0; i < number; ++i)
            counts[tree.id(start + i)] = count[i] - (limit[i] >= 0);  // not itself
    }
}

// Writes the counts of all rows of a group in a single column.
void count_sorted(const PointSet& points, std::int64_t first, std::int64_t last,
                  std::int64_t column, const double* limits, std::int64_t* counts, int threads) {
    const auto value = [&](std::int64_t i) { return points.data[(first + i) * points.dim + column]; };
    std::vector<double> values(static_cast<std::size_t>(last - first));
    for (std::int64_t i = 0; i < last - first; ++i) values[i] = value(i);
    const SortedValues sorted(std::move(values));
    constexpr std::int64_t kPerTask = 512;
    parallel_for((last - first + kPerTask - 1) / kPerTask, threads, [&](std::int64_t task) {
        const std::int64_t end = std::min(last - first, (task + 1) * kPerTask);
        for (std::int64_t i = task * kPerTask; i < end; ++i)
            counts[i] = limits[i] < 0 ? 0 : sorted.count(value(i), limits[i], points.linf) - 1;
    });
}

// Writes the counts of all rows of a group in one block of columns.
void count_block(const PointSet& points, std::int64_t first, std::int64_t last, std::int64_t block,
                 const double* limits, std::int64_t* counts, int threads) {
    const std::int64_t column = block == 0 ? 0 : points.ends[block - 1];
    if (points.ends[block] == column + 1)
        return count_sorted(points, first, last, column, limits, counts, threads);
    const Tree tree(points, first, last, block, block + 1, threads);
    for_leaves(tree, threads, [&](std::int64_t from, std::int64_t to) {
        count_in(tree, from, to, limits, counts);
    });
}

// The largest distance in a block between a row and its neighbors.
double extent_of(const PointSet& points, std::int64_t first, std::int64_t block, std::int64_t id,
                 const std::int32_t* ids, std::int64_t number) {
    const std::int64_t column = block == 0 ? 0 : points.ends[block - 1];
    const double* from = points.data + first * points.dim;
    double score = 0;
    for (std::int64_t j = 0; j < number; ++j)
        score = std::max(score, exact_score(from + id * points.dim, from + ids[j] * points.dim,
                                            column, points.ends[block], points.linf));
    return distance_of(score, points.linf);
}

// Counts the ties of rows whose (k + 1)-th neighbor is as near as the k-th.
void count_ties(const Tree& tree, const std::vector<std::int64_t>& open, const JointOut& out,
                int threads) {
    if (open.empty()) return;
    std::vector<double> limits(static_cast<std::size_t>(tree.rows()), -1.0);
    std::vector<std::int64_t> counts(static_cast<std::size_t>(tree.rows()));
    for (std::int64_t id : open)
        limits[id] = score_limit(out.radii[tree.first() + id], false, tree.linf());
    for_leaves(tree, threads, [&](std::int64_t from, std::int64_t to) {
        count_in(tree, from, to, limits.data(), counts.data());
    });
    for (std::int64_t id : open) out.ties[tree.first() + id] = counts[id];
}

void joint_radii(const Tree& tree, std::int64_t k, const JointOut& out, int threads) {
    const PointSet& points = tree.points();
    const std::int64_t all = points.rows(), first = tree.first();
    const bool linf = points.linf;
    for_leaves(tree, threads, [&](std::int64_t from, std::int64_t to) {
        nearest_in(tree, from, to, k + 1,
                   [&](std::int64_t id, const double* scores, const std::int32_t* ids, int found) {
                       const bool enough = found >= k;
                       const double radius = enough ? distance_of(scores[k - 1], linf) : kInf;
                       out.radii[first + id] = radius;
                       const bool tied = found > k && distance_of(scores[k], linf) <= radius;
                       out.ties[first + id] = tied ? -1 : enough ? k : found;
                       for (std::int64_t b = 0; b < points.num_blocks; ++b)
                           out.extents[b * all + first + id] =
                               enough ? extent_of(points, first, b, id, ids, k) : kInf;
                   });
    });
    std::vector<std::int64_t> open;
    for (std::int64_t id = 0; id < tree.rows(); ++id)
        if (out.ties[first + id] < 0) open.push_back(id);
    count_ties(tree, open, out, threads);
}

// Calls work(first, last, threads) for each group. Large groups follow each other and use all
// threads; small groups run side by side.
template <class Work>
void for_groups(const PointSet& points, int threads, Work work) {
    std::vector<std::int64_t> small;
    for (std::int64_t g = 0; g < points.num_groups; ++g) {
        const std::int64_t rows = points.offsets[g + 1] - points.offsets[g];
        if (rows > 0 && rows <= 1024 && points.num_groups > 1) small.push_back(g);
        else if (rows > 0) work(points.offsets[g], points.offsets[g + 1], threads);
    }
    parallel_for(static_cast<std::int64_t>(small.size()), threads, [&](std::int64_t i) {
        work(points.offsets[small[i]], points.offsets[small[i] + 1], 1);
    });
}

}  // namespace

void nearest_tree(const PointSet& points, std::int64_t k, NearestOut& out, int threads) {
    for_groups(points, threads, [&](std::int64_t first, std::int64_t last, int workers) {
        const Tree tree(points, first, last, workers);
        for_leaves(tree, workers, [&](std::int64_t from, std::int64_t to) {
            nearest_in(tree, from, to, k, [&](std::int64_t id, const double* scores,
                                              const std::int32_t* ids, std::int64_t found) {
                const std::int64_t at = (first + id) * k;
                for (std::int64_t j = 0; j < k; ++j) {
                    out.distances[at + j] = j < found ? distance_of(scores[j], points.linf) : kInf;
                    out.ids[at + j] = j < found ? first + ids[j] : -1;
                }
            });
        });
    });
    out.repeated = 0;
}

void joint_tree(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                int threads) {
    const std::int64_t all = points.rows();
    for_groups(points, threads, [&](std::int64_t first, std::int64_t last, int workers) {
        joint_radii(Tree(points, first, last, workers), k, out, workers);
        std::vector<double> limits(static_cast<std::size_t>(last - first));
        for (std::int64_t b = 0; b < points.num_blocks; ++b) {
            const double* reach = rectangle ? out.extents + b * all : out.radii;
            for (std::int64_t i = 0; i < last - first; ++i)
                limits[i] = score_limit(reach[first + i], !rectangle, points.linf);
            count_block(points, first, last, b, limits.data(), out.counts + b * all + first,
                        workers);
        }
    });
}

void count_tree(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                int threads) {
    for_groups(points, threads, [&](std::int64_t first, std::int64_t last, int workers) {
        std::vector<double> limits(static_cast<std::size_t>(last - first));
        for (std::int64_t i = 0; i < last - first; ++i)
            limits[i] = score_limit(radii[first + i], strict, points.linf);
        count_block(points, first, last, 0, limits.data(), counts + first, workers);
    });
}

}  // namespace ncfast
