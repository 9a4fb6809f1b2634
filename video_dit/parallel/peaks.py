"""Peak bfloat16 FLOP/s of devices, by the name that JAX gives their kind.

The vendors' figures, dense and with float32 sums: Google's of TPUs, those of NVIDIA's
data sheets and, of cards for workstations and desktops, of its whitepapers.
"""

FLOPS: dict[str, float] = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7": 2307e12 / 2,
  "TPU7x": 2307e12 / 2,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA A100-PCIE-40GB": 312e12,
  "NVIDIA A100 80GB PCIe": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100 NVL": 835e12,
  "NVIDIA H200": 989e12,
  "NVIDIA H200 NVL": 835e12,
  "NVIDIA GH200 480GB": 989e12,
  "NVIDIA B200": 2250e12,
  "NVIDIA GB200": 2500e12,
  "NVIDIA L4": 121e12,
  "NVIDIA L40S": 362e12,
  "NVIDIA A10": 125e12,
  "NVIDIA A10G": 70e12,
  "NVIDIA RTX 6000 Ada Generation": 364e12,
  "NVIDIA GeForce RTX 4090": 165e12,
  "NVIDIA GeForce RTX 5090": 209e12,
}
