// Attention with a KV cache, the one operator of our .pte decoders that ExecuTorch's libraries
// lack outside of its Android and Python packages: there link theirs in place of this file.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

namespace edgecompile {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::KernelRuntimeContext;

bool fits(const Tensor& query, const Tensor& key, const Tensor& cache, int64_t start,
          int64_t count) {
  return query.dim() == 4 && key.dim() == 4 && cache.dim() == 4 && query.size(0) == 1 &&
         query.scalar_type() == ScalarType::Float && cache.scalar_type() == ScalarType::Float &&
         count == key.size(1) && count == query.size(1) && start >= 0 &&
         start + count <= cache.size(1) && key.size(2) == cache.size(2) &&
         query.size(2) % key.size(2) == 0 && query.size(3) == cache.size(3);
}

// softmax(q k scale + mask) v over the first `seen` positions of one head; `row` is a stride,
// and `mask` may be null.
void attend(const float* q, const float* keys, const float* values, const float* mask, float* out,
            int64_t seen, int64_t row, int64_t size, float scale, std::vector<float>& weights) {
  weights.resize(static_cast<size_t>(seen));
  float top = -INFINITY, sum = 0;
  for (int64_t at = 0; at < seen; ++at) {
    float dot = 0;
    for (int64_t i = 0; i < size; ++i) dot += q[i] * keys[at * row + i];
    weights[at] = dot * scale + (mask ? mask[at] : 0);
    top = std::max(top, weights[at]);
  }
  for (float& weight : weights) sum += weight = std::exp(weight - top);
  std::fill(out, out + size, 0.0f);
  for (int64_t at = 0; at < seen; ++at)
    for (int64_t i = 0; i < size; ++i) out[i] += weights[at] / sum * values[at * row + i];
}

// query [1, n, heads, size], key and value [1, n, kv_heads, size], caches [1, context, kv_heads,
// size], all float32. A token sees those before it and itself; with `mask` [n, context], all that
// the mask leaves.
Tensor& attention(KernelRuntimeContext& context, const Tensor& query, const Tensor& key,
                  const Tensor& value, Tensor& key_cache, Tensor& value_cache, int64_t start,
                  int64_t count, const std::optional<Tensor>& mask, double dropout, bool causal,
                  std::optional<double> scale, Tensor& out) {
  const int64_t total = key_cache.size(1);
  const bool masked = mask.has_value() && !causal && mask->dim() == 2 && mask->size(0) == count &&
                      mask->size(1) == total && mask->scalar_type() == ScalarType::Float;
  const bool known = dropout == 0 && (masked || (causal && !mask.has_value()));
  ET_KERNEL_CHECK(context, known && fits(query, key, key_cache, start, count), InvalidArgument,
                  out);
  ET_KERNEL_CHECK(context,
                  executorch::runtime::resize_tensor(out, query.sizes()) ==
                      executorch::runtime::Error::Ok,
                  InvalidArgument, out);
  const int64_t heads = query.size(2), kv_heads = key.size(2), size = query.size(3);
  const int64_t row = kv_heads * size;
  float* keys = key_cache.mutable_data_ptr<float>();
  float* values = value_cache.mutable_data_ptr<float>();
  const size_t bytes = static_cast<size_t>(count * row) * sizeof(float);
  std::memcpy(keys + start * row, key.const_data_ptr<float>(), bytes);
  std::memcpy(values + start * row, value.const_data_ptr<float>(), bytes);
  const auto factor = static_cast<float>(scale.value_or(1 / std::sqrt(static_cast<double>(size))));
  std::vector<float> weights;
  for (int64_t at = 0; at < count; ++at)
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t shared = head / (heads / kv_heads) * size;
      const int64_t place = (at * heads + head) * size;
      const float* hidden = masked ? mask->const_data_ptr<float>() + at * total : nullptr;
      attend(query.const_data_ptr<float>() + place, keys + shared, values + shared, hidden,
             out.mutable_data_ptr<float>() + place, masked ? total : start + at + 1, row, size,
             factor, weights);
    }
  return out;
}

EXECUTORCH_LIBRARY(llama, "sdpa_with_kv_cache.out", attention);

}  // namespace
}  // namespace edgecompile
