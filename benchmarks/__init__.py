"""masked_rnn beside its peers on this machine's CPU: one run, one table.

    python -m benchmarks                        about 10 minutes: the seven cases of suite `table`
    python -m benchmarks --quick                about 1 minute
    python -m benchmarks --suite masks growth   other questions
    python -m benchmarks --cell gru --sizes 32,128,64,128 --mask left holes --pass training
    make bench                                  the same in .venv, with pictures

Suites:

    table             seven GRU and LSTM cases, half masked and dense, forward and training
    latency           one row: NumPy beside ONNX Runtime, the layer beside an empty Keras layer
    masks             padding on the left and holes beside padding on the right
    odd_sizes         H 128, 129, 151, 160
    bfloat16          the mixed_bfloat16 policy beside float32
    growth            over T, B, H and the share of real steps, for every kind of mask
    bucketing         shuffled batches beside the same sequences in batches of one length
    at_once           two calls at once beside one after the other
    invariance        batches of few rows, whose numbers must not depend on each other
    oversubscription  with twice as many busy processes as threads
    memory            of a training step, and what is kept for the gradient
    accuracy          of weight gradients that are sums over 64,000 steps

Peers, each one function in peers.py: Keras, PyTorch (packed and padded), ONNX Runtime, OpenVINO.
They are optional (the extra `bench` brings them); what is not installed, or cannot do a case, is
named below the table with the reason.

How a number comes about:

1. Every implementation gets the same weights, inputs and mask, in the layout that it likes best,
   prepared outside the clock. Training is the forward pass and the gradients of inputs and
   weights for one given gradient of the outputs, which is zero at masked steps.
2. Numbers first: what differs from masked_rnn's result by more than the tolerance in agreement.py
   is reported and not timed.
3. All that is compared is timed in one run, in rounds: in each round everything has a turn of
   consecutive calls, in an order drawn anew. A turn starts when the process is idle, so that
   nobody competes with the spinning threads of the one before. The median of a turn is one
   value, the median over the rounds is reported.
4. All get the same number of threads and, on a machine with more, are confined to as many cores.
5. GFLOP/s count the multiply-adds of real steps only: 2 * real steps * (I + H) * gates * H
   forward, three times that in training. So whoever computes masked steps has fewer. The share
   of the peak is of one measured in the same rounds.
"""
