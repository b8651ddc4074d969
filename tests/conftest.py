"""What holds for the whole suite: one thread, the same examples on every run, every call a shape check."""

import os

from jaxtyping import install_import_hook

CHECKED = ["prunekit.kernels", "prunekit.tokens", "prunekit.graph", "prunekit.prior", "prunekit_plugins"]
install_import_hook(CHECKED, "shape_checks.checked")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)

settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("search", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("search" if os.environ.get("PRUNEKIT_SEARCH") else "steady")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def prior_file(tmp_path_factory):
    """A measured prior of three planes, five rows by four columns each."""
    from prunekit.prior import Prior

    whole = 0.1 + torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0))
    file = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    Prior(whole, torch.tensor([5, 4, 4]), "a model", 2, "Please describe the image.", 5).save(file)
    return file
