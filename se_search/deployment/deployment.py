"""How a network is deployed: its runtime, device, precision and input size."""

from dataclasses import dataclass

RUNTIMES = ("eager", "compile", "onnxruntime", "openvino")
"""Names of what can run a network: the files of :mod:`se_search.deployment.runtimes`."""

DTYPES = ("float32", "bfloat16", "float16")
"""Number formats of weights and images."""

MEMORY_FORMATS = {"contiguous": "contiguous_format", "channels_last": "channels_last"}
"""Orders of dimensions in memory, of images and convolution weights, with PyTorch's names for them."""


@dataclass(frozen=True)
class Deployment:
    """How a network is run.

    Attributes:
        runtime: ``"eager"``, ``"compile"``, ``"onnxruntime"`` or ``"openvino"``.
        optimized: Whether the network goes through :func:`se_search.optimize_for_inference` first.
        device: A torch device: ``"cpu"``, ``"cuda"`` or ``"cuda:0"``.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``, of weights and images. OpenVINO takes single precision
            and converts it to this format.
        memory_format: ``"contiguous"`` (NCHW) or ``"channels_last"``. ONNX Runtime and OpenVINO choose their own.
        batch: Images in a forward pass.
        size: ``(channels, height, width)`` of an image.
        threads: Threads of a CPU operation; PyTorch's present number if ``None``.
        cuda_graph: Whether the operations are recorded in a CUDA graph, which is then replayed.
    """

    runtime: str = "eager"
    optimized: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    memory_format: str = "contiguous"
    batch: int = 1
    size: tuple[int, int, int] = (3, 224, 224)
    threads: int | None = None
    cuda_graph: bool = False
