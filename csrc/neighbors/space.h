// The rows of one group as panels for the kernels, and the searches among them.
//
// Panels are in float. Panels in double are built when a search first needs them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/isa.h"
#include "neighbors/exact.h"
#include "neighbors/search.h"

namespace ncfast {

class Space {
public:
    // Over the rows first .. last of the points.
    Space(const PointSet& points, std::int64_t first, std::int64_t last, int threads);

    std::int64_t rows() const { return rows_; }
    std::int64_t first() const { return first_; }
    const PointSet& points() const { return points_; }
    const double* row(std::int64_t id) const { return points_.data + (first_ + id) * points_.dim; }
    const Kernels& kernels() const { return kernels_; }

    double scale() const { return scale_; }  // factor of the coordinates in float
    Margin margin(std::int64_t id) const;    // error bound of scores between row id and any other
    void copy_row(std::int64_t id, float* to) const;

    std::int64_t width() const { return kernels_.scan.width; }  // points in a panel of floats
    std::int64_t panels() const { return (rows_ + width() - 1) / width(); }
    // The panels first .. last of floats.
    Panels<float> panels(std::int64_t first, std::int64_t last) const {
        return some_panels<float>(first, last);
    }

    // Calls use(panels) for one piece after another; a piece fits in the cache.
    template <class C, class Use>
    void for_each_piece(Use use) const {
        const std::int64_t width = this->width(C{});
        for_each_piece<C>(0, (rows_ + width - 1) / width, use);
    }
    // The same for the panels first .. last.
    template <class C, class Use>
    void for_each_piece(std::int64_t first, std::int64_t last, Use use) const {
        const std::int64_t bytes =
            points_.dim * width(C{}) * static_cast<std::int64_t>(sizeof(C));
        const std::int64_t step = std::max<std::int64_t>(1, kPieceBytes / bytes);
        for (; first < last; first += step) use(some_panels<C>(first, std::min(last, first + step)));
    }

private:
    static constexpr std::int64_t kPieceBytes = 192 << 10;

    std::int64_t width(float) const { return kernels_.scan.width; }
    std::int64_t width(double) const { return kernels_.exact_scan.width; }
    const float* data(float) const { return floats_.get(); }
    const double* data(double) const;  // builds the panels at the first call

    template <class C>
    Panels<C> some_panels(std::int64_t first, std::int64_t last) const {
        const std::int64_t width = this->width(C{});
        return {data(C{}) + first * points_.dim * width, first * width, last - first, points_.dim,
                points_.ends, points_.num_blocks};
    }

    void measure(int threads);
    void fill(int threads);

    const PointSet& points_;
    const std::int64_t first_, rows_;
    const Kernels& kernels_;
    double scale_ = 1, largest_norm_ = 0;
    std::vector<double> centre_;  // empty if all coordinates are floats
    std::vector<double> norms_;   // of the rows in float; empty if the rows are exact
    std::unique_ptr<float[]> floats_;
    mutable std::once_flag doubles_once_;
    mutable std::unique_ptr<double[]> doubles_;
};

// The exact neighbors of one row.
struct Nearest {
    std::vector<Neighbor> best;  // ascending, at most k
    std::int64_t ties = 0;       // number of points no farther than the last of them
    bool repeated = false;       // the search was repeated in double
};

// The k nearest neighbors of some rows of the space.
std::vector<Nearest> nearest_of(const Space& space, const std::vector<std::int64_t>& ids,
                                std::int64_t k);

// Whether nearest_of_all is faster than nearest_of for all rows, and their candidates fit into memory.
bool should_seek_peers(const Space& space, std::int64_t k);
// The k nearest neighbors of all rows of the space; each pair of rows is scored once.
std::vector<Nearest> nearest_of_all(const Space& space, std::int64_t k, int threads);

// A count around one row: in each block, other points with a score up to limits[block].
struct CountQuery {
    std::int64_t id;
    const double* limits;
    double joint;          // limit of the joint score, for ties; used only in double
    std::int64_t* counts;  // per block
    std::int64_t* ties;    // null if not wanted
    bool in_double;        // count in double at once
};

// Counts for all queries, in float where its error bound allows, else in double.
void count_of(const Space& space, const std::vector<CountQuery>& queries);

}  // namespace ncfast
