// A balanced k-d tree over the rows of one group.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "core/isa.h"
#include "neighbors/search.h"

namespace ncfast {

class Tree {
public:
    // Over rows `first` .. `last` and the columns of blocks `from_block` .. `to_block`.
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

    // The points of leaves from..to, in the order of the tree: their numbers and coordinates.
    std::int64_t start(std::int64_t leaf) const { return rows_ * leaf / leaves_; }
    std::int64_t id(std::int64_t place) const { return order_[place].id; }
    const double* at(std::int64_t place) const { return coordinates_.get() + place * dim_; }

private:
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
    std::vector<std::int32_t> lowest_;  // number of a node's points
    std::atomic<bool> repeats_{false};  // some leaf holds one value of a column only
    std::unique_ptr<double[]> coordinates_, panels_;
    std::unique_ptr<std::int32_t[]> ids_;
};

}  // namespace ncfast
