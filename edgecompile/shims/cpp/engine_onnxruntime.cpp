// ONNX Runtime, opened by name at run time: linking would tie the app to one version of it.
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "onnxruntime_tensor.h"

namespace edgecompile {
namespace {

using ort::Buffer;
using ort::dtype_of;
using ort::to_floats;
using ort::translated;
using ort::Type;
using ort::type_of;

constexpr size_t kFirstCapacity = 512;  // tokens
constexpr size_t kPromptChunk = 512;    // tokens a call when the graph computes only last logits

// The library's own entry point; `version` becomes what it says of itself.
const OrtApi* open_library(const std::string& named, std::string& version) {
  static const char* const usual[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
  void* library = nullptr;
  if (!named.empty()) library = dlopen(named.c_str(), RTLD_NOW);
  for (size_t i = 0; named.empty() && !library && i < 2; ++i) library = dlopen(usual[i], RTLD_NOW);
  if (!library) {
    const char* why = dlerror();
    throw Error("MissingLibraryError", "onnxruntime", why ? why : "not found", "libonnxruntime");
  }
  using GetBase = const OrtApiBase* (*)();
  const auto base = reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"));
  const OrtApi* api = base ? base()->GetApi(ORT_API_VERSION) : nullptr;
  if (!api)
    throw Error("MissingLibraryError", "onnxruntime", "it is older than this shim",
                "API " + std::to_string(ORT_API_VERSION));
  version = base()->GetVersionString();
  return api;
}

bool generates(const json::Value& manifest) {
  return manifest["model"]["task"].text("model.task") == "text-generation";
}

std::string filled(std::string pattern, const std::string& mark, const std::string& value) {
  const size_t at = pattern.find(mark);
  return at == std::string::npos ? pattern : pattern.replace(at, mark.size(), value);
}

Ort::SessionOptions session_options(const Options& options, bool decoder) {
  Ort::SessionOptions made;
  made.SetIntraOpNumThreads(options.threads);
  made.SetInterOpNumThreads(1);
  made.AddConfigEntry("session.intra_op.allow_spinning", "1");
  // Those kernels round a whole row of activations to one int8 range: docs/arm64.md.
  made.AddConfigEntry("mlas.disable_kleidiai", "1");
  if (decoder) made.DisableMemPattern();  // a plan is kept a shape, and each token has a new one
  made.SetLogSeverityLevel(4);
  return made;
}

// As runtime/onnxruntime_decoder.py: past and present are one buffer, bound once, doubled when full.
class OnnxDecoder {
 public:
  OnnxDecoder(Ort::Session& session, const std::map<std::string, Type>& inputs,
              const json::Value& manifest)
      : session_(session), binding_(session), inputs_(inputs) {
    const json::Value& options = manifest["engine"]["options"];
    const std::string where = "manifest: engine.options";
    context_ = static_cast<size_t>(manifest["generation"]["context_length"].integer(where));
    kv_dtype_ = options["kv_dtype"].text(where);
    kv_heads_ = options["kv_heads"].integer(where);
    head_size_ = options["head_size"].integer(where);
    input_ids_ = options.text_or("input_ids", "input_ids");
    mask_ = options.text_or("attention_mask", "attention_mask");
    positions_ = options.text_or("position_ids", "");
    last_tokens_ = options.text_or("last_tokens", "");
    logits_ = options.text_or("logits", "logits");
    for (int64_t layer = 0; layer < options["layers"].integer(where); ++layer)
      for (const char* part : {"key", "value"})
        names_.emplace_back(name(options["past"].text(where), layer, part),
                            name(options["present"].text(where), layer, part));
    find_logits();
    grow(kFirstCapacity);
  }

  void reset() { length_ = 0; }

  void feed(const Ids& ids, bool last_only, const LogitSink& sink) {
    reserve(ids.size());
    const bool cut = last_only && !last_tokens_.empty();
    const size_t chunk = cut ? kPromptChunk : kLogitRows;
    for (size_t start = 0; start < ids.size(); start += chunk) {
      const size_t end = std::min(ids.size(), start + chunk);
      const size_t rows = cut ? 1 : end - start;
      const Floats logits = run(Ids(ids.begin() + start, ids.begin() + end), rows);
      if (!last_only)
        sink(logits.data(), rows, vocabulary_);
      else if (end == ids.size())
        sink(logits.data() + (rows - 1) * vocabulary_, 1, vocabulary_);
    }
  }

 private:
  static std::string name(const std::string& pattern, int64_t layer, const std::string& part) {
    return filled(filled(pattern, "{layer}", std::to_string(layer)), "{part}", part);
  }

  void find_logits() {
    for (size_t i = 0; i < session_.GetOutputCount(); ++i) {
      if (session_.GetOutputNameAllocated(i, allocator_).get() != logits_) continue;
      const Ort::TypeInfo info = session_.GetOutputTypeInfo(i);
      const auto tensor = info.GetTensorTypeAndShapeInfo();
      logits_type_ = tensor.GetElementType();
      const auto shape = tensor.GetShape();
      if (!shape.empty() && shape.back() > 0) vocabulary_ = static_cast<size_t>(shape.back());
    }
    if (!vocabulary_)
      throw Error("BadInputError", "manifest: engine.options", "no output " + logits_,
                  "the graph's logits, of a known vocabulary size");
  }

  Type type(const std::string& input) const {
    const auto found = inputs_.find(input);
    if (found == inputs_.end())
      throw Error("BadInputError", "manifest: engine.options", "no input " + input, "the graph's");
    return found->second;
  }

  void reserve(size_t tokens) {
    const size_t wanted = length_ + tokens;
    if (!tokens || wanted > context_)
      throw Error("UsageError", "tokens", std::to_string(wanted) + " with those before",
                  "1 to " + std::to_string(context_));
    size_t capacity = capacity_;
    while (capacity < wanted) capacity *= 2;
    if (capacity > capacity_) grow(std::min(capacity, context_));
  }

  void grow(size_t capacity) {
    const std::vector<int64_t> shape = {1, kv_heads_, static_cast<int64_t>(capacity), head_size_};
    const size_t row = static_cast<size_t>(head_size_) * item_bytes(kv_dtype_);
    std::vector<Buffer> grown;
    for (size_t i = 0; i < names_.size(); ++i) {
      grown.push_back(Buffer::of(kv_dtype_, shape));
      for (int64_t head = 0; !caches_.empty() && head < kv_heads_; ++head)
        std::memcpy(&grown[i].bytes[head * capacity * row],
                    &caches_[i].bytes[head * capacity_ * row], length_ * row);
    }
    caches_ = std::move(grown);
    for (size_t i = 0; i < names_.size(); ++i) {
      const Ort::Value both = caches_[i].value();
      binding_.BindInput(names_[i].first.c_str(), both);
      binding_.BindOutput(names_[i].second.c_str(), both);
    }
    capacity_ = capacity;
  }

  // Appends tokens; logits float32 [rows, vocabulary] of the last `rows` of them.
  Floats run(const Ids& ids, size_t rows) {
    const size_t total = length_ + ids.size();
    Ids positions;
    for (size_t at = length_; at < total; ++at) positions.push_back(static_cast<int64_t>(at));
    std::vector<Buffer> bound;  // a binding holds addresses: these live until the run is over
    const auto bind = [&](const std::string& input, const Ids& values) {
      bound.push_back(Buffer::of_ids(type(input), values));
      binding_.BindInput(input.c_str(), bound.back().value());
    };
    bind(input_ids_, ids);
    // The mask's length is what tells the graph how long the past is: a prefix of ones.
    bind(mask_, Ids(total, 1));
    if (!positions_.empty()) bind(positions_, positions);
    if (!last_tokens_.empty()) {
      bound.push_back(Buffer::of_ids(type(last_tokens_), {static_cast<int64_t>(rows)}));
      binding_.BindInput(last_tokens_.c_str(), bound.back().value({1}));
    }
    Buffer logits = Buffer::of(dtype_of(logits_type_), {1, static_cast<int64_t>(rows),
                                                        static_cast<int64_t>(vocabulary_)});
    binding_.BindOutput(logits_.c_str(), logits.value());
    translated("EdgecompileError", "onnxruntime at token " + std::to_string(total),
               [&] { session_.Run(Ort::RunOptions{nullptr}, binding_); });
    length_ = total;
    return to_floats(logits_type_, logits.bytes.data(), rows * vocabulary_);
  }

  Ort::Session& session_;
  Ort::IoBinding binding_;
  Ort::AllocatorWithDefaultOptions allocator_;
  const std::map<std::string, Type>& inputs_;
  std::vector<std::pair<std::string, std::string>> names_;  // past, present
  std::vector<Buffer> caches_;                              // [1, kv_heads, capacity, head_size]
  std::string kv_dtype_, input_ids_, mask_, positions_, last_tokens_, logits_;
  int64_t kv_heads_ = 0, head_size_ = 0;
  Type logits_type_ = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  size_t vocabulary_ = 0, context_ = 0, capacity_ = 0, length_ = 0;
};

class OnnxEngine : public Engine {
 public:
  OnnxEngine(const std::string& file, const json::Value& manifest, const Options& options,
             std::string version)
      : version_(std::move(version)), environment_(ORT_LOGGING_LEVEL_FATAL, "edgecompile"),
        session_(environment_, file.c_str(), session_options(options, generates(manifest))) {
    environment_.DisableTelemetryEvents();
    for (size_t i = 0; i < session_.GetInputCount(); ++i) {
      const Ort::TypeInfo info = session_.GetInputTypeInfo(i);
      input_names_.emplace_back(session_.GetInputNameAllocated(i, allocator_).get());
      inputs_[input_names_.back()] = info.GetTensorTypeAndShapeInfo().GetElementType();
    }
    for (size_t i = 0; i < session_.GetOutputCount(); ++i)
      output_names_.emplace_back(session_.GetOutputNameAllocated(i, allocator_).get());
    if (generates(manifest))
      decoder_ = std::make_unique<OnnxDecoder>(session_, inputs_, manifest);
  }

  std::string version() const override { return version_; }

  Floats encode(const Ids& ids) override {
    std::map<std::string, Buffer> known;
    for (const std::string& input : input_names_) {
      const Type type = inputs_[input];
      if (input == "input_ids") known[input] = Buffer::of_ids(type, ids);
      if (input == "attention_mask") known[input] = Buffer::of_ids(type, Ids(ids.size(), 1));
      if (input == "token_type_ids") known[input] = Buffer::of_ids(type, Ids(ids.size(), 0));
      if (!known.count(input))
        throw Error("BadInputError", "engine file", "input " + input,
                    "input_ids, attention_mask, token_type_ids");
    }
    const Ort::Value first = std::move(call(known).front());
    const auto info = first.GetTensorTypeAndShapeInfo();
    return to_floats(info.GetElementType(), first.GetTensorRawData(), info.GetElementCount());
  }

  void feed(const Ids& ids, bool last_only, const LogitSink& sink) override {
    if (!decoder_) return Engine::feed(ids, last_only, sink);
    decoder_->feed(ids, last_only, sink);
  }

  void begin(size_t) override {  // its cache grows
    if (decoder_) decoder_->reset();
  }

  std::vector<Tensor> run(const std::vector<Tensor>& inputs) override {
    std::map<std::string, Buffer> known;
    for (const Tensor& input : inputs)
      known[input.name] = Buffer{type_of(input.dtype), input.shape, input.bytes};
    std::vector<Tensor> outputs;
    for (const Ort::Value& value : call(known)) {
      const auto info = value.GetTensorTypeAndShapeInfo();
      Tensor output{output_names_[outputs.size()], dtype_of(info.GetElementType()),
                    info.GetShape(), {}};
      const auto* data = static_cast<const uint8_t*>(value.GetTensorRawData());
      output.bytes.assign(data, data + info.GetElementCount() * item_bytes(output.dtype));
      outputs.push_back(std::move(output));
    }
    return outputs;
  }

 private:
  std::vector<Ort::Value> call(std::map<std::string, Buffer>& arrays) {
    std::vector<const char*> inputs, outputs;
    std::vector<Ort::Value> values;
    for (const std::string& input : input_names_) {
      const auto found = arrays.find(input);
      if (found == arrays.end() || found->second.type != inputs_[input])
        throw Error("UsageError", "run", "no input " + input, dtype_of(inputs_[input]));
      inputs.push_back(input.c_str());
      values.push_back(found->second.value());
    }
    for (const std::string& output : output_names_) outputs.push_back(output.c_str());
    return translated("UsageError", "run", [&] {
      return session_.Run(Ort::RunOptions{nullptr}, inputs.data(), values.data(), values.size(),
                          outputs.data(), outputs.size());
    });
  }

  std::string version_;
  Ort::Env environment_;
  Ort::Session session_;
  Ort::AllocatorWithDefaultOptions allocator_;
  std::vector<std::string> input_names_, output_names_;
  std::map<std::string, Type> inputs_;
  std::unique_ptr<OnnxDecoder> decoder_;
};

}  // namespace

const char* engine_name() { return "onnxruntime"; }

std::unique_ptr<Engine> open_engine(const std::string& bundle, const json::Value& manifest,
                                    const Options& options) {
  std::string version;
  Ort::InitApi(open_library(options.library, version));
  const std::string file = path_in(bundle, manifest["engine"]["file"].text("engine.file"));
  return translated("BadInputError", file, [&]() -> std::unique_ptr<Engine> {
    return std::make_unique<OnnxEngine>(file, manifest, options, version);
  });
}

}  // namespace edgecompile
