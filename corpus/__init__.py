"""Music with exactly known key and tempo, rendered from MIDI with soundfonts.

`theory` names keys and chords, `patterns` writes bass lines and drum beats, `songs` reads POP909,
`arrange` turns one song into one random arrangement, `instruments` has it played by others,
`synth` turns notes into sound. Two programs use them: `python -m corpus.pop909` (training and
evaluation audio) and `python -m corpus.examples` (the clips in `examples/music`).

Music without labels, for training alone: `python -m corpus.pieces` renders MIDI files (`midi`),
scores (`scores`) and what `composed` writes, in clips drawn by `perform`; `python -m corpus.debian`
fetches recordings; `python -m corpus.join` makes one manifest of several. Nothing in `loev_cli`
imports this folder.
"""
