// The kernels of clusters (kernels/cluster.cuh) on the host: which calls they can do, in which
// shape a cluster shares one out, and their launch.
#pragma once

#include "queue.h"

namespace masked_rnn::cuda {

struct ClusterCandidate {
  ClusterShape shape{};
  double microseconds = 0;  // of a step forward, expected
  std::string refused;      // why there is none; else empty
};

// The shape with the least expected time for `batch` rows.
ClusterCandidate best_cluster(const Device& device, const Problem& problem, const Options& options,
                              int64_t batch);

// Queue all steps of a chunk in one launch.
void cluster_forward(const Queue& queue, const Choice& choice, const ForwardStep& step);
void cluster_backward(const Queue& queue, const Choice& choice, const BackwardStep& step);

}  // namespace masked_rnn::cuda
