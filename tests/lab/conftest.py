import pytest

from refimpl import methods
from tests.lab import fake


@pytest.fixture(autouse=True)
def only_the_fake_method(monkeypatch, tmp_path):
    """The one method is `fake`, data sets other than digits are absent, and work happens in an empty folder."""
    monkeypatch.setattr(methods, "MODULES", fake.MODULES)
    monkeypatch.delenv("REFIMPL_DATA", raising=False)
    monkeypatch.setenv("REFIMPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
