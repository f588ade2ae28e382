#include <cstddef>
#include <limits>
#include <vector>

#include "core/isa.h"
#include "moments/moments.h"
#include "core/pool.h"
#include "moments/units.h"

namespace ncfast {
namespace {

void add_rows(const Matrix& block, const Plan& plan, const double* means, const double* vectors,
              std::int64_t num_vectors, double* sums, int threads) {
    const auto num_classes = static_cast<std::int64_t>(plan.offsets.size()) - 1;
    const Units units(block, plan.size(), num_classes);
    const Project project = kernels().project[static_cast<int>(block.dtype)];
    std::vector<double> partial(static_cast<std::size_t>(units.number() * num_vectors));
    parallel_for(units.number(), units.threads(threads), [&](std::int64_t unit) {
        std::vector<double> buffer(static_cast<std::size_t>(kProjectionRows * block.cols));
        double* own = partial.data() + unit * num_vectors;
        const std::int32_t* rows = plan.rows.get();
        const std::int64_t last = units.end(unit);
        for_each_segment(plan, units.begin(unit), last,
                         [&](std::int64_t c, std::int64_t a, std::int64_t b) {
                             project({block, rows + a, b - a, rows + last}, means + c * block.cols,
                                     vectors, num_vectors, buffer.data(), own);
                         });
    });
    for (std::int64_t unit = 0; unit < units.number(); ++unit)
        for (std::int64_t v = 0; v < num_vectors; ++v) sums[v] += partial[unit * num_vectors + v];
}

}  // namespace

void projected_ss(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                  const double* means, const double* vectors, std::int64_t num_vectors,
                  double* sums, int threads) {
    const auto row_bytes = feats.stride * static_cast<std::int64_t>(size_of(feats.dtype));
    const std::int64_t step = std::min(feats.rows, rows_per_plan(feats, num_classes));
    std::fill(sums, sums + num_vectors, 0.0);
    Plan plan;
    bool valid = true;
    for (std::int64_t first = 0; first < feats.rows; first += step) {
        const std::int64_t count = std::min(step, feats.rows - first);
        sort_rows(labels, first, count, num_classes, threads, plan);
        valid = valid && plan.valid;
        Matrix block = feats;
        block.data = static_cast<const char*>(feats.data) + first * row_bytes;
        add_rows(block, plan, means, vectors, num_vectors, sums, threads);
    }
    if (!valid) std::fill(sums, sums + num_vectors, std::numeric_limits<double>::quiet_NaN());
}

}  // namespace ncfast
