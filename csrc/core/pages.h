// Large blocks that are written once: a page fault for every 4 KiB costs more than the writing.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ncfast {

// The largest block that glibc's malloc ever keeps after it is freed; one beyond it is mapped anew
// each time, and none of its pages is there before it is written.
constexpr std::size_t kRecycledBytes = std::size_t{32} << 20;

// Asks for huge pages inside the block, never beyond it. A system that has none says no.
inline void prefer_huge_pages(void* block, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t kPage = std::uintptr_t{1} << 21;
    const auto start = reinterpret_cast<std::uintptr_t>(block);
    const std::uintptr_t first = (start + kPage - 1) / kPage * kPage;
    const std::uintptr_t last = (start + bytes) / kPage * kPage;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)block, (void)bytes;
#endif
}

}  // namespace ncfast
