import pytest

pytest.importorskip("torch_pruning", reason="needs torch-pruning: pip install 'prunekit[structural]'")
