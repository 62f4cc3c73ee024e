"""masked_rnn beside its peers on this machine's CPU: one run, one table.

    python -m benchmarks                        about 10 minutes: the seven cases of suite `table`
    python -m benchmarks --quick                about 1 minute
    python -m benchmarks --suite masks growth   other questions; --help lists the suites
    python -m benchmarks --cell gru --sizes 32,128,64,128 --mask left holes --pass training
    make bench                                  the same in .venv, with pictures

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
