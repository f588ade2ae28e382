// The tree engine: a balanced k-d tree over the rows of one group, and a walk through it with the
// points of a few leaves at a time as queries.
#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "neighbors/exact.h"
#include "neighbors/search.h"

namespace ncfast {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr std::int64_t kLeavesPerTask = 16;

class Tree {
public:
    // Over the rows first .. last and the columns of the blocks from_block .. to_block.
    Tree(const PointSet& points, std::int64_t first, std::int64_t last, std::int64_t from_block,
         std::int64_t to_block, int threads);
    // Over all columns.
    Tree(const PointSet& points, std::int64_t first, std::int64_t last, int threads)
        : Tree(points, first, last, 0, points.num_blocks, threads) {}

    const PointSet& points() const { return points_; }
    std::int64_t first() const { return first_; }
    std::int64_t rows() const { return rows_; }
    std::int64_t leaves() const { return leaves_; }
    TreeView view() const;
    const Kernels& kernels() const { return kernels_; }
    bool linf() const { return points_.linf; }

    // Points in the order of the tree: first place of a leaf, number and coordinates at a place.
    std::int64_t start(std::int64_t leaf) const { return rows_ * leaf / leaves_; }
    std::int64_t id(std::int64_t place) const { return order_[place].id; }
    const double* at(std::int64_t place) const { return coordinates_.get() + place * dim_; }

private:
    static std::int64_t first_column(const PointSet& points, std::int64_t block) {
        return block == 0 ? 0 : points.ends[block - 1];
    }
    struct Key {
        double value;
        std::int32_t id;
    };

    const double* row(std::int64_t id) const {
        return points_.data + (first_ + id) * points_.dim + column_;
    }
    void split(std::int64_t node, std::int64_t from, std::int64_t to);
    void box(std::int64_t node, std::int64_t from, std::int64_t to);
    void fill_leaf(std::int64_t leaf);

    const PointSet& points_;
    const std::int64_t first_, rows_, column_, dim_;
    const Kernels& kernels_;
    std::vector<std::int64_t> ends_;
    std::int64_t leaves_ = 1, panels_per_leaf_ = 1;
    std::vector<Key> order_;
    std::vector<double> boxes_;
    std::vector<std::int32_t> lowest_;  // lowest number of a node's points
    std::atomic<bool> repeats_{false};  // some leaf of several points has a single value in a column
    std::unique_ptr<double[]> coordinates_, panels_;
    std::unique_ptr<std::int32_t[]> ids_;
};

Tree::Tree(const PointSet& points, std::int64_t first, std::int64_t last, std::int64_t from_block,
           std::int64_t to_block, int threads)
    : points_(points),
      first_(first),
      rows_(last - first),
      column_(first_column(points, from_block)),
      dim_(points.ends[to_block - 1] - column_),
      kernels_(ncfast::kernels()) {
    for (std::int64_t b = from_block; b < to_block; ++b) ends_.push_back(points.ends[b] - column_);
    while (leaves_ * kLeafRows < rows_) leaves_ *= 2;
    const std::int64_t width = kernels_.exact_scan.width;
    panels_per_leaf_ = ((rows_ + leaves_ - 1) / leaves_ + width - 1) / width;
    order_.resize(static_cast<std::size_t>(rows_));
    for (std::int64_t i = 0; i < rows_; ++i) order_[i].id = static_cast<std::int32_t>(i);
    boxes_.resize(static_cast<std::size_t>(2 * leaves_ * 2 * dim_));
    lowest_.resize(static_cast<std::size_t>(2 * leaves_));
    for (std::int64_t nodes = 1; nodes <= leaves_; nodes *= 2)
        parallel_for(nodes, threads, [&](std::int64_t i) {
            split(nodes + i, rows_ * i / nodes, rows_ * (i + 1) / nodes);
        });
    coordinates_.reset(new double[static_cast<std::size_t>(rows_ * dim_)]);
    panels_.reset(new double[static_cast<std::size_t>(leaves_ * panels_per_leaf_ * width * dim_)]);
    ids_.reset(new std::int32_t[static_cast<std::size_t>(leaves_ * panels_per_leaf_ * width)]);
    constexpr std::int64_t kPerTask = 64;
    parallel_for((leaves_ + kPerTask - 1) / kPerTask, threads, [&](std::int64_t task) {
        const std::int64_t end = std::min(leaves_, (task + 1) * kPerTask);
        for (std::int64_t leaf = task * kPerTask; leaf < end; ++leaf) fill_leaf(leaf);
    });
}

TreeView Tree::view() const {
    return {boxes_.data(), repeats_.load() ? lowest_.data() : nullptr, panels_.get(), ids_.get(),
            rows_, dim_, leaves_, panels_per_leaf_, ends_.data(),
            static_cast<std::int64_t>(ends_.size())};
}

void Tree::box(std::int64_t node, std::int64_t from, std::int64_t to) {
    double* low = boxes_.data() + node * 2 * dim_;
    double* high = low + dim_;
    std::fill(low, high, kInf);
    std::fill(high, high + dim_, -kInf);
    std::int32_t lowest = std::numeric_limits<std::int32_t>::max();
    for (std::int64_t i = from; i < to; ++i) {
        lowest = std::min(lowest, order_[i].id);
        const double* x = row(order_[i].id);
        for (std::int64_t d = 0; d < dim_; ++d) {
            low[d] = std::min(low[d], x[d]);
            high[d] = std::max(high[d], x[d]);
        }
    }
    lowest_[node] = lowest;
    if (node < leaves_ || to - from < 2) return;
    for (std::int64_t d = 0; d < dim_; ++d)
        if (low[d] == high[d]) repeats_.store(true, std::memory_order_relaxed);
}

// Computes the box of a node and, unless it is a leaf, halves its points along the widest side.
// Points are ordered by (coordinate, number). Repeated points are therefore in the order of their
// numbers, and a search that has found k of them finds no lower number to the right.
void Tree::split(std::int64_t node, std::int64_t from, std::int64_t to) {
    box(node, from, to);
    if (node >= leaves_) return;
    const double* low = boxes_.data() + node * 2 * dim_;
    std::int64_t axis = 0;
    for (std::int64_t d = 1; d < dim_; ++d)
        if (low[dim_ + d] - low[d] > low[dim_ + axis] - low[axis]) axis = d;
    for (std::int64_t i = from; i < to; ++i) order_[i].value = ordered(row(order_[i].id)[axis]);
    // The position where the first leaf of the right half begins.
    std::int64_t level = 1;
    while (2 * level <= node) level *= 2;
    const std::int64_t middle = rows_ * (2 * (node - level) + 1) / (2 * level);
    std::nth_element(order_.begin() + from, order_.begin() + middle, order_.begin() + to,
                     [](const Key& a, const Key& b) {
                         return a.value < b.value || (a.value == b.value && a.id < b.id);
                     });
}

void Tree::fill_leaf(std::int64_t leaf) {
    const std::int64_t width = kernels_.exact_scan.width, room = panels_per_leaf_ * width;
    const std::int64_t from = start(leaf), number = start(leaf + 1) - from;
    for (std::int64_t i = 0; i < room; ++i) {
        const std::int64_t panel = leaf * panels_per_leaf_ + i / width;
        double* to = panels_.get() + panel * dim_ * width + i % width;
        ids_[leaf * room + i] = i < number ? order_[from + i].id : -1;
        for (std::int64_t d = 0; d < dim_; ++d) {
            const double value = i < number ? row(order_[from + i].id)[d]
                                            : kInf;
            to[d * width] = value;
            if (i < number) coordinates_[(from + i) * dim_ + d] = value;
        }
    }
}

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
