// A panel: rows or columns side by side, as many as two vectors hold, one depth after the other.
#pragma once

#include "core/simd.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kPanelVectors = 2;

template <class C>
constexpr int kPanel = kPanelVectors * kLanes<C>;

}  // namespace NCFAST_ISA
}  // namespace ncfast
