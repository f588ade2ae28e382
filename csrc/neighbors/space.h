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

    // Calls use(panels) for one piece after another; a piece fits in the cache.
    template <class C, class Use>
    void for_each_piece(Use use) const {
        const std::int64_t width = this->width(C{}), panel = points_.dim * width;
        const std::int64_t all = (rows_ + width - 1) / width;
        const std::int64_t step =
            std::max<std::int64_t>(1, kPieceBytes / (panel * static_cast<std::int64_t>(sizeof(C))));
        const C* data = this->data(C{});
        for (std::int64_t p = 0; p < all; p += step)
            use(Panels<C>{data + p * panel, p * width, std::min(step, all - p), points_.dim,
                          points_.ends, points_.num_blocks});
    }

private:
    static constexpr std::int64_t kPieceBytes = 192 << 10;

    std::int64_t width(float) const { return kernels_.scan.width; }
    std::int64_t width(double) const { return kernels_.exact_scan.width; }
    const float* data(float) const { return floats_.get(); }
    const double* data(double) const;  // builds the panels at the first call

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
