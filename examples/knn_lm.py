"""A kNN-LM: tokens are advised by what followed like contexts in some texts.

Needs ``model.gguf``; the start page of the docs says how to get it.
"""

import heapq
import inspect
import json
import string
import tempfile

from langchain_ralmspec import KNNDatastore, KNNLMSpecLLM

# Any texts will do; these are on every machine.
texts = [inspect.getdoc(part) or "" for part in (heapq, json, string.Template)]
with tempfile.TemporaryDirectory() as folder:
    store = KNNDatastore.build(texts, model_path="model.gguf", path=f"{folder}/store")
    print(len(store), "entries")
    for interpolation in (0.0, 0.5):
        llm = KNNLMSpecLLM(
            model_path="model.gguf",
            datastore=store,
            k=8,
            interpolation=interpolation,
            max_tokens=24,
        )
        text = llm.invoke("JSON (JavaScript Object Notation) is a subset of")
        print(f"{interpolation:.0%} from the neighbours: {text.strip()}")
