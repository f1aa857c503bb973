"""Guess and verify in a generation loop of your own: here, a toy of three hops.

Needs a folder ``minilm`` with a sentence-transformers model; the start page of the
docs says how to get it.
"""

from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import RaLMSpecRetriever, SentenceTransformerEmbeddings

store = InMemoryVectorStore.from_texts(
    [
        "zipfile.ZipFile opens a ZIP archive.",
        "ZipFile.namelist() lists the members of an archive.",
        "ZipFile.read() returns the bytes of a member.",
        "csv.reader() iterates over the rows of a CSV file.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
session = RaLMSpecRetriever(vectorstore=store, k=1).session(prefetch_k=3)
session.verify(["open a ZIP archive"])

# The guesses cost no store call; a model would write on while they wait …
queries = ["list the members of the archive", "read the bytes of a member"]
guesses = [session.speculate(query) for query in queries]

# … until one call verifies them all.
for query, guess, truth in zip(queries, guesses, session.verify(queries), strict=True):
    verdict = "right" if guess == truth else "wrong"
    print(f"{query}: {truth[0].page_content} (guess {verdict})")
print(session.stats.store_calls, "store calls")
