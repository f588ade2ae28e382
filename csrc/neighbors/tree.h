// A balanced k-d tree over the rows of one group.
#pragma once

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

inline Tree::Tree(const PointSet& points, std::int64_t first, std::int64_t last,
                  std::int64_t from_block, std::int64_t to_block, int threads)
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

inline TreeView Tree::view() const {
    return {boxes_.data(), repeats_.load() ? lowest_.data() : nullptr, panels_.get(), ids_.get(),
            rows_, dim_, leaves_, panels_per_leaf_, ends_.data(),
            static_cast<std::int64_t>(ends_.size())};
}

inline void Tree::box(std::int64_t node, std::int64_t from, std::int64_t to) {
    double* low = boxes_.data() + node * 2 * dim_;
    double* high = low + dim_;
    std::fill(low, high, std::numeric_limits<double>::infinity());
    std::fill(high, high + dim_, -std::numeric_limits<double>::infinity());
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
inline void Tree::split(std::int64_t node, std::int64_t from, std::int64_t to) {
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

inline void Tree::fill_leaf(std::int64_t leaf) {
    const std::int64_t width = kernels_.exact_scan.width, room = panels_per_leaf_ * width;
    const std::int64_t from = start(leaf), number = start(leaf + 1) - from;
    for (std::int64_t i = 0; i < room; ++i) {
        const std::int64_t panel = leaf * panels_per_leaf_ + i / width;
        double* to = panels_.get() + panel * dim_ * width + i % width;
        ids_[leaf * room + i] = i < number ? order_[from + i].id : -1;
        for (std::int64_t d = 0; d < dim_; ++d) {
            const double value = i < number ? row(order_[from + i].id)[d]
                                            : std::numeric_limits<double>::infinity();
            to[d * width] = value;
            if (i < number) coordinates_[(from + i) * dim_ + d] = value;
        }
    }
}

}  // namespace ncfast
