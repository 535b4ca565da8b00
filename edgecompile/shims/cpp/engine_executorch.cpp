// ExecuTorch through its Module: one method, forward, whose inputs are in the manifest's order.
#include <algorithm>
#include <cstring>
#include <map>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr.h>

#include "edgecompile.h"

#ifndef EXECUTORCH_VERSION
#define EXECUTORCH_VERSION "unknown"  // the library does not say
#endif

namespace executorch::extension::threadpool {
// The libraries export it, the headers leave it out.
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace edgecompile {
namespace {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::EValue;

constexpr char kMethod[] = "forward";

const std::map<std::string, ScalarType>& types() {
  static const std::map<std::string, ScalarType> known = {
      {"float32", ScalarType::Float}, {"float16", ScalarType::Half}, {"float64", ScalarType::Double},
      {"int64", ScalarType::Long},    {"int32", ScalarType::Int},    {"int8", ScalarType::Char},
      {"uint8", ScalarType::Byte},    {"bool", ScalarType::Bool}};
  return known;
}

ScalarType type_of(const std::string& dtype) {
  const auto found = types().find(dtype);
  if (found == types().end())
    throw Error("UnsupportedError", "array", "dtype " + dtype, "one that the file can take");
  return found->second;
}

std::string dtype_of(ScalarType type) {
  for (const auto& [name, known] : types())
    if (known == type) return name;
  throw Error("UnsupportedError", "file", "scalar type " + std::to_string(int(type)), "a plain one");
}

// Reads `input`'s bytes, which the caller keeps.
TensorPtr view_of(Tensor& input) {
  const std::vector<int32_t> sizes(input.shape.begin(), input.shape.end());
  return executorch::extension::make_tensor_ptr(sizes, input.bytes.data(), type_of(input.dtype));
}

Tensor ids_tensor(const std::string& name, std::vector<int64_t> shape, const Ids& ids) {
  Tensor made{name, "int64", std::move(shape), std::vector<uint8_t>(ids.size() * sizeof(int64_t))};
  std::memcpy(made.bytes.data(), ids.data(), made.bytes.size());
  return made;
}

class ExecutorchEngine : public Engine {
 public:
  ExecutorchEngine(const std::string& file, const json::Value& manifest, const Options& options)
      : manifest_(manifest), module_(file, Module::LoadMode::Mmap) {
    const json::Value& named = manifest["engine"]["options"];
    if (named.text_or("partitioner", "xnnpack") != "xnnpack")
      throw Error("UnsupportedError", file, "a file for another device", "one for XNNPACK");
    if (auto* pool = executorch::extension::threadpool::get_threadpool())
      pool->_unsafe_reset_threadpool(static_cast<uint32_t>(options.threads));
    const auto code = module_.load_method(kMethod);
    if (code != executorch::runtime::Error::Ok)
      throw Error("BadInputError", file, "error " + std::to_string(int(code)) + " at loading",
                  "a program that this ExecuTorch can load");
    vocabulary_ = named.integer_or("vocabulary", 0);
    context_ = static_cast<size_t>(named.integer_or("context_length", 0));
    prompt_ = static_cast<size_t>(named.integer_or("prompt_tokens", 1));
    rows_ = std::min(kLogitRows, static_cast<size_t>(named.integer_or("logit_rows", 1)));
    if (context_)
      vocabulary_ = manifest["outputs"].list("outputs").at(0)["shape"].list("shape").back().integer(
          "outputs: shape");
  }

  std::string version() const override { return EXECUTORCH_VERSION; }

  Floats encode(const Ids& ids) override {
    check_ids(ids);
    std::vector<Tensor> inputs = {ids_tensor("input_ids", {1, int64_t(ids.size())}, ids)};
    return floats(call(inputs).at(0));
  }

  void begin(size_t) override { length_ = 0; }  // positions are written before they are read

  void feed(const Ids& ids, bool last_only, const LogitSink& sink) override {
    check_ids(ids);
    if (ids.empty() || length_ + ids.size() > context_)
      throw Error("UsageError", "tokens", std::to_string(length_ + ids.size()),
                  "1 to " + std::to_string(context_) + ", the context in the file");
    const size_t chunk = last_only ? prompt_ : rows_;
    for (size_t start = 0; start < ids.size(); start += chunk) {
      const size_t end = std::min(ids.size(), start + chunk);
      const size_t rows = last_only ? 1 : end - start;
      const Floats logits = run(Ids(ids.begin() + start, ids.begin() + end), rows);
      if (!last_only || end == ids.size())
        sink(logits.data(), rows, static_cast<size_t>(vocabulary_));
    }
  }

  std::vector<Tensor> run(const std::vector<Tensor>& given) override {
    std::vector<Tensor> inputs;
    for (const json::Value& port : manifest_["inputs"].list("inputs")) {
      const std::string& name = port["name"].text("inputs: name");
      const auto found = std::find_if(given.begin(), given.end(),
                                      [&](const Tensor& one) { return one.name == name; });
      if (found == given.end() || found->dtype != port["dtype"].text("inputs: dtype"))
        throw Error("UsageError", "run", "no input " + name, port["dtype"].text("inputs: dtype"));
      inputs.push_back(*found);
    }
    std::vector<Tensor> outputs;
    const auto& ports = manifest_["outputs"].list("outputs");
    for (const EValue& value : call(inputs)) {
      const auto& tensor = value.toTensor();
      if (outputs.size() == ports.size()) break;
      Tensor output{ports[outputs.size()]["name"].text("outputs: name"),
                    dtype_of(tensor.scalar_type()),
                    {tensor.sizes().begin(), tensor.sizes().end()}, {}};
      const auto* data = static_cast<const uint8_t*>(tensor.const_data_ptr());
      output.bytes.assign(data, data + tensor.nbytes());
      outputs.push_back(std::move(output));
    }
    return outputs;
  }

 private:
  // Its kernels end the process over an index out of range.
  void check_ids(const Ids& ids) const {
    for (const int64_t id : ids)
      if (id < 0 || id >= vocabulary_)
        throw Error("UsageError", "token ids", std::to_string(id),
                    "0 to " + std::to_string(vocabulary_ - 1));
  }

  // forward(input_ids [1, n], start [1], first [1]) -> logits [1, rows, vocabulary] of the last.
  Floats run(const Ids& ids, size_t rows) {
    std::vector<Tensor> inputs = {
        ids_tensor("input_ids", {1, int64_t(ids.size())}, ids),
        ids_tensor("start", {1}, {int64_t(length_)}),
        ids_tensor("first", {1}, {int64_t(ids.size() - rows)})};
    Floats logits = floats(call(inputs).at(0));
    if (logits.size() != rows * static_cast<size_t>(vocabulary_))
      throw Error("BadInputError", "engine file", std::to_string(logits.size()) + " logits",
                  std::to_string(rows) + " rows of " + std::to_string(vocabulary_));
    length_ += ids.size();
    return logits;
  }

  std::vector<EValue> call(std::vector<Tensor>& inputs) {
    std::vector<TensorPtr> views;  // a value does not keep its tensor alive
    for (Tensor& input : inputs) views.push_back(view_of(input));
    const std::vector<EValue> values(views.begin(), views.end());
    auto result = module_.execute(kMethod, values);
    if (!result.ok())
      throw Error("EdgecompileError", "executorch",
                  "error " + std::to_string(int(result.error())), "a result");
    return std::move(*result);
  }

  static Floats floats(const EValue& value) {
    const auto& tensor = value.toTensor();
    if (tensor.scalar_type() != ScalarType::Float)
      throw Error("UnsupportedError", "file", "an output of " + dtype_of(tensor.scalar_type()),
                  "float32");
    const float* data = tensor.const_data_ptr<float>();
    return Floats(data, data + tensor.numel());
  }

  const json::Value manifest_;
  Module module_;
  int64_t vocabulary_ = 0;
  size_t context_ = 0, prompt_ = 1, rows_ = 1, length_ = 0;
};

}  // namespace

const char* engine_name() { return "executorch"; }

std::unique_ptr<Engine> open_engine(const std::string& bundle, const json::Value& manifest,
                                    const Options& options) {
  const std::string file = path_in(bundle, manifest["engine"]["file"].text("engine.file"));
  return std::make_unique<ExecutorchEngine>(file, manifest, options);
}

}  // namespace edgecompile
