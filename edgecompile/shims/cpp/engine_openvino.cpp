// OpenVINO on the CPU; a decoder's keys and values are the state of its infer request.
#include <algorithm>
#include <cstring>
#include <map>

#include <openvino/openvino.hpp>

#include "edgecompile.h"

namespace edgecompile {
namespace {

constexpr char kDevice[] = "CPU";
constexpr size_t kPromptChunk = 512;  // tokens a call

const std::map<std::string, ov::element::Type>& types() {
  static const std::map<std::string, ov::element::Type> known = {
      {"float32", ov::element::f32}, {"float16", ov::element::f16}, {"float64", ov::element::f64},
      {"int64", ov::element::i64},   {"int32", ov::element::i32},   {"int8", ov::element::i8},
      {"uint8", ov::element::u8},    {"bool", ov::element::boolean}};
  return known;
}

std::string dtype_of(const ov::element::Type& type) {
  for (const auto& [name, known] : types())
    if (known == type) return name;
  throw Error("UnsupportedError", "graph", "element type " + type.to_string(), "a plain one");
}

// OpenVINO's exceptions as ours.
template <typename Call>
auto translated(const char* kind, const std::string& where, const Call& call) {
  try {
    return call();
  } catch (const ov::Exception& error) {
    throw Error(kind, where, error.what());
  }
}

ov::Tensor copied(const Tensor& array) {
  const auto type = types().find(array.dtype);
  if (type == types().end())
    throw Error("UnsupportedError", "array", "dtype " + array.dtype, "one that the graph can take");
  ov::Tensor made(type->second, ov::Shape(array.shape.begin(), array.shape.end()));
  std::memcpy(made.data(), array.bytes.data(), array.bytes.size());
  return made;
}

// Whole numbers [1, n] (or [n]) of the input's own type.
ov::Tensor ids_tensor(const ov::element::Type& type, const Ids& ids, bool row = true) {
  ov::Tensor made(type, row ? ov::Shape{1, ids.size()} : ov::Shape{ids.size()});
  if (type == ov::element::i64)
    std::copy(ids.begin(), ids.end(), made.data<int64_t>());
  else if (type == ov::element::i32)
    std::copy(ids.begin(), ids.end(), made.data<int32_t>());
  else
    throw Error("UnsupportedError", "graph", "ids of " + type.to_string(), "int32 or int64");
  return made;
}

Floats floats(const ov::Tensor& tensor) {
  if (tensor.get_element_type() != ov::element::f32)
    throw Error("UnsupportedError", "graph", "an output of " + tensor.get_element_type().to_string(),
                "float32");
  const float* data = tensor.data<float>();
  return Floats(data, data + tensor.get_size());
}

// As runtime/openvino_engine.py: every setting that changes answers is set.
ov::AnyMap settings(ov::Core& core, const json::Value& named, int threads) {
  static const std::map<std::string, std::pair<std::string, std::string>> precisions = {
      {"float32", {"f32", "FP32"}}, {"float16", {"f16", "FP16"}}, {"bfloat16", {"bf16", "BF16"}}};
  const std::string precision = named.text_or("precision", "float32");
  const auto found = precisions.find(precision);
  if (found == precisions.end())
    throw Error("BadInputError", "engine.options.precision", precision, "float32, float16, bfloat16");
  const auto can = core.get_property(kDevice, ov::device::capabilities);
  if (precision != "float32" &&
      std::find(can.begin(), can.end(), found->second.second) == can.end())
    throw Error("UnsupportedError", precision + " on this processor", "it cannot",
                found->second.second, "build with target.options.precision=float32");
  return {{"INFERENCE_NUM_THREADS", threads},
          {"NUM_STREAMS", 1},
          {"PERFORMANCE_HINT", "LATENCY"},
          {"CACHE_DIR", ""},
          {"INFERENCE_PRECISION_HINT", found->second.first},
          {"DYNAMIC_QUANTIZATION_GROUP_SIZE",
           std::to_string(named.integer_or("dynamic_group", 0))},
          {"KV_CACHE_PRECISION", named.text_or("kv_cache", "f32")},
          {"ENABLE_CPU_PINNING", false}};
}

class OpenvinoEngine : public Engine {
 public:
  OpenvinoEngine(const std::string& file, const json::Value& manifest, const Options& options) {
    const auto known = settings(core_, manifest["engine"]["options"], options.threads);
    compiled_ = core_.compile_model(file, kDevice, known);
    request_ = compiled_.create_infer_request();
  }

  std::string version() const override { return ov::get_openvino_version().buildNumber; }

  Floats encode(const Ids& ids) override {
    for (const auto& port : compiled_.inputs()) {
      const std::string name = port.get_any_name();
      if (name != "input_ids" && name != "attention_mask" && name != "token_type_ids")
        throw Error("BadInputError", "engine file", "input " + name,
                    "input_ids, attention_mask, token_type_ids");
      const Ids values = name == "input_ids" ? ids : Ids(ids.size(), name == "attention_mask");
      request_.set_tensor(port, ids_tensor(port.get_element_type(), values));
    }
    infer("UsageError", "encode");
    return floats(request_.get_output_tensor(0));
  }

  void begin(size_t) override {
    request_.reset_state();
    length_ = 0;
  }

  void feed(const Ids& ids, bool last_only, const LogitSink& sink) override {
    if (ids.empty()) throw Error("UsageError", "decoder", "no tokens", "at least one");
    const size_t chunk = last_only ? kPromptChunk : kLogitRows;
    for (size_t start = 0; start < ids.size(); start += chunk) {
      const size_t end = std::min(ids.size(), start + chunk);
      const size_t rows = last_only ? 1 : end - start;
      const Floats logits = run(Ids(ids.begin() + start, ids.begin() + end), rows);
      if (!last_only || end == ids.size()) sink(logits.data(), rows, logits.size() / rows);
    }
  }

  std::vector<Tensor> run(const std::vector<Tensor>& inputs) override {
    for (const auto& port : compiled_.inputs()) {
      const auto found = std::find_if(inputs.begin(), inputs.end(), [&](const Tensor& one) {
        return one.name == port.get_any_name();
      });
      if (found == inputs.end() || found->dtype != dtype_of(port.get_element_type()))
        throw Error("UsageError", "run", "no input " + port.get_any_name(),
                    dtype_of(port.get_element_type()));
      request_.set_tensor(port, copied(*found));
    }
    infer("UsageError", "run");
    std::vector<Tensor> outputs;
    for (const auto& port : compiled_.outputs()) {
      const ov::Tensor tensor = request_.get_tensor(port);
      const ov::Shape shape = tensor.get_shape();
      Tensor output{port.get_any_name(), dtype_of(tensor.get_element_type()),
                    {shape.begin(), shape.end()}, std::vector<uint8_t>(tensor.get_byte_size())};
      std::memcpy(output.bytes.data(), tensor.data(), output.bytes.size());
      outputs.push_back(std::move(output));
    }
    return outputs;
  }

 private:
  void infer(const char* kind, const std::string& where) {
    translated(kind, where, [&] { request_.infer(); });
  }

  // Logits float32 [rows, vocabulary] of the last `rows` tokens.
  Floats run(const Ids& ids, size_t rows) {
    const size_t total = length_ + ids.size();
    Ids positions;
    for (size_t at = length_; at < total; ++at) positions.push_back(static_cast<int64_t>(at));
    request_.set_tensor("input_ids", ids_tensor(ov::element::i64, ids));
    request_.set_tensor("attention_mask", ids_tensor(ov::element::i64, Ids(total, 1)));
    request_.set_tensor("position_ids", ids_tensor(ov::element::i64, positions));
    request_.set_tensor("beam_idx", ids_tensor(ov::element::i32, {0}, false));
    request_.set_tensor("last_tokens",
                        ids_tensor(ov::element::i64, {static_cast<int64_t>(rows)}, false));
    infer("EdgecompileError", "openvino");
    length_ = total;
    return floats(request_.get_tensor("logits"));
  }

  ov::Core core_;
  ov::CompiledModel compiled_;
  ov::InferRequest request_;
  size_t length_ = 0;
};

}  // namespace

const char* engine_name() { return "openvino"; }

std::unique_ptr<Engine> open_engine(const std::string& bundle, const json::Value& manifest,
                                    const Options& options) {
  const std::string file = path_in(bundle, manifest["engine"]["file"].text("engine.file"));
  return translated("BadInputError", file, [&]() -> std::unique_ptr<Engine> {
    return std::make_unique<OpenvinoEngine>(file, manifest, options);
  });
}

}  // namespace edgecompile
