// The choice among the instruction sets, at run time.
#pragma once

#include <vector>

#include "core/kernels.h"

namespace ncfast {

const Kernels& kernels();                     // those in use
std::vector<const Kernels*> usable_kernels();  // best first
bool use_kernels(const char* name);           // false: unknown, or this CPU cannot run it

}  // namespace ncfast
