from __future__ import annotations
from typing import Any
from tests.serve.conftest import ask
def test_x(client: Any) -> None:
    c=client
    print(c.get("/v1/models").text)
    r=c.post("/v1/chat/completions",json=ask())
    print(r.status_code,r.text)
    r=c.post("/v1/chat/completions",json=ask(stream=True,stream_options={"include_usage":True},logprobs=True))
    print(r.status_code,r.text[:3000])
    for x in ({}, {"model":"x","messages":[{"role":"user","content":[{"type":"image_url"}]}]},{"model":"x","messages":[{"role":"tool","content":"s"}]},{"model":"wS_m","messages":[{"role":"user","content":"s"}],"n":9},[],ask(stop=["x"]*99),ask(stop=[1])):
        r=c.post("/v1/chat/completions",json=x); print(r.status_code,r.text)
    print(c.get("/x").text, c.put("/v1/models").text, c.put("/v1/models").headers)
    for i in range(3):
        print(c.post("/stream",json={"prompt":"hi","history":[]}).text)
    print(c.get("/metrics").text[:1000])
    print(c.get("/docs").status_code, c.get("/openapi.json").text[:1000])
