// ONNX Runtime's tensors over memory of ours, and its exceptions as ours.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include "edgecompile.h"

namespace edgecompile::ort {

using Type = ONNXTensorElementDataType;

inline const std::map<std::string, Type>& types() {
  static const std::map<std::string, Type> known = {
      {"float32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {"float16", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
      {"float64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
      {"int64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
      {"int32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
      {"int8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
      {"uint8", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
      {"bool", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL}};
  return known;
}

inline Type type_of(const std::string& dtype) {
  const auto found = types().find(dtype);
  if (found == types().end())
    throw Error("UnsupportedError", "array", "dtype " + dtype, "one that the graph can take");
  return found->second;
}

inline std::string dtype_of(Type type) {
  for (const auto& [name, known] : types())
    if (known == type) return name;
  throw Error("UnsupportedError", "graph", "element type " + std::to_string(type), "a plain one");
}

// ONNX Runtime's exceptions as ours.
template <typename Call>
auto translated(const char* kind, const std::string& where, const Call& call) {
  try {
    return call();
  } catch (const Ort::Exception& error) {
    throw Error(kind, where, error.what());
  }
}

struct Buffer {
  Type type;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;

  static Buffer of(const std::string& dtype, std::vector<int64_t> shape) {
    const size_t size = element_count(shape) * item_bytes(dtype);
    return {type_of(dtype), std::move(shape), std::vector<uint8_t>(size)};
  }

  // A whole-number tensor [1, n] of the graph's own width.
  static Buffer of_ids(Type type, const Ids& values) {
    Buffer made = of(dtype_of(type), {1, static_cast<int64_t>(values.size())});
    for (size_t i = 0; i < values.size(); ++i) {
      const int32_t narrow = static_cast<int32_t>(values[i]);
      if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
        std::memcpy(&made.bytes[i * 8], &values[i], 8);
      else if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)
        std::memcpy(&made.bytes[i * 4], &narrow, 4);
      else
        throw Error("UnsupportedError", "graph", "ids of " + dtype_of(type), "int32 or int64");
    }
    return made;
  }

  // A tensor of that shape; the memory stays this buffer's.
  Ort::Value value(const std::vector<int64_t>& seen) {
    static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor(memory, bytes.data(), bytes.size(), seen.data(), seen.size(),
                                    type);
  }
  Ort::Value value() { return value(shape); }
};

inline Floats to_floats(Type type, const void* data, size_t count) {
  Floats values(count);
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    std::memcpy(values.data(), data, count * sizeof(float));
  } else if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
    const auto* halves = static_cast<const uint16_t*>(data);
    std::transform(halves, halves + count, values.begin(), half_to_float);
  } else {
    throw Error("UnsupportedError", "graph", "an output of " + dtype_of(type), "a float");
  }
  return values;
}

}  // namespace edgecompile::ort
