"""One peer on a list of files, one process per core; prints JSON. Run by embed_speed.py.

PYTHON benchmarks/embed_peers.py librosa 2 a.mp3 b.mp3 ...
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor


def librosa(file: str) -> None:
    """Only what comes before a model: decode, resample to 16 kHz, 96 mel bands."""
    import librosa

    samples, rate_hz = librosa.load(file, sr=16000)
    librosa.feature.melspectrogram(y=samples, sr=rate_hz, n_mels=96)


def essentia(file: str) -> None:
    import essentia.standard

    essentia.log.infoActive = False
    essentia.standard.MusicExtractor()(file)


def torchopenl3(file: str) -> None:
    import soundfile
    import torch
    import torchopenl3

    torch.set_num_threads(1)
    samples, rate_hz = soundfile.read(file)
    torchopenl3.get_audio_embedding(
        samples, rate_hz, content_type="music", embedding_size=512, hop_size=0.5
    )


def openl3(file: str) -> None:
    import openl3
    import soundfile

    samples, rate_hz = soundfile.read(file)
    openl3.get_audio_embedding(samples, rate_hz, content_type="music", hop_size=0.5)


def musicnn(file: str) -> None:
    from musicnn.extractor import extractor

    extractor(file, model="MTT_musicnn")


PEERS = {peer.__name__: peer for peer in (librosa, essentia, torchopenl3, openl3, musicnn)}


def main() -> None:
    name, n_workers, *files = sys.argv[1:]
    importlib.import_module(name)
    with ProcessPoolExecutor(int(n_workers)) as pool:
        list(pool.map(PEERS[name], files[: int(n_workers)]))  # imports, compilation, caches
        began = time.monotonic()
        list(pool.map(PEERS[name], files))
        print(json.dumps({"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
