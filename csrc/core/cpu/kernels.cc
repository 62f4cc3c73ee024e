// The CPU kernels of one instruction set and compute type. Compiled once for each, with that
// set's flags and
//   MASKED_RNN_ISA             generic, neon, avx2, avx512, avx512bf16, amx (a name)
//   MASKED_RNN_REAL            float or double
//   MASKED_RNN_REAL_IS_DOUBLE  0 or 1
// Everything but the table is internal to the object, see simd.h.

#include "simd.h"
//
#include "math.h"
//
#include "backward.h"
#include "dispatch.h"
#include "forward.h"

namespace masked_rnn {
namespace {

template <template <class, class, class> class Pass, class CellT, class Storage>
void run_pass(const Job& job, int thread) {
  const Problem& p = *job.problem;
  Member member(*job.team, thread, job.threads());
  if (p.activation == Activation::kTanh && p.recurrent_activation == Activation::kSigmoid) {
    Pass<CellT, TanhSigmoid, Storage>::run(job, member);
  } else {
    Pass<CellT, AnyActivations, Storage>::run(job, member);
  }
}

template <class K>
constexpr int planes_of = K::kPair > 1 ? K::kPlanes : 0;

template <class CellT, class Storage>
constexpr KernelRow row() {
  using Step = typename Kinds<Storage>::Step;
  using Chunk = typename Kinds<Storage>::Chunk;
  return {CellT::kCell,
          StorageOf<Storage>::dtype,
          run_pass<Forward, CellT, Storage>,
          run_pass<Backward, CellT, Storage>,
          {planes_of<Step>, planes_of<Chunk>},
          Tile<Step>::multiply_adds};
}

constexpr KernelRow kRows[] = {
#if defined(__AVX512BF16__)
    row<Gru, BFloat16>(),
    row<GruResetBefore, BFloat16>(),
    row<Lstm, BFloat16>(),
    row<SimpleRnn, BFloat16>(),
#endif
#if defined(__AMX_BF16__) || !defined(__AVX512BF16__)
    row<Gru, Real>(),
    row<GruResetBefore, Real>(),
    row<Lstm, Real>(),
    row<SimpleRnn, Real>(),
#endif
#if !defined(__AVX512BF16__) && !MASKED_RNN_REAL_IS_DOUBLE
    row<Gru, BFloat16>(),
    row<GruResetBefore, BFloat16>(),
    row<Lstm, BFloat16>(),
    row<SimpleRnn, BFloat16>(),
    row<Gru, Float16>(),
    row<GruResetBefore, Float16>(),
    row<Lstm, Float16>(),
    row<SimpleRnn, Float16>(),
#endif
};

}  // namespace

#define MR_TEXT_OF(x) #x
#define MR_TEXT(x) MR_TEXT_OF(x)
#define MR_JOIN_OF(isa, real) kernels_##isa##_##real
#define MR_JOIN(isa, real) MR_JOIN_OF(isa, real)

extern const KernelTable MR_JOIN(MASKED_RNN_ISA, MASKED_RNN_REAL) = {
    MR_TEXT(MASKED_RNN_ISA), kVectorBytes, kRows, sizeof(kRows) / sizeof(kRows[0])};

}  // namespace masked_rnn
