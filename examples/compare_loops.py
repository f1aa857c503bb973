"""The same question to both loops: same answer, fewer store calls.

Needs ``model.gguf`` and a folder ``minilm``; the start page of the docs says how to get
them.
"""

from langchain_core.vectorstores import InMemoryVectorStore

from langchain_ralmspec import ChatRaLMSpec, SentenceTransformerEmbeddings

store = InMemoryVectorStore.from_texts(
    [
        "argparse.ArgumentParser parses command line arguments.",
        "ArgumentParser.add_argument() says how an argument is parsed.",
        "ArgumentParser.parse_args() returns the parsed arguments.",
        "sys.argv is the list of command line arguments.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
fast = ChatRaLMSpec(model_path="model.gguf", retriever=store, max_tokens=48)
slow = fast.model_copy(update={"speculation": False})

answers = [chat.invoke("How do I parse arguments?") for chat in (slow, fast)]
print(answers[1].text)
for name, answer in zip(("sequential", "speculative"), answers, strict=True):
    stats = answer.response_metadata["speculation"]
    print(f"{name}: {stats['store_calls']} store calls")
steps = [answer.response_metadata["steps"] for answer in answers]
print("identical:", steps[0] == steps[1])
