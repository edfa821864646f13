"""Every tolerance of the suite, with its reason."""

# Scores against the original implementation's, float32 on other kernels and summation orders:
# 2e-6 seen.
GOLDEN_SCORES = 1e-5
GOLDEN_LABELS = 0.999
# Relative: losses are sums of a few thousand terms, 1.2e-6 seen.
GOLDEN_LOSS = 1e-5
# Relative, of gradient norms: sums over all images and pixels, 1.1e-5 seen.
GOLDEN_GRADIENT = 1e-4
# Largest score difference over the largest score; folds are computed in float64 and run in
# float32: 1.5e-6 seen.
FOLD_RELATIVE = 1e-5
# The same graph on ONNX Runtime's kernels instead of PyTorch's: 1.0e-6 seen, relative RMS.
ORT_FP32_RMS = 1e-5
# FP16 and BF16 rounding, relative RMS, on the golden checkpoints, whose random weights spread
# wider than trained ones: 3.1e-3 and 1.2e-2 seen.
ORT_FP16_RMS = 5e-3
BF16_RMS = 4e-2
# Tokens of up to 5 units against Transformers' of the same weights: equal for DINOv2, 1.1e-6 for
# DINOv3, whose angles it computes in float32.
TRANSFORMERS_TOKENS = 1e-5
# Gradients with activations kept and recomputed: the same kernels in the same order.
RECOMPUTED_GRADIENT = 1e-7
# The same FP16 graph with channels scaled by powers of two: values near 0, below FP16's normal
# numbers, alone are rounded otherwise, and a rare tie with them.
REWRITTEN_FP16_RMS = 1e-3
# Windows stitched in the graph against averaged outside: sums in another order, 0.9999 seen.
SLIDE_LABELS = 0.9995
