#include "class_row.h"

#include <cmath>

namespace ncfast {

double relative_deviation(const ClassRow& row, const std::vector<double>& values) {
    double mean = 0, squares = 0;
    for (std::int64_t c = 0; c < row.k; ++c) mean += row.present(c) ? values[c] : 0.0;
    mean /= row.number;
    for (std::int64_t c = 0; c < row.k; ++c)
        squares += row.present(c) ? (values[c] - mean) * (values[c] - mean) : 0.0;
    return std::sqrt(squares / row.number) / mean;
}

double etf_distance(const ClassRow& row, const std::vector<double>& product) {
    double squares = 0, sum = 0;
    for (const double value : product) squares += value * value;
    const double scale = 1 / std::sqrt(squares), root = 1 / std::sqrt(row.number - 1);
    for (std::int64_t i = 0; i < row.k; ++i)
        for (std::int64_t j = 0; j < row.k; ++j) {
            const double both = row.present(i) && row.present(j) ? 1.0 : 0.0;
            const double etf = ((i == j ? both : 0.0) - both / row.number) * root;
            const double gap = product[i * row.k + j] * scale - etf;
            sum += gap * gap;
        }
    return std::sqrt(sum);
}

}  // namespace ncfast
