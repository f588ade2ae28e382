// Exact nearest neighbours and range counts of a set of rows among themselves.
//
// A score is a squared Euclidean distance, summed over the columns in their order in double with
// no product fused into a sum, or a maximum of absolute differences. Over several blocks of
// columns it is the largest of the blocks' scores.
#pragma once

#include <cstdint>

namespace ncfast {

// Row-major rows, sorted by group; only rows of the same group see each other.
struct PointSet {
    const double* data;
    std::int64_t dim;
    const std::int64_t* ends;     // column after each block of columns; the last is dim
    std::int64_t num_blocks;
    const std::int64_t* offsets;  // num_groups + 1 row numbers
    std::int64_t num_groups;
    bool linf;

    std::int64_t rows() const { return offsets[num_groups]; }
};

// Of each row's k neighbours, nearest first, equal ones by number; unfound: infinity and -1.
struct NearestOut {
    double* distances;       // (rows, k)
    std::int64_t* ids;       // (rows, k) row numbers
    std::int64_t second;     // rows that had to be searched again in double
};

struct JointOut {
    double* radii;           // (rows)
    std::int64_t* counts;    // (num_blocks, rows)
    double* extents;         // (num_blocks, rows)
    std::int64_t* ties;      // (rows)
};

// By panels of points and direct differences: any dimension.
void nearest_direct(const PointSet& points, std::int64_t k, NearestOut& out, int threads);
void joint_direct(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                  int threads);
void count_direct(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                  int threads);

// Of some rows only, all of one group; out holds `number` rows.
void nearest_of_rows(const PointSet& points, const std::int64_t* rows, std::int64_t number,
                     std::int64_t k, NearestOut& out, int threads);
// Scores between each row and the `per_row` rows named for it.
void scores_of(const PointSet& points, const std::int64_t* ids, std::int64_t per_row,
               double* scores, int threads);

// By a tree over the points: low dimension.
void nearest_tree(const PointSet& points, std::int64_t k, NearestOut& out, int threads);
void joint_tree(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                int threads);
void count_tree(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                int threads);

// Rows of points stored across: `width` points side by side for each of `dim` columns, then the
// next `width` points. Lanes past the last point hold infinity.
template <class C>
struct Panels {
    const C* data;
    std::int64_t first;         // number of the first point
    std::int64_t count;         // panels
    std::int64_t dim;
    const std::int64_t* ends;   // column after each block; the last is dim
    std::int64_t num_blocks;
};

// By how much a score in float may be off: |score - exact| <= relative * exact + absolute for the
// stored points, which stand within `blur` / 2 of the true ones (as distances).
struct Margin {
    double relative, absolute, blur;
};

// One query looking for its k smallest scores.
template <class C>
struct Seeker {
    const C* at;           // its own coordinates
    C threshold;           // only a score below it is looked at
    std::int32_t self;     // its own number, or -1
    std::int32_t k;
    std::int32_t found;    // entries of best, at most k
    std::int32_t held;     // float: candidates held
    std::int32_t room;     // float: candidates there is room for
    bool overflow;         // float: more candidates than room; the search is void
    C* best;               // the k smallest scores so far, ascending
    C* scores;             // float: of the candidates
    std::int32_t* ids;     // float: of the candidates; double: of best
    Margin margin;
};

// One query counting, in each block, the points whose score is at most a limit.
template <class C>
struct Counter {
    const C* at;
    const C* inside;        // per block: surely within at or below this score
    const C* maybe;         // per block: surely not within above it; double: the same
    std::int64_t* counts;   // per block
    double together;        // double: limit on the joint score
    std::int64_t ties;      // double: points within it
    std::int32_t held, room;
    bool overflow;          // more points between the limits than room; the counts are void
    std::int32_t* ids;      // float: points between the limits
    std::int32_t* blocks;   // and in which block
};

constexpr std::int64_t kLeafRows = 16;  // of a tree, at most

// A balanced tree over points: leaf i holds the points rows * i / leaves up to the next leaf's. The
// root is node 1, the children of node i are 2 i and 2 i + 1, leaf i is node leaves + i.
struct TreeView {
    const double* boxes;        // per node: dim lowest, then dim highest coordinates
    const std::int32_t* first;  // per node: the lowest number of its points; null: none repeat
    const double* panels;       // per leaf: panels_per_leaf panels, padded with infinity
    const std::int32_t* ids;    // per leaf: the numbers of its points, panels_per_leaf * width
    std::int64_t rows, dim, leaves, panels_per_leaf;
    const std::int64_t* ends;
    std::int64_t num_blocks;

    std::int64_t start(std::int64_t leaf) const { return rows * leaf / leaves; }
};

}  // namespace ncfast
