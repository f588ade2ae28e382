// Writes records as lines of JSON without holding Python's lock. The bytes equal those of json_line
// in ncfast.tracking.sinks.strict_json.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

// Older standard libraries cannot write the shortest digits of a double; then Python writes the
// lines.
#if defined(__cpp_lib_to_chars)
#define NCFAST_HAS_JSON_LINES 1

namespace ncfast {

// A table of values, one row a record.
struct Cells {
    const std::int64_t* steps;  // (rows,)
    const double* values;       // (rows, cols)
    std::int64_t rows;
    std::int64_t cols;
};

namespace json {

constexpr std::size_t kNumber = 32;  // characters, more than any number here takes

template <class... Format>
inline void append(std::string& out, Format... format) {
    char text[kNumber];
    const auto written = std::to_chars(text, text + kNumber, format...);
    out.append(text, written.ptr);
}

// Appends a finite x as Python's repr writes it: the shortest digits that read back, always with a
// point or an exponent.
inline void append_float(std::string& out, double x) {
    const double size = std::abs(x);
    if (size != 0 && (size < 1e-4 || size >= 1e16))
        return append(out, x, std::chars_format::scientific);
    const std::size_t begin = out.size();
    append(out, x, std::chars_format::fixed);
    if (out.find('.', begin) == std::string::npos) out += ".0";
}

// Appends key=nan, key=inf or key=-inf to the list; `key` includes its quotation marks.
inline void list(std::string& listed, const std::string& key, double x) {
    if (!listed.empty()) listed += ' ';
    listed.append(key, 1, key.size() - 2);
    listed += std::isnan(x) ? "=nan" : x > 0 ? "=inf" : "=-inf";
}

}  // namespace json

// Returns a line {"step": steps[i], keys[0]: values[i][0], ..., tails[i], "nonfinite": "..."} per
// row.
//
// Keys are JSON strings. A tail is the content of a JSON object without its braces, or empty.
// Values that are not finite are written as null and listed in "nonfinite", followed by notes[i],
// which lists those of the tail. "nonfinite" is absent if the list is empty.
inline std::string json_lines(const Cells& cells, const std::vector<std::string>& keys,
                              const std::vector<std::string>& tails,
                              const std::vector<std::string>& notes) {
    std::string out, listed;
    std::size_t width = json::kNumber;
    for (const std::string& key : keys) width += key.size() + json::kNumber;
    out.reserve(width * static_cast<std::size_t>(cells.rows));
    for (std::int64_t i = 0; i < cells.rows; ++i) {
        listed.clear();
        out += "{\"step\": ";
        json::append(out, cells.steps[i]);
        for (std::int64_t j = 0; j < cells.cols; ++j) {
            const std::string& key = keys[static_cast<std::size_t>(j)];
            const double x = cells.values[i * cells.cols + j];
            out += ", ";
            out += key;
            out += ": ";
            if (std::isfinite(x)) {
                json::append_float(out, x);
            } else {
                out += "null";
                json::list(listed, key, x);
            }
        }
        const std::string& tail = tails[static_cast<std::size_t>(i)];
        if (!tail.empty()) out += ", ";
        out += tail;
        const std::string& note = notes[static_cast<std::size_t>(i)];
        if (!listed.empty() && !note.empty()) listed += ' ';
        listed += note;
        if (!listed.empty()) out += ", \"nonfinite\": \"" + listed + '"';
        out += "}\n";
    }
    return out;
}

}  // namespace ncfast
#endif
