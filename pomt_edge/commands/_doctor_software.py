"""What `doctor` looks at in the software: Python, torch and its companions, the engines."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from pomt_edge.commands._doctor_finding import (
    FAIL,
    LEAST_JETPACK,
    OK,
    WARN,
    Check,
    Finding,
    Subject,
    imported,
    is_jetpack_6,
    pip_install,
    reason,
    with_extra,
)
from pomt_edge.machine import board, jetson_facts, nvidia_facts
from pomt_edge.machine.system import System

LEAST_PYTHON = (3, 10)
LEAST_DRIVER = {13: 580, 12: 525, 11: 450}
"""The driver branch from which on every CUDA of a major version runs."""
OLDEST_OF_CUDA_13 = (7, 5)
"""Older GPUs have no kernels in a build for CUDA 13."""
CUDA_12 = "cu126"
"""A build for drivers and GPUs that CUDA 13 has left behind."""
RTX_CAPABILITIES = {(7, 5), (8, 0), (8, 6), (8, 9)}
"""Compute capabilities that TensorRT-RTX runs on, beside all of 12."""
WHEELS = {
    "onnxruntime": {"x86_64", "aarch64"},
    "openvino": {"x86_64", "aarch64"},
    "tensorrt": {"x86_64", "aarch64"},
    "tensorrt_rtx": {"x86_64"},
}
"""Processors for which a library is built."""
EXPORTERS = ("onnx", "onnxscript")
JETSON_TORCH = "https://docs.nvidia.com/deeplearning/frameworks/install-pytorch-jetson-platform"
JETSON_TENSORRT = "sudo apt install python3-libnvinfer"


def python(subject: Subject) -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] >= LEAST_PYTHON:
        return Finding(OK, found)
    return Finding(FAIL, found, "python3.12 -m venv .venv && .venv/bin/pip install pomt-edge")


def torch(subject: Subject) -> Finding:
    module, error = imported("torch")
    if module is None:
        return Finding(FAIL, error, install_torch(subject.system))
    if module.version.cuda is None and subject.has_nvidia_gpu:
        found = f"{module.__version__}, built without CUDA, beside an NVIDIA GPU"
        return Finding(WARN, found, _torch_with_cuda(subject))
    build = f"with CUDA {module.version.cuda}" if module.version.cuda else "for the CPU"
    return Finding(OK, f"{module.__version__}, built {build}")


def torchvision(subject: Subject) -> Finding:
    return _companion(subject, "torchvision", install_torch(subject.system, again=True))


def timm(subject: Subject) -> Finding:
    return _companion(subject, "timm", pip_install("timm>=1.0.20"))


def forward(subject: Subject) -> Finding:
    """A layer with attention, on the device: builds for another GPU or processor fail here at the latest."""
    module, error = imported("torch")
    if module is None:
        return Finding(FAIL, f"torch is {error}", install_torch(subject.system))
    from pomt_edge.engines.torch import check_device
    from pomt_edge.errors import UserError

    try:
        check_device(subject.device)
    except UserError as refusal:
        return Finding(FAIL, str(refusal), _remedy_for_cuda(subject))
    try:
        finite = _forward(module, subject.device)
    except RuntimeError as failure:
        found = f"torch fails on {subject.device}: {reason(failure)}"
        return Finding(FAIL, found, _remedy_for_failure(subject, found))
    if not finite:
        return Finding(FAIL, f"torch computes nonsense on {subject.device}", install_torch(subject.system))
    return Finding(OK, f"torch runs on {subject.device}")


def driver(subject: Subject) -> Finding | None:
    module, _ = imported("torch")
    version = nvidia_facts.driver(subject.system)
    cuda = module.version.cuda if module is not None else None
    if not subject.has_nvidia_gpu:
        return None
    if version is None:
        return Finding(WARN, "an NVIDIA GPU, but its driver is not loaded", _remedy_for_driver(subject))
    least = LEAST_DRIVER.get(int(cuda.partition(".")[0])) if cuda else None
    if least and int(version.partition(".")[0]) < least:
        found = f"{version} is too old for torch's CUDA {cuda}, which needs {least} or newer"
        return Finding(WARN, found, _torch_with_cuda(subject))
    return Finding(OK, f"{version}, fits torch's CUDA {cuda}" if cuda else version)


def results_folder(subject: Subject) -> Finding:
    runs = subject.folder / "runs"
    # Not pathlib's questions: those raise in a folder that the user may not enter.
    there = runs if os.path.isdir(runs) else subject.folder
    if os.path.lexists(runs) and there != runs:
        found = f"{os.path.abspath(runs)} is no folder, and results go into a folder of that name"
        return Finding(FAIL, found, f"mv --backup=numbered {shlex.quote(str(runs))} {shlex.quote(str(runs))}.old")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        found = f"{os.path.abspath(there)} can't be written ({error.strerror})"
        return Finding(FAIL, found, f"cd {shlex.quote(str(_writable()))}")
    return Finding(OK, f"{os.path.abspath(runs)} can be written")


def onnxruntime(subject: Subject) -> Finding:
    library, error = imported("onnxruntime")
    install = _install_onnxruntime(subject)
    if library is None:
        return _missing("onnxruntime", error, install)
    if subject.on_gpu and "CUDAExecutionProvider" not in library.get_available_providers():
        uninstall = f"{shlex.quote(sys.executable)} -m pip uninstall -y onnxruntime"
        return Finding(WARN, f"{library.__version__}, built without CUDA", f"{uninstall} && {install}")
    return _present(library)


def openvino(subject: Subject) -> Finding:
    library, error = imported("openvino")
    if library is None:
        # The extra `cpu` holds an ONNX Runtime that would overwrite the one for the GPU.
        install = pip_install("openvino>=2024.6" if subject.on_gpu else with_extra("cpu"))
        return _missing("openvino", error, install)
    return _present(library)


def tensorrt(subject: Subject) -> Finding:
    if not subject.has_nvidia_gpu:
        return Finding(WARN, "can't run here: it needs an NVIDIA GPU")
    library, error = imported("tensorrt")
    if library is not None:
        return _present(library)
    return _missing("tensorrt", error, _jetson_tensorrt() if subject.is_jetson else pip_install(with_extra("trt")))


def tensorrt_rtx(subject: Subject) -> Finding:
    capability = subject.compute_capability
    if subject.is_jetson:
        return Finding(WARN, "can't run here: there is none for a Jetson")
    if not subject.has_nvidia_gpu:
        return Finding(WARN, "can't run here: it needs an NVIDIA GPU")
    if capability and capability[0] != 12 and capability not in RTX_CAPABILITIES:
        kind = "a Hopper GPU" if capability == (9, 0) else "this GPU"
        return Finding(WARN, f"can't run here: it does not run on {kind} (compute capability {_dotted(capability)})")
    library, error = imported("tensorrt_rtx_bindings")
    if library is not None:
        return _present(library)
    return _missing("tensorrt_rtx", error, pip_install(with_extra("rtx")))


CHECKS = (
    Check("python", python, needed=True),
    Check("torch", torch, needed=True),
    Check("torchvision", torchvision, needed=True),
    Check("timm", timm, needed=True),
    Check("driver", driver),
    Check("forward", forward, needed=True),
    Check("results", results_folder, needed=True),
    Check("onnxruntime", onnxruntime),
    Check("openvino", openvino),
    Check("tensorrt", tensorrt),
    Check("tensorrt_rtx", tensorrt_rtx),
)


def install_torch(system: System, *, again: bool = False, backend: str | None = None) -> str:
    """The command that installs a torch and a torchvision that fit each other and this machine's driver."""
    if is_jetpack_6(system):
        return f"install NVIDIA's torch for JetPack 6 as in {JETSON_TORCH}"
    backend = backend or _backend(system)
    if backend is None:
        return pip_install(*(["--force-reinstall"] if again else []), "torch", "torchvision")
    # uv knows where each build of torch lies.
    words = ["--reinstall"] * again + [f"--torch-backend={backend}", "torch", "torchvision"]
    python = shlex.quote(sys.executable)
    return f"{pip_install('uv')} && {python} -m uv pip install --python {python} {' '.join(words)}"


def _backend(system: System) -> str | None:
    """The build of torch that this machine needs; None where the default one is it."""
    version = nvidia_facts.driver(system)
    if version is None and not nvidia_facts.on_pci(system) and not board.is_jetson(system):
        return "cpu"
    if version and int(version.partition(".")[0]) < LEAST_DRIVER[13]:
        return CUDA_12
    return None


def _companion(subject: Subject, name: str, remedy: str) -> Finding:
    """timm and torchvision import torch themselves, and can't be better than it."""
    first, _ = imported("torch")
    if first is None:
        return Finding(FAIL, "can't be imported before torch is mended", install_torch(subject.system))
    library, error = imported(name)
    if library is None:
        return Finding(FAIL, f"{error} (torch is {first.__version__})", remedy)
    return Finding(OK, str(library.__version__))


def _forward(module: Any, device: str) -> bool:
    layer = module.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval().to(device)
    with module.inference_mode():
        return bool(layer(module.ones(1, 8, 32, device=device)).isfinite().all())


def _remedy_for_cuda(subject: Subject) -> str:
    if not (subject.is_jetson or nvidia_facts.on_pci(subject.system) or nvidia_facts.driver(subject.system)):
        return "pomt-edge doctor --device cpu"
    if nvidia_facts.driver(subject.system) is None:
        return _remedy_for_driver(subject)
    return _torch_with_cuda(subject) or "pomt-edge doctor --device cpu"


def _torch_with_cuda(subject: Subject) -> str | None:
    """None on an older JetPack, for which none is built: the line about it says what can be done."""
    if subject.is_jetson and (jetson_facts.jetpack_major(subject.system) or 0) < LEAST_JETPACK:
        return None
    return install_torch(subject.system, again=True)


def _remedy_for_failure(subject: Subject, failure: str) -> str:
    if "out of memory" in failure:
        return "nvidia-smi"
    capability = subject.compute_capability
    if "no kernel image" in failure and capability and capability < OLDEST_OF_CUDA_13 and not subject.is_jetson:
        return install_torch(subject.system, again=True, backend=CUDA_12)
    return install_torch(subject.system, again=True)


def _remedy_for_driver(subject: Subject) -> str:
    if subject.is_jetson:
        return "sudo apt install nvidia-jetpack && sudo reboot"
    if shutil.which("ubuntu-drivers"):
        return "sudo ubuntu-drivers install && sudo reboot"
    return "install the driver for your GPU from https://www.nvidia.com/drivers and reboot"


def _writable() -> Path:
    """A folder of the user's own that takes results."""
    try:
        tempfile.TemporaryFile(dir=Path.home()).close()
    except (OSError, RuntimeError):
        return Path(tempfile.gettempdir())
    return Path.home()


def _install_onnxruntime(subject: Subject) -> str:
    if not subject.on_gpu:
        return pip_install(with_extra("cpu"))
    if is_jetpack_6(subject.system):
        return "install NVIDIA's onnxruntime-gpu for JetPack 6"
    return pip_install(with_extra("gpu" if platform.machine() == "x86_64" else "cpu"))


def _jetson_tensorrt() -> str:
    """It comes with JetPack, outside of any virtual environment."""
    config = Path(sys.prefix, "pyvenv.cfg")
    if config.exists() and "include-system-site-packages = false" in config.read_text():
        see = "s/include-system-site-packages = false/include-system-site-packages = true/"
        return f"{JETSON_TENSORRT} && sed -i '{see}' {config}"
    return JETSON_TENSORRT


def _missing(engine: str, error: str, install: str) -> Finding:
    """Why an engine can't run, and the command, unless no wheel of it exists for this processor."""
    if platform.machine() not in WHEELS[engine] and JETSON_TENSORRT not in install:
        return Finding(WARN, f"{error}, and no wheel of it exists for {platform.machine()}")
    return Finding(WARN, error, install)


def _present(library: Any) -> Finding:
    """An engine is given ONNX: without what torch writes that with, its library alone runs nothing."""
    version = str(getattr(library, "__version__", "installed"))
    lacking = [name for name in EXPORTERS if imported(name)[0] is None]
    if lacking:
        found = f"{version}, but nothing can be exported to it without {lacking[0]}"
        return Finding(WARN, found, pip_install(*lacking))
    return Finding(OK, version)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
