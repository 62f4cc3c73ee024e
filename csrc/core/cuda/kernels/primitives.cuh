// What a GPU can do beyond C++, each thing once: PTX under a CUDA compiler, its twin in csrc/cusim
// where the kernels run on the CPU. Kernels contain no PTX and no word of CUDA that is not here or
// in cusim/language.h.
#pragma once

#if defined(__CUDACC__)
#define MR_DEVICE __device__
#define MR_INLINE __device__ __forceinline__
// Dynamic shared memory, the only kind: p points at it, aligned to 128 bytes.
#define MR_SHARED(p) extern __shared__ __align__(128) unsigned char p[]
#define MR_RESTRICT __restrict__
#define MR_UNROLL _Pragma("unroll")  // a loop whose arrays have to be registers
#define MR_UNROLL_BY_4 _Pragma("unroll 4")
#define MR_NO_UNROLL _Pragma("unroll 1")
#else
#include "cusim/language.h"
#include "cusim/matrix.h"
#define MR_DEVICE
#define MR_INLINE inline __attribute__((always_inline))
#define MR_SHARED(p) unsigned char* p = cusim::shared_memory()
#define MR_RESTRICT __restrict__
#define MR_UNROLL
#define MR_UNROLL_BY_4
#define MR_NO_UNROLL
#endif

// Whether what is compiled may use clusters: primitives of 9.0 are left out below that.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define MR_CLUSTERS
#endif

namespace masked_rnn::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

#if defined(__CUDACC__)

MR_INLINE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- memory order ---

MR_INLINE unsigned load_acquire(const unsigned* p) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}
MR_INLINE void add_release(unsigned* p, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}

// 16 bytes that another block may have written: from L2, past this multiprocessor's own cache.
template <class T>
MR_INLINE T load_shared_by_blocks(const T* p) {
  static_assert(sizeof(T) == 16);
  const uint4 bits = __ldcg(reinterpret_cast<const uint4*>(p));
  T value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
MR_INLINE void prefetch_to_l2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// --- 16-bit types and TF32 ---

MR_INLINE uint32_t round_to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}
MR_INLINE float float_from_half(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
MR_INLINE uint16_t half_from_float(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// Two floats, rounded to the nearest, in one register; the first is the lower half. Volatile, as a
// compiler that does it late has both in registers until then.
MR_INLINE uint32_t pack_bfloat16(float first, float second) {
  uint32_t pair;
  asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}
MR_INLINE uint32_t pack_float16(float first, float second) {
  uint32_t pair;
  asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

// --- matrix products of a warp: c [16,8] += a [16,k] @ b [k,8], laid out as in the PTX ISA ---

MR_INLINE void multiply_bfloat16(float* c, const uint32_t* a, const uint32_t* b) {  // k = 16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
MR_INLINE void multiply_float16(float* c, const uint32_t* a, const uint32_t* b) {  // k = 16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
MR_INLINE void multiply_tf32(float* c, const uint32_t* a, const uint32_t* b) {  // k = 8
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// --- copies from global to shared memory that do not pass through registers ---

// 16 bytes, of which the first `source_bytes` are read and the rest are zero.
MR_INLINE void copy_async(void* shared, const void* global, unsigned source_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(source_bytes)
               : "memory");
}
MR_INLINE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroupsLeft>
MR_INLINE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

// --- clusters, compute capability 9.0 ---

#if defined(MR_CLUSTERS)
MR_INLINE unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
MR_INLINE unsigned cluster_size() {
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
MR_INLINE void cluster_barrier() {
  __syncwarp();  // it counts warps
  asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
MR_INLINE uint32_t shared_address_in(const void* p, unsigned rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  return address;
}
MR_INLINE float load_from_block(const float* p, unsigned rank) {
  float value;
  asm volatile("ld.shared::cluster.f32 %0, [%1];"
               : "=f"(value) : "r"(shared_address_in(p, rank)) : "memory");
  return value;
}

// A barrier of transactions: a phase ends when `arrivals` threads have arrived and all bytes that
// they said to expect are there.
MR_INLINE void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
// Makes the initialized barriers known to the cluster; a cluster_barrier follows.
MR_INLINE void mbarrier_publish() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
MR_INLINE void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
MR_INLINE void mbarrier_wait(uint64_t* barrier, unsigned parity) {
  unsigned done;
  do {
    asm volatile(
        "{\n .reg .pred p;\n"
        " mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
  } while (!done);
}

// Stores at `p` in block `rank` of the cluster, and counts the bytes on its `barrier`.
MR_INLINE void store_async(void* p, unsigned rank, uint32_t value, uint64_t* barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
                   shared_address_in(p, rank)),
               "r"(value), "r"(shared_address_in(barrier, rank))
               : "memory");
}
MR_INLINE void store_async(void* p, unsigned rank, uint64_t value, uint64_t* barrier) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(
                   shared_address_in(p, rank)),
               "l"(value), "r"(shared_address_in(barrier, rank))
               : "memory");
}
// Four words, 16-byte aligned.
MR_INLINE void store_async(void* p, unsigned rank, const uint32_t (&v)[4], uint64_t* barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::
          "r"(shared_address_in(p, rank)),
      "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]), "r"(shared_address_in(barrier, rank))
      : "memory");
}
#endif

#else  // the CPU

inline unsigned load_acquire(const unsigned* p) {
  cusim::let_others_run();
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
inline void add_release(unsigned* p, unsigned value) {
  cusim::note_progress();
  __atomic_fetch_add(p, value, __ATOMIC_RELEASE);
}

template <class T>
T load_shared_by_blocks(const T* p) {
  return *p;
}
inline void prefetch_to_l2(const void*) {}

inline uint32_t round_to_tf32(float x) {
  const uint32_t bits = cusim::float_to_bits(x);
  return x - x != 0.0f ? bits : (bits + 0x1000u) & 0xffffe000u;
}
inline float float_from_half(uint16_t bits) { return cusim::float16_element(bits, 0); }
inline uint16_t half_from_float(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof(bits));
  return bits;
}

inline void multiply_bfloat16(float* c, const uint32_t* a, const uint32_t* b) {
  cusim::matrix_product<2>(c, a, b, cusim::bfloat16_element);
}
inline void multiply_float16(float* c, const uint32_t* a, const uint32_t* b) {
  cusim::matrix_product<2>(c, a, b, cusim::float16_element);
}
inline void multiply_tf32(float* c, const uint32_t* a, const uint32_t* b) {
  cusim::matrix_product<1>(c, a, b, cusim::tf32_element);
}

inline void copy_async(void* shared, const void* global, unsigned source_bytes) {
  cusim::copy_async(shared, global, 16, source_bytes);
}
inline void commit_copies() { cusim::commit_copies(); }
template <int kGroupsLeft>
void wait_for_copies() {
  cusim::wait_for_copies(kGroupsLeft);
}

inline uint32_t pack_bfloat16(float first, float second) {
  const auto rounded = [](float x) {
    const uint32_t bits = cusim::float_to_bits(x);
    return x != x ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return rounded(first) | rounded(second) << 16;
}
inline uint32_t pack_float16(float first, float second) {
  return half_from_float(first) | static_cast<uint32_t>(half_from_float(second)) << 16;
}
inline unsigned cluster_rank() { return cusim::cluster_rank(); }
inline unsigned cluster_size() { return cusim::cluster_size(); }
inline void cluster_barrier() { cusim::cluster_barrier(); }
inline float load_from_block(const float* p, unsigned rank) {
  return *static_cast<const float*>(cusim::in_block(p, rank));
}
inline void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
  cusim::mbarrier_init(barrier, arrivals);
}
inline void mbarrier_publish() {}
inline void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
  cusim::mbarrier_arrive(barrier, bytes);
}
inline void mbarrier_wait(uint64_t* barrier, unsigned parity) {
  cusim::mbarrier_wait(barrier, parity);
}
inline void store_async(void* p, unsigned rank, uint32_t value, uint64_t* barrier) {
  cusim::store_async(p, rank, &value, sizeof(value), barrier);
}
inline void store_async(void* p, unsigned rank, uint64_t value, uint64_t* barrier) {
  cusim::store_async(p, rank, &value, sizeof(value), barrier);
}
inline void store_async(void* p, unsigned rank, const uint32_t (&v)[4], uint64_t* barrier) {
  cusim::store_async(p, rank, v, sizeof(v), barrier);
}

#endif

// Blocks of a cooperative grid meet, and see what the others wrote. `arrived` is a word of global
// memory that is zero when the kernel starts, and `expected` the arrivals that this block waits
// for. The release and the acquire of one thread count for its block, which the block's barriers
// order: no further fence. (cooperative_groups is not to be had where kernels are compiled at run
// time.)
MR_INLINE void arrive(unsigned* arrived) {
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) add_release(arrived, 1);
}
MR_INLINE void wait_for(const unsigned* arrived, unsigned expected) {
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    while (static_cast<int>(load_acquire(arrived) - expected) < 0) {
    }
  }
  __syncthreads();
}
// All blocks of the grid; `meeting` counts this thread's barriers, from zero.
MR_INLINE void grid_barrier(unsigned* arrived, unsigned& meeting) {
  ++meeting;
  arrive(arrived);
  wait_for(arrived, meeting * gridDim.x * gridDim.y * gridDim.z);
}

}  // namespace masked_rnn::cuda
