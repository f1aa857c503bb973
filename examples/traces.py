"""Look-ups as OpenTelemetry spans, by way of LangSmith's exporter, without LangSmith.

Needs ``model.gguf`` and a folder ``minilm``; the README says how to get them. And
``pip install "langsmith[otel]"``.
"""

from langchain_core.tracers.langchain import LangChainTracer
from langchain_core.vectorstores import InMemoryVectorStore
from langsmith import Client
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_ralmspec import ChatRaLMSpec, SentenceTransformerEmbeddings

# In an application: OTLPSpanExporter(endpoint="http://your-collector:4318/v1/traces").
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
client = Client(tracing_mode="otel", otel_tracer_provider=provider)

store = InMemoryVectorStore.from_texts(
    [
        "argparse.ArgumentParser parses command line arguments.",
        "ArgumentParser.add_argument() says how an argument is parsed.",
        "ArgumentParser.parse_args() returns the parsed arguments.",
    ],
    SentenceTransformerEmbeddings("minilm"),
)
chat = ChatRaLMSpec(
    model_path="model.gguf", retriever=store, max_tokens=24, speculation_stride=2
)
chat.invoke(
    "How do I parse arguments?", {"callbacks": [LangChainTracer(client=client)]}
)
client.flush()

spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
depths = {0: 0}  # by the ids of spans; 0 is above them all
for span in spans:
    depth = depths[span.parent.span_id if span.parent else 0]
    depths[span.context.span_id] = depth + 1
    guess = (span.attributes or {}).get("langsmith.metadata.ralmspec_guess")
    print("  " * depth + span.name, f"(guess: {guess})" if guess else "")
