"""Which variables of arf's environment jobs get: those that are listed here, and those that are named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from arf.config.schema import is_secret_name

PASSED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TERM",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "HOSTNAME",
    "TMPDIR",
    "TEMP",
    "TMP",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_*",
    "LIBRARY_PATH",
    "CPATH",
    "CC",
    "CXX",
    "CFLAGS",
    "CXXFLAGS",
    "MALLOC_*",
    "SSL_CERT_*",
    "PYTHON*",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "VIRTUAL_ENV",
    "UV_PROJECT_ENVIRONMENT",
    "UV_CACHE_DIR",
    "UV_PYTHON",
    "OMP_*",
    "MKL_*",
    "OPENBLAS_*",
    "BLIS_*",
    "KMP_*",
    "GOMP_*",
    "NUMEXPR_*",
    "VECLIB_*",
    "NUMBA_*",
    "CUDA_*",
    "NVIDIA_*",
    "NCCL_*",
    "CUBLAS_*",
    "CUDNN_*",
    "GLOO_*",
    "HIP_*",
    "ROCM_*",
    "ROCR_*",
    "HSA_*",
    "MIOPEN_*",
    "TORCH*",
    "PYTORCH_*",
    "TRITON_*",
    "XLA_*",
    "JAX_*",
    "TF_*",
    "FLASH_ATTENTION_*",
    "MPLBACKEND",
    "MPLCONFIGDIR",
    "HF_HOME",
    "HF_HUB_*",
    "HF_DATASETS_*",
    "HF_ENDPOINT",
    "TRANSFORMERS_*",
    "TOKENIZERS_PARALLELISM",
    "NLTK_DATA",
    "WANDB_MODE",
    "WANDB_DISABLED",
    "TQDM_*",
    "SLURM_*",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
)
"""Names, with `*` for any text. Whatever looks like a secret stays out, whether it is listed or not."""


def for_jobs(environ: Mapping[str, str], passed: Iterable[str] = ()) -> dict[str, str]:
    """The part of an environment that jobs get; `passed` are more names or patterns, secrets included."""
    more = tuple(passed)
    return {
        name: value
        for name, value in environ.items()
        if _matches(name, more) or (_matches(name, PASSED) and not is_secret_name(name))
    }


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
