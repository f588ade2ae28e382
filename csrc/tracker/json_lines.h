// Records as lines of JSON, the same bytes as json_line of ncfast.tracking.sinks.strict_json gives,
// without Python's lock.
#pragma once

#include <charconv>
#include <cstdint>
#include <string>
#include <vector>

// Shortest digits of a double came late to the standard libraries; without them Python writes.
#if defined(__cpp_lib_to_chars)
#define NCFAST_HAS_JSON_LINES 1

namespace ncfast {

struct Cells {
    const std::int64_t* steps;  // (rows,)
    const double* values;       // (rows, cols)
    std::int64_t rows;
    std::int64_t cols;
};

// {"step": steps[i], keys[0]: values[i][0], ..., tails[i], "nonfinite": "..."} and a line break for
// each row. Keys are JSON strings; tails what stands between the braces of a JSON object, or empty.
// Values that are not finite are null, and listed with notes[i], the inside of a JSON string that
// lists those of the tail, in the last field, which is absent where the list is empty.
std::string json_lines(const Cells& cells, const std::vector<std::string>& keys,
                       const std::vector<std::string>& tails,
                       const std::vector<std::string>& notes);

}  // namespace ncfast
#endif
