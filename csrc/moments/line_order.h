// The order in which the lines of a row are read.
#pragma once

#include "core/system.h"

namespace ncfast {

constexpr int kMostLines = 32;  // of a row, in one strip

// Where rows come from all over memory, the hardware prefetchers run on past the end of each row
// if its lines are read front to back, and what they fetch there is thrown away. Bit-reversed order
// shows them no stream; the software prefetches do their work. Where the neighbours of a row are
// read soon, front to back is right: what is fetched past its end is needed.
struct ScatteredLines {
    std::uint8_t order[kMostLines + 1][kMostLines] = {};  // [number of lines][step]

    constexpr ScatteredLines() {
        for (int lines = 1; lines <= kMostLines; ++lines) {
            int bits = 0, step = 0;
            while ((1 << bits) < lines) ++bits;
            for (int i = 0; i < 1 << bits; ++i) {
                int reversed = 0;
                for (int b = 0; b < bits; ++b) reversed |= (i >> b & 1) << (bits - 1 - b);
                if (reversed < lines) order[lines][step++] = static_cast<std::uint8_t>(reversed);
            }
        }
    }
};
constexpr ScatteredLines kScatteredLines;

}  // namespace ncfast
