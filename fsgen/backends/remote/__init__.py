"""Models behind HTTP servers (vLLM, SGLang, OpenAI's completions), and models of which only outputs are at hand."""
