import sys

import pytest

from modmeta.runtime.optional import import_optional


def test_returns_the_module_and_not_its_package():
    assert import_optional("xml.dom.minidom", "any").__name__ == "xml.dom.minidom"


def test_missing_package_names_the_command_that_installs_it():
    with pytest.raises(ImportError) as caught:
        import_optional("surely_not_installed.part", "plots")
    assert "surely_not_installed" in str(caught.value)
    assert "pip install 'modmeta[plots]'" in str(caught.value)
    assert caught.value.name == "surely_not_installed"


def test_a_loaded_submodule_does_not_hide_a_blocked_package(monkeypatch):
    import xml.dom.minidom  # noqa: F401

    monkeypatch.setitem(sys.modules, "xml", None)
    with pytest.raises(ImportError, match="needs xml"):
        import_optional("xml.dom.minidom", "plots")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import surely_not_installed", ModuleNotFoundError, "surely_not_installed"),
        ("raise ImportError('broken library')", ImportError, "broken library"),
    ],
)
def test_installed_but_broken_packages_keep_their_error(
    tmp_path, monkeypatch, source, error, message
):
    (tmp_path / "broken_package.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=message) as caught:
        import_optional("broken_package", "plots")
    assert "pip install" not in str(caught.value)
