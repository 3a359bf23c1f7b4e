"""Files that somebody else may have prepared: opened without following links, read within bounds.

own         our own files and folders beside an output: never through a link
bounded     text, JSON and TOML of limited size and depth
npz         NumPy archives whose headers are checked before an array is allocated
protobuf    the little of ONNX that has to be known before a graph is opened
"""
