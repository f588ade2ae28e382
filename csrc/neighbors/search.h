// Exact nearest neighbors and range counts among rows, and the operands of the kernels.
//
// The score of two rows is their squared Euclidean distance, summed in double over the columns in
// order without fused products, or their maximum of absolute differences. The joint score of
// several blocks of columns is the largest score of a block.
#pragma once

#include <cstdint>

namespace ncfast {

// Row-major rows sorted by group. A row is compared only with rows of its group.
struct PointSet {
    const double* data;
    std::int64_t dim;
    const std::int64_t* ends;     // end column of each block of columns; the last is dim
    std::int64_t num_blocks;
    const std::int64_t* offsets;  // (num_groups + 1) first row of each group, then rows()
    std::int64_t num_groups;
    bool linf;                    // maximum norm, else Euclidean

    std::int64_t rows() const { return offsets[num_groups]; }
};

// The k nearest neighbors of each row, nearest first, ties in the order of their numbers. A row
// with fewer neighbors has infinity and -1 in the remaining places.
struct NearestOut {
    double* distances;       // (rows, k)
    std::int64_t* ids;       // (rows, k) row numbers
    std::int64_t repeated;   // number of rows whose search was repeated in double
};

// The quantities of the KSG estimators, for k neighbors by the joint score.
struct JointOut {
    double* radii;           // (rows) joint distance of the k-th neighbor
    std::int64_t* counts;    // (num_blocks, rows) other rows within the radius or extent in a block
    double* extents;         // (num_blocks, rows) largest distance in a block to one of the k neighbors
    std::int64_t* ties;      // (rows) other rows no farther than the radius
};

// The direct engine: direct differences from panels of points, for any dimension. `rectangle`
// counts within the extents, else below the radius.
void nearest_direct(const PointSet& points, std::int64_t k, NearestOut& out, int threads);
void joint_direct(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                  int threads);
void count_direct(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                  int threads);

// Neighbors of `number` of the rows, which form one group; out has `number` rows.
void nearest_of_rows(const PointSet& points, const std::int64_t* rows, std::int64_t number,
                     std::int64_t k, NearestOut& out, int threads);
// Scores between each row and its `per_row` rows in ids (rows, per_row).
void scores_of(const PointSet& points, const std::int64_t* ids, std::int64_t per_row,
               double* scores, int threads);

// The tree engine, for low dimension.
void nearest_tree(const PointSet& points, std::int64_t k, NearestOut& out, int threads);
void joint_tree(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                int threads);
void count_tree(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                int threads);

// Points as panels: for each of `dim` columns the coordinates of `width` points side by side, then
// the next `width` points. Lanes past the last point hold infinity.
template <class C>
struct Panels {
    const C* data;
    std::int64_t first;         // number of the first point
    std::int64_t count;         // of panels
    std::int64_t dim;
    const std::int64_t* ends;   // end column of each block; the last is dim
    std::int64_t num_blocks;
};

// The error bound of a score in float: |score - exact| <= relative * exact + absolute for the
// stored points. Each stored point is within a distance of `blur` / 2 of the true point.
struct Margin {
    double relative, absolute, blur;
};

// One query and the k smallest scores that it has found.
template <class C>
struct Seeker {
    const C* at;           // coordinates of the query
    C threshold;           // scores at or above it are skipped
    std::int32_t self;     // number of the query, which is skipped; or -1
    std::int32_t k;
    std::int32_t found;    // entries of best, at most k
    std::int32_t held;     // float: number of candidates
    std::int32_t room;     // float: largest number of candidates
    bool overflow;         // float: there were more candidates than room; the search is void
    C* best;               // the k smallest scores so far, ascending
    C* scores;             // float: scores of the candidates
    std::int32_t* ids;     // float: numbers of the candidates; double: numbers of best
    Margin margin;
};

// All points of a space, as queries of one another. Both arrays are padded to whole panels; the
// threshold of the padding is -1.
struct Peers {
    Seeker<float>* seekers;
    float* thresholds;  // those of the seekers, side by side
};

// One query and its counts, in each block, of the points whose score is at most a limit.
template <class C>
struct Counter {
    const C* at;
    const C* inside;        // per block: a score up to this is surely within the limit
    const C* maybe;         // per block: a score above this is surely not; double: equals `inside`
    std::int64_t* counts;   // per block
    double together;        // double: limit on the joint score
    std::int64_t ties;      // double: points within this limit
    std::int32_t held, room;
    bool overflow;          // more points between `inside` and `maybe` than room; counts are void
    std::int32_t* ids;      // float: numbers of the points between `inside` and `maybe`
    std::int32_t* blocks;   // float: the block of each of them
};

constexpr std::int64_t kLeafRows = 16;  // most points in a leaf

// A balanced tree over points. Leaf i holds the points from rows * i / leaves up to the first of
// leaf i + 1. The root is node 1, the children of node i are 2 i and 2 i + 1, leaf i is node leaves
// + i.
struct TreeView {
    const double* boxes;        // per node: the dim lowest, then the dim highest coordinates
    const std::int32_t* first;  // per node: lowest number of its points; null if no points repeat
    const double* panels;       // per leaf: panels_per_leaf panels, padded with infinity
    const std::int32_t* ids;    // per leaf: numbers of its points, panels_per_leaf * width
    std::int64_t rows, dim, leaves, panels_per_leaf;
    const std::int64_t* ends;
    std::int64_t num_blocks;

    std::int64_t start(std::int64_t leaf) const { return rows * leaf / leaves; }
};

}  // namespace ncfast
