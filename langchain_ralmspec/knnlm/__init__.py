"""kNN-LM serving: a model whose every token is advised by its neighbours."""

from langchain_ralmspec.knnlm.datastore import INDEX_KINDS, IndexKind, KNNDatastore
from langchain_ralmspec.knnlm.loop import NeighbourRequest, generate
from langchain_ralmspec.knnlm.mixture import Mixture, Neighbours

__all__ = [
    "INDEX_KINDS",
    "IndexKind",
    "KNNDatastore",
    "Mixture",
    "NeighbourRequest",
    "Neighbours",
    "generate",
]
