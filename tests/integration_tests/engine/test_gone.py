"""A model whose file is gone, while it is loaded."""

import gc
import shutil
from pathlib import Path

import pytest

from langchain_ralmspec import ModelFileError
from langchain_ralmspec.engine import Model


def test_whose_file_is_gone_is_loaded_from_what_is_there_of_it(
    gguf: str, tmp_path: Path
) -> None:
    shutil.copy(gguf, tmp_path / "some.gguf")
    link = tmp_path / "link.gguf"
    link.symlink_to(tmp_path / "some.gguf")
    loaded = Model.load(link, n_ctx=512)
    assert Model.load(tmp_path / "some.gguf", n_ctx=512) is loaded
    (tmp_path / "some.gguf").unlink()
    assert Model.load(link, n_ctx=512) is loaded
    link.unlink()
    for path in (link, str(tmp_path / "some.gguf")):
        assert Model.load(path, n_ctx=512) is loaded
        assert Model.load(path, n_ctx=256).weights is loaded.weights
    with pytest.raises(ModelFileError, match=r"no model file at .*link\.gguf"):
        Model.load(link, use_mlock=True)  # its weights are others
    link.write_text("something else")
    with pytest.raises(ModelFileError, match="not a GGUF"):
        Model.load(link, n_ctx=512)
    link.unlink()
    del loaded
    gc.collect()
    with pytest.raises(ModelFileError, match=r"no model file at .*link\.gguf"):
        Model.load(link, n_ctx=512)
