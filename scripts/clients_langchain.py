"""langchain-openai against a gateway: python clients_langchain.py URL. Run by clients.sh."""

import asyncio
import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

URL = sys.argv[1]
QUESTION = "What is the capital of France?"


class City(BaseModel):
    name: str = Field(max_length=20)
    capital: bool


def main() -> None:
    llm = ChatOpenAI(model="local", base_url=URL, api_key="none", max_tokens=20, temperature=0)
    whole = llm.invoke(QUESTION)
    assert whole.content
    assert whole.usage_metadata["output_tokens"] > 0

    streamed = "".join(str(chunk.content) for chunk in llm.stream(QUESTION))
    assert streamed == whole.content, (streamed, whole.content)

    assert asyncio.run(llm.ainvoke(QUESTION)).content == whole.content

    turns = [("system", "Be brief."), ("human", QUESTION), ("ai", whole.content), ("human", "Why?")]
    assert llm.invoke(turns).content

    by_responses = llm.model_copy(update={"use_responses_api": True})
    assert by_responses.invoke(QUESTION).text

    asked = ChatOpenAI(model="local", base_url=URL, api_key="none", max_tokens=80, temperature=0)
    city = asked.with_structured_output(City, method="json_schema").invoke("Tell me about Paris.")
    assert isinstance(city, City), city
    print("langchain-openai: whole, streamed, async, turns, responses, parsed: as expected")


if __name__ == "__main__":
    main()
