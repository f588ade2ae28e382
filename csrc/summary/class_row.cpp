#include "summary/class_row.h"

namespace ncfast {

Spread spread(const ClassRow& row, const std::vector<double>& values) {
    double mean = 0, squares = 0;
    for (std::int64_t c = 0; c < row.k; ++c) mean += row.present(c) ? values[c] : 0.0;
    mean /= row.number;
    for (std::int64_t c = 0; c < row.k; ++c)
        squares += row.present(c) ? square(values[c] - mean) : 0.0;
    return {mean, squares / row.number};
}

Gram gram(const ClassRow& row, const std::vector<double>& product) {
    double trace = 0, squares = 0, sum = 0;
    for (std::int64_t c = 0; c < row.k; ++c) trace += product[c * row.k + c];
    for (const double value : product) squares += square(value);
    const double norm = std::sqrt(squares), scale = 1 / norm, share = 1 / row.number;
    const double root = 1 / std::sqrt(row.number - 1);
    const double off = -share * root, diagonal = (1 - share) * root;  // of the simplex ETF
    for (std::int64_t i = 0; i < row.k; ++i) {
        const double* products = product.data() + i * row.k;
        for (std::int64_t j = 0; j < row.k; ++j) {
            const bool both = row.present(i) && row.present(j);
            sum += square(products[j] * scale - (both ? i == j ? diagonal : off : 0.0));
        }
    }
    return {trace, norm, std::sqrt(sum)};
}

}  // namespace ncfast
