// The part of DLPack 1.3 by which a tensor of Python says where it lies: a table of C functions that
// its type holds. Nothing is copied or counted, and nothing here is linked against torch.
// Layouts as in https://github.com/dmlc/dlpack, include/dlpack/dlpack.h.
#pragma once

#include <cstdint>

namespace ncfast {
namespace dlpack {

constexpr const char* kTableName = "dlpack_exchange_api";
constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;
enum Code : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4 };

struct Version {
    std::uint32_t major, minor;
};
struct Device {
    std::int32_t type, id;
};
struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements
    std::uint64_t byte_offset;
};
struct Table {
    Version version;
    void* previous;
    void *allocate, *managed_from_object, *managed_to_object;
    int (*view)(void* object, Tensor* out);  // may be null; -1 with a Python exception set
    void* current_stream;
};

}  // namespace dlpack
}  // namespace ncfast
