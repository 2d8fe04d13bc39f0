"""Asks the demo model about a picture, with the official OpenAI client, token by token.

Usage: python examples/chat.py [PICTURE] [QUESTION]
OPENAI_BASE_URL names another address than http://127.0.0.1:8000/v1.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

picture = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "picture.png")
question = sys.argv[2] if len(sys.argv) > 2 else "What is in the picture?"
url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
stream = client.chat.completions.create(
    model="demo-vl",
    messages=[
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
        }
    ],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
