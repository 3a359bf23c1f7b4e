"""How many requests does a run over S3 make?

    python benchmarks/s3_requests.py [--files 50,250]

Embeds so many short WAV files from a bucket into a bucket, on a server on this machine (moto, extra
test), and counts the requests that it gets by their kind; twice, the second time with nothing to
do. The difference between the two numbers of files is what a file costs.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections import Counter
from typing import Any

import boto3
import numpy as np
import soundfile
import werkzeug.serving
from moto.server import ThreadedMotoServer

from loev_cli.embed import Request, embed

counted: Counter[str] = Counter()


def count(handler: Any, *_: object, **__: object) -> None:
    path = handler.path.partition("?")[0].strip("/")
    what = "object" if "/" in path else "bucket"
    counted[f"{handler.command} {what}"] += 1


def requests_of(n: int, client: Any) -> list[Counter[str]]:
    """Of a first and of a second run over so many files."""
    bucket = f"music{n}"
    client.create_bucket(Bucket=bucket)
    for i in range(n):
        wav = io.BytesIO()
        noise = np.random.default_rng(i).standard_normal(16_000)
        soundfile.write(wav, 0.1 * noise, 16_000, format="WAV")
        client.put_object(Bucket=bucket, Key=f"music/{i // 100:03}/{i:06}.wav", Body=wav.getvalue())
    found = []
    for _ in range(2):
        counted.clear()
        report = embed(Request([f"s3://{bucket}/music"], f"s3://{bucket}/emb.parquet"))
        assert report.n_rows == n and not report.failures
        found.append(Counter(counted))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", default="50,250")
    options = parser.parse_args()
    werkzeug.serving.WSGIRequestHandler.log_request = count  # type: ignore[method-assign]
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "XDG_CACHE_HOME": cache,
        }
        client = boto3.client("s3", region_name="us-east-1")
        print("| files | run | requests |\n|---|---|---|")
        for n in map(int, options.files.split(",")):
            for run, found in zip(("first", "second"), requests_of(n, client), strict=True):
                kinds = ", ".join(f"{kind} {k}" for kind, k in sorted(found.items()))
                print(f"| {n} | {run} | {kinds} |", flush=True)
    server.stop()


if __name__ == "__main__":
    main()
