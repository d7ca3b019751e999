"""litellm against a gateway: python clients_litellm.py URL. Run by clients.sh."""

import asyncio
import json
import sys

import litellm

URL = sys.argv[1]
ASK = {
    "model": "openai/local",
    "api_base": URL,
    "api_key": "none",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 20,
}


def main() -> None:
    whole = litellm.completion(**ASK)
    text = whole.choices[0].message.content
    assert text, whole
    assert whole.usage.completion_tokens > 0

    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ASK, stream=True)
    )
    assert streamed == text, (streamed, text)

    awaited = asyncio.run(litellm.acompletion(**ASK))
    assert awaited.choices[0].message.content == text

    formatted = litellm.completion(
        **{**ASK, "max_tokens": 60}, response_format={"type": "json_object"}
    )
    if formatted.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(formatted.choices[0].message.content), dict)

    several = litellm.completion(**ASK, n=2)
    assert len(several.choices) == 2

    told = ""
    try:
        litellm.completion(**{**ASK, "model": "openai/gpt-6"})
    except litellm.NotFoundError as error:
        told = str(error)
    assert "gpt-6" in told
    print("litellm: whole, streamed, async, JSON, several answers, errors: as expected")


if __name__ == "__main__":
    main()
