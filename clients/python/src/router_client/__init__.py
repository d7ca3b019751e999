"""Client for the seek-stronger gateway: ask, and learn how sure the answer is.

>>> from router_client import RouterClient
>>> with RouterClient("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     answer = client.ask("What is the capital of France?")
...     print(answer.text, answer.router.route, answer.p_correct)
"""

from httpx import Timeout

from router_client._async_client import AsyncRouterClient
from router_client._client import RouterClient
from router_client._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequest,
    Busy,
    ContextLengthExceeded,
    InvalidResponse,
    NotFound,
    PermissionDenied,
    RateLimited,
    RouterClientError,
    ServerError,
    StreamInterrupted,
    UpstreamFailed,
)
from router_client._models import (
    Answer,
    BudgetInfo,
    Decision,
    Feedback,
    FunctionCall,
    Health,
    LocalAnswer,
    Message,
    ModelInfo,
    Reason,
    Route,
    RouterInfo,
    RouterUsage,
    StreamEnd,
    StreamEvent,
    TextDelta,
    Timings,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from router_client._stream import AsyncStream, Stream
from router_client._types import NOT_GIVEN, MessageLike, Mode, NotGiven, Prompt, StreamMode
from router_client._version import __version__

__all__ = [
    "NOT_GIVEN",
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "Answer",
    "AsyncRouterClient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequest",
    "BudgetInfo",
    "Busy",
    "ContextLengthExceeded",
    "Decision",
    "Feedback",
    "FunctionCall",
    "Health",
    "InvalidResponse",
    "LocalAnswer",
    "Message",
    "MessageLike",
    "Mode",
    "ModelInfo",
    "NotFound",
    "NotGiven",
    "PermissionDenied",
    "Prompt",
    "RateLimited",
    "Reason",
    "Route",
    "RouterClient",
    "RouterClientError",
    "RouterInfo",
    "RouterUsage",
    "ServerError",
    "Stream",
    "StreamEnd",
    "StreamEvent",
    "StreamInterrupted",
    "StreamMode",
    "TextDelta",
    "Timeout",
    "Timings",
    "ToolCall",
    "ToolCallDelta",
    "UpstreamFailed",
    "Usage",
    "__version__",
]
