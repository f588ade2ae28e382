#include "json_lines.h"

#if defined(NCFAST_HAS_JSON_LINES)

#include <cmath>

namespace ncfast {
namespace {

constexpr std::size_t kNumber = 32;  // characters: more than any number here takes

template <class... Format>
void append(std::string& out, Format... format) {
    char text[kNumber];
    const auto written = std::to_chars(text, text + kNumber, format...);
    out.append(text, written.ptr);
}

// As Python's repr: the shortest digits that read back as x, a point or an exponent in any case.
void append_float(std::string& out, double x) {
    if (!std::isfinite(x)) {
        out += std::isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity";
        return;
    }
    const double size = std::abs(x);
    if (size != 0 && (size < 1e-4 || size >= 1e16)) return append(out, x, std::chars_format::scientific);
    const std::size_t begin = out.size();
    append(out, x, std::chars_format::fixed);
    if (out.find('.', begin) == std::string::npos) out += ".0";
}

}  // namespace

std::string json_lines(const Cells& cells, const std::vector<std::string>& keys,
                       const std::vector<std::string>& tails) {
    std::string out;
    std::size_t width = kNumber;
    for (const std::string& key : keys) width += key.size() + kNumber;
    out.reserve(width * static_cast<std::size_t>(cells.rows));
    for (std::int64_t i = 0; i < cells.rows; ++i) {
        out += "{\"step\": ";
        append(out, cells.steps[i]);
        for (std::int64_t j = 0; j < cells.cols; ++j) {
            out += ", ";
            out += keys[static_cast<std::size_t>(j)];
            out += ": ";
            append_float(out, cells.values[i * cells.cols + j]);
        }
        const std::string& tail = tails[static_cast<std::size_t>(i)];
        if (!tail.empty()) out += ", ";
        out += tail;
        out += "}\n";
    }
    return out;
}

}  // namespace ncfast
#endif
